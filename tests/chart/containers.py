"""The image built by buildah and run by podman, both with a storage of their own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import servers
from servers import CHECKOUT, START_TIMEOUT, wait_until

HOME = CHECKOUT / ".venv/containers"
STORAGE = ["--root", str(HOME / "storage"), "--runroot", str(HOME / "run")]
PODMAN = ["podman", *STORAGE, "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
IMAGE = "localhost/uniqueid:test"
BASE = "docker.io/library/python:3.13-slim-trixie"
"""The Dockerfile's base. Debian's own Python of that version stands in for it, since no registry
need be in reach."""
_SUITE = "trixie"
# ensurepip for the venv, and the headers, which the real image has below /usr/local.
_PACKAGES = "python3,python3-venv,libpython3-dev,ca-certificates"


def call(*command: str, **options: Any) -> str:
    """Run a command that must succeed; its output."""
    answer = subprocess.run(command, capture_output=True, text=True, **options)
    assert answer.returncode == 0, f"{' '.join(command)}\n{answer.stdout}\n{answer.stderr}"
    return answer.stdout


def buildah(*arguments: str) -> str:
    """Run buildah with its own storage."""
    return call("buildah", *STORAGE, *arguments).strip()


def podman(*arguments: str) -> str:
    """Run podman with the same storage."""
    return call(*PODMAN, *arguments).strip()


def make_base() -> None:
    """Make what stands in for the base image, unless it was made before."""
    HOME.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(f"{_SUITE} {_PACKAGES}".encode()).hexdigest()[:12]
    stamp = f"localhost/base:{recipe}"
    if subprocess.run(["buildah", *STORAGE, "inspect", stamp], capture_output=True).returncode:
        with tempfile.TemporaryDirectory(dir=HOME) as directory:
            archive = f"{directory}/base.tar"
            call(
                *["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}"],
                *[
                    "--dpkgopt=path-exclude=/usr/share/man/*",
                    "--dpkgopt=path-exclude=/usr/share/doc/*",
                ],
                *["--dpkgopt=path-exclude=/usr/share/locale/*", _SUITE, archive],
            )
            container = buildah("from", "scratch")
            buildah("add", "-q", container, archive, "/")
            buildah("commit", "-q", "--rm", container, stamp)
    buildah("tag", stamp, BASE)


@contextlib.contextmanager
def loans() -> Iterator[list[str]]:
    """Options of a build that lend it what this machine's pip needs, and take no other base."""
    with tempfile.TemporaryDirectory() as directory:
        options = ["--isolation=chroot", "--network=host", "--pull=never"]
        certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
        if certificates:
            # Where pip's requests look in the image, whatever its own pip.conf says.
            target = "/etc/ssl/certs/ca-certificates.crt"
            options.append(f"--volume={Path(certificates).resolve()}:{target}:ro")
            configuration = Path(directory) / "pip.conf"
            configuration.write_text(f"[global]\ncert = {target}\n")
            options.append(f"--volume={configuration}:/etc/pip.conf:ro")
        yield options


def make_image(image: str, **environment: str) -> str:
    """`make image` under a name; what it prints."""
    with loans() as options:
        return call(
            *["make", "image", f"IMAGE={image}", f"IMAGE_ARGS={' '.join(options)}"],
            cwd=CHECKOUT,
            env={**os.environ, "IMAGE": image, **environment},
        )


def build() -> None:
    """Make the image as `make image` does."""
    make_base()
    make_image(IMAGE, CONTAINER_TOOL=f"buildah {' '.join(STORAGE)}")


def inspect() -> dict[str, Any]:
    """What podman knows of the image."""
    answer: dict[str, Any] = json.loads(podman("image", "inspect", IMAGE))[0]
    return answer


def clean_up() -> None:
    """Take back what podman leaves mounted, so that the directory can be removed."""
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(str(HOME)):
            subprocess.run(["umount", "-l", place], check=True)


# As an orchestrator would: nothing that the service does not need.
HARDENED = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp:size=16m,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=128m",
    "--memory-swap=128m",
    "--cpus=1",
    "--pids-limit=200",
    # Below what some machines allow, so that they can be set.
    "--ulimit=nofile=4096:4096",
    "--ulimit=nproc=4096:4096",
]


