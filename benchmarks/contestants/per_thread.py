"""A connection for each thread, made when it first asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class PerThread:
    """
    :param connect: makes one.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._local = threading.local()

    def get(self) -> Any:
        """The calling thread's."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        return self._local.connection
