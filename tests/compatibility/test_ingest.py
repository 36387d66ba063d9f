"""Pacifica Ingest 0.4.1, the consumer, against the service.

Ingest is real: its REST frontend, its tasks (run within the request), its client code. What
stands in are the services behind it that are not ours: policy, archive interface and metadata.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import servers

from compatibility import upstream

# Ingest's own command, with its tasks run at once instead of being sent to a broker.
EAGER = """
import sys
from pacifica.ingest.tasks import INGEST_APP
INGEST_APP.conf.task_always_eager = True
INGEST_APP.conf.task_eager_propagates = True
# As a worker does before its first task: Celery binds tasks at their first use, and of two requests
# that come at once the second meets one which is bound by half.
INGEST_APP.finalize()
from pacifica.ingest.__main__ import main
main(sys.argv[1:])
"""
GET_UNIQUE_ID = """
import json, sys
from pacifica.ingest.utils import get_unique_id
print(json.dumps([[int(size), mode, get_unique_id(int(size), mode)]
                  for size, mode in (word.split(":") for word in sys.argv[1:])]))
"""


def package() -> Path:
    """The programs of Ingest; six is missing from what it says it needs."""
    return upstream.environment(
        "ingest-0.4.1", "pacifica-ingest==0.4.1", "six", "celery<6", *upstream.OLD
    )


class Neighbours:
    """Policy, archive interface and metadata: three real HTTP servers that remember."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.validated: list[Any] = []
        self.metadata: list[Any] = []
        neighbours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers["Content-Length"]))

            def answer(self, document: object) -> None:
                text = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self) -> None:
                assert self.path == "/policy"
                neighbours.validated.append(json.loads(self.body()))
                self.answer({"status": "success"})

            def do_PUT(self) -> None:
                content = self.body()
                if self.path == "/metadata":
                    neighbours.metadata.append(json.loads(content))
                    self.answer({"status": "success"})
                else:
                    number = self.path.removeprefix("/archive/")
                    # The archive would overwrite a file whose ID was allocated twice.
                    assert number not in neighbours.files
                    neighbours.files[number] = content
                    self.answer({"total_bytes": str(len(content))})

            def do_PATCH(self) -> None:
                number = self.path.removeprefix("/archive/")
                assert number not in neighbours.moved
                neighbours.moved[number] = json.loads(self.body())["path"]
                self.answer({"message": "File Moved Successfully"})

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Ingest(servers.Process):
    """Ingest's REST frontend."""

    def __init__(self, uniqueid_url: str, neighbours: Neighbours, peewee_url: str) -> None:
        super().__init__()
        self.peewee_url = peewee_url
        self.uniqueid_url = uniqueid_url
        self.neighbours = neighbours
        self.cpconfig = self.directory / "cpconfig.ini"
        self.cpconfig.write_text(upstream.CHERRYPY_FILE)
        self.volume = self.directory / "volume"
        self.volume.mkdir()

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "UNIQUEID_URL": self.uniqueid_url,
            "POLICY_INGEST_URL": f"{self.neighbours.url}/policy",
            "ARCHIVEINTERFACE_URL": f"{self.neighbours.url}/archive",
            "METADATA_INGEST_URL": f"{self.neighbours.url}/metadata",
            "VOLUME_PATH": str(self.volume),
            "PEEWEE_URL": self.peewee_url,
            "BROKER_URL": "memory://",
            "BACKEND_URL": "cache+memory://",
        }

    def command(self) -> list[str]:
        return [
            str(package() / "python"), "-W", "ignore", "-c", EAGER,
            "--cp-config", str(self.cpconfig), "-p", str(self.port), "-a", "127.0.0.1",
        ]  # fmt: skip

    def start(self) -> None:
        self.run(str(package() / "pacifica-ingest-cmd"), "dbsync")
        super().start()

    def run(self, *command: str) -> str:
        """Run a program with Ingest's settings; what it prints."""
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment(),
            timeout=servers.START_TIMEOUT,
        ).stdout

    def get_unique_id(self, *words: str) -> list[tuple[int, str, int]]:
        """What Ingest's own function returns for ranges like ``3:file``."""
        printed = self.run(str(package() / "python"), "-W", "ignore", "-c", GET_UNIQUE_ID, *words)
        return [tuple(item) for item in json.loads(printed)]

    def post(self, path: str, content: bytes, content_type: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", content, {"Content-Type": content_type}
        )
        try:
            with urllib.request.urlopen(request, timeout=servers.START_TIMEOUT) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            log = self.log.read_text(errors="replace")
            raise AssertionError(f"Ingest answered {error.code}: {said}\n{log[-8000:]}") from None
        return answer


def described(names: list[str]) -> list[dict[str, Any]]:
    """The metadata of a bundle."""
    files = [
        {
            "destinationTable": "Files",
            "name": name,
            "subdir": "data/",
            "source": f"/mnt/{name}",
            "hashtype": "sha1",
            "hashsum": hashlib.sha1(content_of(name)).hexdigest(),
            "size": len(content_of(name)),
        }
        for name in names
    ]
    return [{"destinationTable": "Transactions.submitter", "value": 34002}, *files]