class Container:
    """A container of the image with the network of the host, on a free port."""

    def __init__(
        self,
        *arguments: str,
        data: Path | None = None,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        ini: str | None = None,
    ) -> None:
        """
        :param arguments: for the image's entry point.
        :param data: what is mounted at /data.
        :param options: more options for podman.
        :param ini: the uwsgi.ini to use in place of the image's own.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="uniqueid-test-"))
        self.port = servers.free_port()
        self.name = f"uniqueid-test-{os.getpid()}-{self.port}"
        file = self.directory / "uwsgi.ini"
        text = (CHECKOUT / "uwsgi.ini").read_text() if ini is None else ini
        assert text.count(":8051\n") == 1
        # The one thing that differs from the shipped file: other tests use the port as well.
        file.write_text(text.replace(":8051\n", f":{self.port}\n"))
        # systemd would run the check, where it is.
        self.options = [
            *HARDENED,
            "--no-healthcheck",
            "--network=host",
            f"--volume={file}:/etc/uniqueid/uwsgi.ini:ro",
        ]
        if data is not None:
            self.options.append(f"--volume={data}:/data")
        for name, value in (environment or {}).items():
            self.options.append(f"--env={name}={value}")
        self.options += options
        self.arguments = arguments

    def command(self, *arguments: str) -> list[str]:
        return [*PODMAN, "run", f"--name={self.name}", *self.options, IMAGE, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end and remove it; arguments go in place of the container's own."""
        command = self.command(*(arguments or self.arguments))
        command.insert(len(PODMAN) + 1, "--rm")
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def launch(self) -> None:
        """Start without waiting until it serves."""
        command = self.command(*self.arguments)
        command.insert(len(PODMAN) + 1, "--detach")
        call(*command)

    def sync(self) -> None:
        """Create the tables, as each documented start does it once."""
        answer = self.run("pacifica-uniqueid-cmd", "dbsync")
        assert answer.returncode == 0, answer.stderr

    def start(self) -> None:
        """Start, and return when it serves."""
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.state() in ("created", "running"), self.logs()
            return self.ready()

        wait_until(ready, "the container serving", 2 * START_TIMEOUT)

    def ready(self) -> bool:
        return self.responds("/readyz")

    def responds(self, path: str) -> bool:
        """Whether a path is answered with 200."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get(path)[0] == 200
        return False

    def state(self) -> str:
        return podman("inspect", "--format={{.State.Status}}", self.name)

    def exit_status(self) -> int:
        """Wait for its end; the status."""
        return int(podman("wait", self.name))

    def logs(self) -> str:
        answer = subprocess.run([*PODMAN, "logs", self.name], capture_output=True, text=True)
        return answer.stdout + answer.stderr

    def exec(self, *command: str) -> str:
        return podman("exec", self.name, *command)

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, Any]:
        """GET; status and JSON."""
        connection = http.client.HTTPConnection(host, self.port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        text = response.getheader("Content-Type", "").startswith("text/")
        return response.status, body.decode() if text else json.loads(body)

    def allocate(self, mode: str, count: int) -> tuple[int, int]:
        """One range, first and last, which must not fail."""
        status, answer = self.get(f"/getid?range={count}&mode={quote(mode)}")
        assert status == 200, answer
        return answer["startIndex"], answer["endIndex"]

    def load(self, mode: str, clients: int, requests: int) -> list[tuple[int, int]]:
        """What clients get, each over one connection of its own; none may fail."""
        ranges: list[tuple[int, int]] = []
        failures: list[str] = []
        together = threading.Barrier(clients)

        def client(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            try:
                connection.connect()
                together.wait(120)
                for turn in range(requests):
                    count = (number + turn) % 7 + 1
                    connection.request("GET", f"/getid?range={count}&mode={quote(mode)}")
                    response = connection.getresponse()
                    body = response.read()
                    if response.status != 200:
                        failures.append(f"{response.status} {body!r}")
                        continue
                    answer = json.loads(body)
                    ranges.append((answer["startIndex"], answer["endIndex"]))
            except (OSError, http.client.HTTPException, threading.BrokenBarrierError) as error:
                failures.append(repr(error))
            finally:
                connection.close()

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, (len(failures), failures[:3], self.logs()[-2000:])
        return ranges

    def memory(self) -> tuple[int, int]:
        """The most memory it has had, in bytes, and how often it was short of memory and killed.

        Of both versions of control groups; the kernel's page cache counts as well.
        """
        script = (
            "cd /sys/fs/cgroup; cat memory.peak || cat memory/memory.max_usage_in_bytes;"
            " cat memory.events memory/memory.oom_control"
        )
        answer = subprocess.run(
            [*PODMAN, "exec", self.name, "sh", "-c", script], capture_output=True, text=True
        ).stdout
        peak, *events = answer.splitlines()
        (kills,) = [line.split()[1] for line in events if line.split()[0] == "oom_kill"]
        return int(peak), int(kills)

    def accepted(self) -> int:
        """Connections which the service has accepted and not closed."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in lines]
        # Local port, state ESTABLISHED, and an inode: one that waits to be accepted has none.
        return sum(
            int(row[1].split(":")[1], 16) == self.port and row[3] == "01" and row[9] != "0"
            for row in rows
        )

    def remove(self) -> None:
        subprocess.run([*PODMAN, "rm", "-f", "-t", "0", "-i", self.name], capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def container(*arguments: str, **options: Any) -> Iterator[Container]:
    """A container that is not started, and removed at the end of a block."""
    made = Container(*arguments, **options)
    try:
        yield made
    finally:
        made.remove()
