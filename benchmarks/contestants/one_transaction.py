"""The service without group commit: each request is a transaction of its own.

The same store, retries, HTTP and uWSGI settings; only the allocator differs.
"""

from __future__ import annotations

import time
from typing import Any

from per_thread import PerThread

from uniqueid import config, service
from uniqueid.database import schema
from uniqueid.model import Allocation
from uniqueid.web.app import make_app
from uniqueid.web.parameters import Limits


class OneTransaction:
    """An allocator whose callers each go to the database by themselves."""

    def __init__(self) -> None:
        configuration = config.load()
        self.timeout = configuration.settings.request_timeout
        store = service.make_store(configuration)
        schema.require(store)
        store.disconnect()
        # A store is for one thread at a time.
        self.stores = PerThread(lambda: service.make_store(configuration))

    def allocate(self, mode: str, count: int, record: object = None) -> Allocation:
        """A range of `count` IDs."""
        deadline = time.monotonic() + self.timeout
        outcome: Any = self.stores.get().advance({mode: count}, {}, deadline=deadline)[mode]
        if isinstance(outcome, Exception):
            raise outcome
        return Allocation(int(outcome.first), 1)


application = make_app(OneTransaction(), Limits())
