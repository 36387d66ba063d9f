"""A network of its own for commands that say port 8051 themselves."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import servers


class Network:
    """A network namespace with its own loopback interface.

    Where the kernel grants none, as in a container without rights, it is the machine's own
    network, for one user of this class at a time.
    """

    def __enter__(self) -> Network:
        self.prefix: list[str] = []
        self.holder: subprocess.Popen[bytes] | None = None
        self.lock: IO[str] | None = None
        for more, enter in (([], []), (["--map-root-user"], ["--user", "--preserve-credentials"])):
            holder = subprocess.Popen(
                ["unshare", *more, "--net", "sh", "-c"]
                + ["PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && echo up && exec sleep 3600"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert holder.stdout is not None
            if holder.stdout.readline() == b"up\n":
                self.holder = holder
                self.prefix = ["nsenter", "-t", str(holder.pid), "--net", *enter]
                return self
            holder.stdout.close()
            holder.wait()
        self.lock = (Path(tempfile.gettempdir()) / "uniqueid-test-8051.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        servers.wait_until(lambda: not servers.listens(8051), "port 8051 getting free")
        return self

    def __exit__(self, *_args: object) -> None:
        if self.holder is not None and self.holder.stdout is not None:
            self.holder.kill()
            self.holder.wait()
            self.holder.stdout.close()
        if self.lock is not None:
            self.lock.close()


def end(server: subprocess.Popen[bytes], command: str) -> None:
    """End a server that was started with a command of the documentation."""
    # SIGTERM means a reload to a uWSGI without the shipped uwsgi.ini. Its worker then ends within
    # the handler of a signal, which can stop for good; after a minute the master kills it.
    reloads = command.startswith("uwsgi") and "uwsgi.ini" not in command
    server.send_signal(signal.SIGQUIT if reloads else signal.SIGTERM)
    try:
        server.wait(2 * servers.START_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        raise
