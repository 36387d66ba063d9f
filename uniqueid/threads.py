"""Threads of the service's own, beside those of the server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def start(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread which no signal interrupts.

    A signal to the process goes to any thread that does not block it, and uWSGI's handlers run the
    exit hooks there and then: in the committer, which would wait for its own end.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        thread.start()
        return thread
    # Inherited, so that there is no moment without it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
