"""The service's own threads leave signals to the server's."""

from __future__ import annotations

import signal

from uniqueid.runtime import threads


def test_no_signal_interrupts_a_thread_of_the_service() -> None:
    """Each that can be is blocked in it, and the thread which starts it keeps its own."""
    seen: list[set[signal.Signals]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    thread = threads.start(lambda: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "it")
    thread.join(30)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT} <= seen[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert thread.daemon
