"""Threads of the service's own, apart from those of its server, and what all of them share."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

_M_ARENA_MAX = -8
"""mallopt's parameter, as glibc's malloc.h has it."""


def share_memory() -> bool:
    """Have the C library serve all threads from two arenas instead of eight for each CPU.

    Python runs one thread at a time, so more of them gain nothing, and each keeps what was freed in
    it: with 48 threads that run in turn, 12 MiB (mallopt(3), M_ARENA_MAX). MALLOC_ARENA_MAX in the
    environment is an operator's own choice and stays.

    :returns: whether it did; other C libraries than glibc have no such thing.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_ARENA_MAX, 2))


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