def content_of(name: str) -> bytes:
    return f"the content of {name}\n".encode() * 500


def bundle(names: list[str]) -> bytes:
    """A tar as the uploader makes it."""
    made = io.BytesIO()
    members = [("metadata.txt", json.dumps(described(names)).encode())]
    members += [(f"data/{name}", content_of(name)) for name in names]
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path, content in members:
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def jobs_url(postgresql: servers.PostgreSQL) -> str:
    """A database for Ingest's jobs; its dbsync works on PostgreSQL alone."""
    return postgresql.url(postgresql.new_database())


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    """What Ingest talks to besides us."""
    stand_ins = Neighbours()
    yield stand_ins
    stand_ins.close()


def upload(ingest: Ingest, names: list[str]) -> int:
    """Upload a bundle, which must succeed; the number of its job."""
    state = ingest.post("/upload", bundle(names), "application/octet-stream")
    return succeeded(state)


def move(ingest: Ingest, names: list[str]) -> int:
    """Have files taken over which are there already; the number of the job."""
    state = ingest.post("/move", json.dumps(described(names)).encode(), "application/json")
    return succeeded(state)


def succeeded(state: dict[str, Any]) -> int:
    assert state["state"] == "OK", state
    assert state["task"] == "ingest metadata", state
    assert float(state["task_percent"]) == 100
    assert state["complete"] is True
    return int(state["job_id"])


@pytest.mark.parametrize(
    ("server", "slash"), [(servers.Service, ""), (servers.Service, "/"), (servers.BuiltIn, "/")]
)
def test_uploads_of_several_files_and_of_none_succeed(
    server: type[servers.Service],
    slash: str,
    database_url: str,
    neighbours: Neighbours,
    jobs_url: str,
) -> None:
    """Each file reaches the archive under an ID of its own; a bundle without files goes through."""
    service = server(database_url)
    with servers.running(service):
        ingest = Ingest(service.url + slash, neighbours, jobs_url)
        with servers.running(ingest):
            assert upload(ingest, ["a", "b", "c"]) == 1
            assert upload(ingest, []) == 2
            assert upload(ingest, ["d"]) == 3
            assert move(ingest, ["e", "f"]) == 4
            assert move(ingest, []) == 5
            assert upload(ingest, ["g", "h"]) == 6
            assert list(ingest.volume.iterdir()) == []
            assert ingest.get_unique_id("0:file", "1:file") == [(0, "file", -1), (1, "file", 9)]
        assert service.allocate("upload_job", 1) == (7, 7)
    assert neighbours.files == {
        number: content_of(name)
        for number, name in zip("123478", ["a", "b", "c", "d", "g", "h"], strict=True)
    }
    assert neighbours.moved == {"5": "/mnt/e", "6": "/mnt/f"}
    assert [transaction(metadata) for metadata in neighbours.metadata] == [1, 2, 3, 4, 5, 6]
    assert len(neighbours.validated) == 6
    numbers = [
        item["_id"]
        for metadata in neighbours.metadata
        for item in metadata
        if item["destinationTable"] == "Files"
    ]
    assert numbers == list(range(1, 9))


def transaction(metadata: list[dict[str, Any]]) -> int:
    """The number of the transaction that metadata belong to."""
    (found,) = (
        item["value"] for item in metadata if item["destinationTable"] == "Transactions._id"
    )
    return int(found)


def test_uploads_at_the_same_time_share_no_id(
    database_url: str, neighbours: Neighbours, jobs_url: str
) -> None:
    """Jobs and files of several uploaders at once are numbered without a duplicate or a gap."""
    service = servers.Service(database_url)
    with servers.running(service):
        ingest = Ingest(service.url, neighbours, jobs_url)
        with servers.running(ingest), ThreadPoolExecutor(6) as pool:
            sizes = [3, 0, 1, 4, 2, 5]
            names = [
                [f"{job}-{number}" for number in range(size)] for job, size in enumerate(sizes)
            ]
            # More uploaders, as processes of their own.
            others = [
                pool.submit(ingest.get_unique_id, *["2:file", "1:upload_job", "0:file"] * 4)
                for _process in range(2)
            ]
            jobs = list(pool.map(lambda bundle_names: upload(ingest, bundle_names), names))
            taken = [job for answer in others for job in answer.result(servers.START_TIMEOUT)]
    files = [first + step for size, mode, first in taken if mode == "file" for step in range(size)]
    files += map(int, neighbours.files)
    jobs += [first for _size, mode, first in taken if mode == "upload_job"]
    assert sorted(files) == list(range(1, 1 + 2 * 4 * 2 + sum(sizes)))
    assert sorted(jobs) == list(range(1, 1 + 2 * 4 + len(sizes)))
