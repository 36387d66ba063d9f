"""Threads of the service's own, apart from those of its server."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def start(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread to which the system delivers no signal.

    Signals are the server's business, and it expects them in its own threads: uWSGI ends a worker
    inside the handler, in whichever thread that runs. In the committer it would wait for itself.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    if not hasattr(signal, "pthread_sigmask"):
        thread.start()
        return thread
    # A new thread has the mask of the one that starts it (pthread_create(3)).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
