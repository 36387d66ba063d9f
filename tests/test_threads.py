"""The service's own threads leave signals to the server's, and all share memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from uniqueid import threads


def test_no_signal_interrupts_a_thread_of_the_service() -> None:
    """Each that can be is blocked in it, and the thread which starts it keeps its own."""
    seen: list[set[signal.Signals]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    thread = threads.start(lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "it")
    thread.join(30)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT} <= seen[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert thread.daemon


ARENAS = """
import ctypes, sys, threading
from uniqueid.threads import share_memory

print(share_memory() if sys.argv[1] == "shared" else None, flush=True)
barrier = threading.Barrier(17)


def work():
    # Beyond Python's own small blocks, so that the C library is asked.
    kept = bytearray(5000)
    barrier.wait(30)
    barrier.wait(30)


workers = [threading.Thread(target=work) for _ in range(16)]
for worker in workers:
    worker.start()
barrier.wait(30)
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
library.malloc_info(0, ctypes.c_void_p(out := library.fdopen(1, b"w")))
library.fflush(ctypes.c_void_p(out))
barrier.wait(30)
"""


def arenas(how: str, **environment: str) -> tuple[str, int]:
    """What `share_memory` said, and how many arenas 16 threads got from the C library."""
    text = subprocess.run(
        [sys.executable, "-c", ARENAS, how],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return text.splitlines()[0], text.count("<heap nr=")


def test_all_threads_share_two_arenas() -> None:
    """Without it they would have several each CPU; what an operator has chosen stays."""
    assert arenas("as it is")[1] > 2
    assert arenas("shared") == ("True", 2)
    assert arenas("shared", MALLOC_ARENA_MAX="3") == ("False", 3)
