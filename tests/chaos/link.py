"""A network namespace that is connected to this machine by a link of its own, which can be cut."""

from __future__ import annotations

import os
import secrets
import subprocess
from types import TracebackType

import servers


class Link:
    """A virtual Ethernet pair: one end in this network, the other in a namespace of its own."""

    def __init__(self) -> None:
        name = secrets.token_hex(4)
        self.device = f"veth{name}"
        net = f"10.231.{secrets.randbelow(256)}"
        self.network = f"{net}.0/30"
        self.here = f"{net}.1"
        """The address of this machine, as the namespace sees it."""
        self.there = f"{net}.2"
        """The address of the namespace."""

    def __enter__(self) -> Link:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo up && exec sleep 3600"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        pid = str(self._holder.pid)
        self.prefix = ["nsenter", "-t", pid, "--net"]
        self._ip("link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._ip("addr", "add", f"{self.here}/30", "dev", self.device)
        self._ip("addr", "add", f"{self.there}/30", "dev", "eth0", inside=True)
        for device, inside in (("lo", True), ("eth0", True), (self.device, False)):
            self._ip("link", "set", device, "up", inside=inside)
        return self

    def cut(self) -> None:
        """Lose every packet from now on; no connection is told."""
        self._ip("link", "set", self.device, "down")

    def mend(self) -> None:
        """Deliver packets again."""
        self._ip("link", "set", self.device, "up")

    def _ip(self, *arguments: str, inside: bool = False) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        prefix = self.prefix if inside else []
        subprocess.run([*prefix, servers.sbin("ip"), *arguments], check=True, env={"PATH": path})

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # Its namespace ends with its last process, and the link with it.
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
