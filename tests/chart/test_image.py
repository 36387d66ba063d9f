"""The container image, built by buildah and run by podman as an orchestrator would."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cases
import containers
import helm
import pytest
import servers
import yaml
from containers import PODMAN, container
from servers import BIN, CHECKOUT, wait_until

from uniqueid import __version__

sys.path.insert(0, str(CHECKOUT / "tests/e2e"))

import verdict


def test_hadolint_is_quiet() -> None:
    """The Dockerfile has no smell that is not explained."""
    answer = subprocess.run(
        [BIN / "hadolint", CHECKOUT / "Dockerfile"], capture_output=True, text=True
    )
    assert (answer.returncode, answer.stdout) == (0, "")


def test_requirements_are_pinned_by_hash() -> None:
    """Every package in the image has one version and hashes, and they are those of setup.py."""
    from email.parser import HeaderParser

    text = (CHECKOUT / "requirements.txt").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+).*\\\n    --hash=sha256:", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(pinned) == len(lines)
    wheel = next((CHECKOUT / ".venv/dist").glob("pacifica_uniqueid-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("/METADATA")]
        metadata = archive.read(name).decode()
    wanted = {
        re.split(r"[^A-Za-z0-9-]", line)[0].lower()
        for line in HeaderParser().parsestr(metadata).get_all("Requires-Dist", [])
        if "extra ==" not in line or '"postgresql"' in line
    }
    assert wanted <= set(pinned)


def test_the_image_is_small_and_says_what_it_is(
    image: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    """Labels, user, port and entry point; size and layers beside those of the base are printed."""
    config = image["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "LGPL-3.0-or-later"
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.created"]
    assert config["User"] == "10001:10001"
    assert config["ExposedPorts"] == {"8051/tcp": {}}
    assert config["Entrypoint"][0].startswith("/")
    assert "Volumes" not in config or not config["Volumes"]
    base = containers.podman("image", "inspect", "--format={{.Size}}", containers.BASE)
    own = (image["Size"] - int(base)) / 2**20
    layers = len(image["RootFS"]["Layers"])
    record_property(
        "image",
        f"{image['Size'] / 2**20:.0f} MiB in {layers} layers, {own:.0f} MiB above the base;"
        f" built in {image['Seconds']:.0f} s",
    )
    # Of these, cryptography takes 14: MySQL's own authentication needs it without TLS.
    assert own < 45
    assert layers < 12


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_make_image_takes_the_tool_that_is_there(
    image: dict[str, Any], tmp_path: Path, tool: str
) -> None:
    """With nothing but podman, or buildah, on the path, `make image` builds the same with it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "sed", "git", "date", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    options = (PODMAN if tool == "podman" else ["buildah", *containers.STORAGE])[1:]
    command = shlex.join([str(shutil.which(tool)), *options])
    log = tmp_path / "log"
    # The real program, with its own path and this test's storage.
    path = shlex.quote(os.environ["PATH"])
    (programs / tool).write_text(f'#!/bin/sh\necho "$1" >>{log}\nPATH={path} exec {command} "$@"\n')
    (programs / tool).chmod(0o755)
    name = f"localhost/uniqueid-{tool}:test"
    containers.make_image(name, PATH=str(programs))
    try:
        assert log.read_text().split() == ["info", "build"]
        made = json.loads(containers.podman("image", "inspect", name))[0]
        assert made["Config"] == image["Config"]
        assert made["RootFS"] == image["RootFS"]
        assert made["Healthcheck"] == image["Healthcheck"]
    finally:
        containers.podman("image", "rm", name)


def test_make_image_says_what_to_install(tmp_path: Path) -> None:
    """Without any of the tools it ends with one line that names them."""
    for name in ("make", "sh", "sed", "git", "date", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    answer = subprocess.run(
        [str(shutil.which("make")), "image"],
        cwd=CHECKOUT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode != 0
    assert "install docker, podman or buildah\n" in answer.stderr


def test_the_image_has_no_tools_to_build_with(image: dict[str, Any]) -> None:
    """No compiler and no pip reach the image, and every library of uWSGI is there."""
    with container() as box:
        box.options += ["--entrypoint=/bin/sh"]
        tools = "for t in gcc cc c++ ld as make pip pip3; do command -v $t; done; true"
        assert box.run("-c", tools).stdout == ""
        linked = box.run("-c", "ldd /opt/uniqueid/bin/uwsgi")
        assert linked.returncode == 0, linked.stderr
        assert "not found" not in linked.stdout
        writable = "find / -xdev -writable -not -path '/proc/*' -not -type l 2>/dev/null; true"
        found = set(box.run("-c", writable).stdout.split())
        assert {path for path in found if not path.startswith(("/dev", "/tmp"))} <= {
            "/data",
            "/var/tmp",
            "/run/lock",
            "/var/lock",
        }


def test_a_hardened_container_serves(image: dict[str, Any], data: Path) -> None:
    """Read-only, without capabilities and privileges, in 128 MiB: it serves from SQLite."""
    with container(data=data) as box:
        box.sync()
        box.start()
        assert box.allocate("file", 10) == (1, 10)
        status = box.exec("cat", "/proc/1/status")
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert re.search(r"^Uid:\t10001\t", status, re.MULTILINE)
        # uWSGI's master itself is the first process, so that signals reach it.
        assert "uWSGI master" in box.exec("cat", "/proc/1/cmdline")
        limit = box.exec(
            "sh",
            "-c",
            "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
        )
        assert limit == str(128 * 2**20)
        refused = subprocess.run(
            [*PODMAN, "exec", box.name, "touch", "/etc/uniqueid/x"], capture_output=True, text=True
        )
        assert "Read-only file system" in refused.stderr


def test_the_health_check_takes_no_id(image: dict[str, Any], data: Path) -> None:
    """The image's own check, on the port of the image's own uwsgi.ini, and no counter moves."""
    check = image["Healthcheck"]
    assert check["Test"][0] == "CMD"
    with container(data=data) as box:
        box.sync()
        box.options = [o for o in box.options if "uwsgi.ini" not in o and "--network" not in o]
        box.options.append("--network=none")
        box.launch()

        def healthy() -> bool:
            assert box.state() in ("created", "running"), box.logs()
            answer = subprocess.run([*PODMAN, "exec", box.name, *check["Test"][1:]])
            return answer.returncode == 0

        wait_until(healthy, "the health check", 120)
        with sqlite3.connect(data / "db.sqlite3") as database:
            assert database.execute("SELECT * FROM uniqueindex").fetchall() == []
        database.close()


def test_an_unhealthy_service_is_told(image: dict[str, Any]) -> None:
    """The health check fails, with a line that says why, where nothing listens."""
    with container() as box:
        answer = box.run("--ready", f"http://127.0.0.1:{box.port}/readyz")
    assert answer.returncode == 1
    assert "Connection refused" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_sigterm_answers_what_was_accepted(image: dict[str, Any], data: Path) -> None:
    """Requests that wait for the database when SIGTERM comes are all answered, then it ends."""
    with container(data=data, environment={"UNIQUEID_REQUEST_TIMEOUT": "50"}) as box:
        box.sync()
        box.start()
        box.allocate("file", 1)
        lock = sqlite3.connect(data / "db.sqlite3", isolation_level=None, check_same_thread=False)
        lock.execute("BEGIN IMMEDIATE")
        answers: list[tuple[int, int]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(box.allocate("file", 5)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: box.accepted() == 20, "requests accepted")
        containers.podman("kill", "--signal=TERM", box.name)
        wait_until(lambda: "graceful shutdown triggered" in box.logs(), "the end beginning")
        lock.execute("ROLLBACK")
        lock.close()
        for thread in threads:
            thread.join(60)
        assert sorted(answers) == [(first, first + 4) for first in range(2, 102, 5)]
        assert box.exit_status() == 0


def test_data_survives(image: dict[str, Any], data: Path) -> None:
    """A killed, restarted and replaced container goes on where the last one stood."""
    with container(data=data) as box:
        box.sync()
        box.start()
        assert box.allocate("file", 10) == (1, 10)
        containers.podman("kill", "--signal=KILL", box.name)
        box.exit_status()
        containers.podman("start", box.name)
        box.wait_until_ready()
        assert box.allocate("file", 10) == (11, 20)
        containers.podman("stop", "--time=60", box.name)
    with container(data=data) as box:
        box.sync()
        box.start()
        assert box.allocate("file", 10) == (21, 30)


def test_sqlite_without_a_volume_is_refused(image: dict[str, Any]) -> None:
    """A read-only container with nowhere to keep its counters does not start at 1: it ends."""
    with container() as box:
        answer = box.run()
    assert answer.returncode == 2
    assert "user 10001 cannot write to /data: mount a volume there" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_volume_that_is_not_mounted_starts_no_counters(image: dict[str, Any]) -> None:
    """Without --read-only the container has an empty /data of its own: the start refuses it."""
    with container() as box:
        box.options.remove("--read-only")
        answer = box.run()
    assert answer.returncode == 1
    assert "every mode starts at 1 again. Mount a volume at /data" in answer.stderr
    assert "there is no file /data/db.sqlite3 yet" in answer.stderr
    assert "mount the volume that the counters are on" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_old_switch_creates_nothing(image: dict[str, Any], data: Path) -> None:
    """UNIQUEID_DBSYNC is ignored with a line that names the command."""
    with container(data=data, environment={"UNIQUEID_DBSYNC": "1"}) as box:
        answer = box.run()
    assert answer.returncode == 1
    assert "UNIQUEID_DBSYNC is ignored" in answer.stderr
    assert not list(data.iterdir())


def test_the_documented_backup_is_a_database(image: dict[str, Any], data: Path) -> None:
    """The command of docs/kubernetes.md copies the counters while the service runs."""
    text = (CHECKOUT / "docs/kubernetes.md").read_text()
    program = re.findall(r"-- python3 -c '\n(.*?)'", text, re.DOTALL)[-1]
    assert "VACUUM" in program
    with container(data=data) as box:
        box.sync()
        box.start()
        assert box.allocate("file", 7) == (1, 7)
        box.exec("python3", "-c", program)
        with sqlite3.connect(data / "backup.sqlite3") as database:
            assert database.execute("SELECT * FROM uniqueindex").fetchall() == [("file", 8)]
        database.close()


def test_the_old_container_s_environment_means_the_same(
    image: dict[str, Any], mariadb: servers.MariaDB
) -> None:
    """PEEWEE_PROTO and its like, with any password, which no process shows as an argument."""
    url = urlsplit(mariadb.url(mariadb.new_database()))
    environment = {
        "PEEWEE_PROTO": "mysql",
        "PEEWEE_USER": mariadb.USER,
        "PEEWEE_PASS": mariadb.PASSWORD,
        "PEEWEE_ADDR": "127.0.0.1",
        "PEEWEE_PORT": str(mariadb.port),
        "PEEWEE_DATABASE": url.path.removeprefix("/"),
        # What Kubernetes sets for a Service called uniqueid is no setting.
        "UNIQUEID_PORT": "tcp://10.0.0.1:8051",
        "UNIQUEID_SERVICE_HOST": "10.0.0.1",
    }
    with container(environment=environment) as box:
        answer = box.run()
        assert answer.returncode == 1
        assert "dbsync" in answer.stderr, "the tables of a shared database are made when told to"
    with container(environment=environment) as box:
        synced = box.run("pacifica-uniqueid-cmd", "dbsync")
        assert synced.returncode == 0, synced.stderr
        assert "new counters created" in synced.stderr
    with container(environment=environment) as box:
        box.start()
        assert box.allocate("file", 3) == (1, 3)
        arguments = box.exec("sh", "-c", "cat /proc/[0-9]*/cmdline")
        assert mariadb.PASSWORD not in arguments
        assert "p%40ss" not in arguments
        assert "p%40ss" not in box.logs()
        assert mariadb.PASSWORD not in box.logs()
        assert "is no setting" not in box.logs()


def test_the_image_does_not_contain_the_client(image: dict[str, Any], data: Path) -> None:
    """`probe` has to run where the clients run, not behind the proxies that it checks."""
    with container(data=data) as box:
        box.options += ["--entrypoint=python3"]
        answer = box.run("-c", "import uniqueid; import uniqueid_client")
    assert "No module named 'uniqueid_client'" in answer.stderr


CLIENTS = 64


@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_the_chart_s_memory_is_enough_for_64_clients(
    image: dict[str, Any],
    data: Path,
    kind: str,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """With the chart's limit of memory, 64 clients at once each get IDs of their own."""
    resources = yaml.safe_load((helm.CHART / "values.yaml").read_text())["resources"]
    limit = resources["limits"]["memory"]
    environment = {}
    if kind != "sqlite":
        server = request.getfixturevalue(kind)
        environment["UNIQUEID_DATABASE_URL"] = server.url(server.new_database())
    with container(data=data, environment=environment) as box:
        assert f"--memory={limit.removesuffix('i').lower()}" in box.options
        box.sync()
        box.start()
        ranges = box.load("file", CLIENTS, 40)
        assert len(ranges) == CLIENTS * 40
        assert verdict.overlap(ranges) is None
        # Gaps are allowed, and there is no reason for one here.
        assert sum(last - first + 1 for first, last in ranges) == max(last for _, last in ranges)
        peak, kills = box.memory()
        assert kills == 0
        told = f"on {kind}: {peak / 2**20:.0f} of {limit} of memory with {CLIENTS} clients"
        record_property("image", told)


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_pods_that_start_together_share_a_new_database(
    image: dict[str, Any], kind: str, request: pytest.FixtureRequest
) -> None:
    """Several init containers run dbsync at once, and their services hand out disjoint ranges."""
    server = request.getfixturevalue(kind)
    environment = {"UNIQUEID_DATABASE_URL": server.url(server.new_database())}
    with contextlib.ExitStack() as stack:
        pods = [stack.enter_context(container(environment=environment)) for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(len(pods)) as pool:
            command = ("pacifica-uniqueid-cmd", "dbsync")
            for answer in pool.map(lambda pod: pod.run(*command), pods):
                assert answer.returncode == 0, answer.stderr
            services = pods[:2]
            for service in services:
                service.start()
            got = list(pool.map(lambda pod: pod.load("file", 8, 25), services))
    ranges = [one for some in got for one in some]
    assert len(ranges) == 2 * 8 * 25
    assert verdict.overlap(ranges) is None


def test_a_start_that_waits_for_the_database_can_be_stopped(image: dict[str, Any]) -> None:
    """SIGTERM ends a container whose database does not answer; it does not wait for the kill."""
    nowhere = f"mysql://u:p@127.0.0.1:{servers.free_port()}/x"
    with container(environment={"UNIQUEID_DATABASE_URL": nowhere}) as box:
        box.launch()
        wait_until(lambda: "attempt 1 of 10" in box.logs(), "the first attempt", 120)
        containers.podman("kill", "--signal=TERM", box.name)
        assert box.exit_status() == 128 + 15


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PEEWEE_PROTO": "oracle"}, "= 'oracle' (PEEWEE_PROTO): must be one of sqlite"),
        ({"UNIQUEID_MAX_RANGE": "all"}, "max_range = 'all' (UNIQUEID_MAX_RANGE): must be a whole"),
    ],
    ids=str,
)
def test_a_bad_environment_ends_with_one_line(
    image: dict[str, Any], data: Path, environment: dict[str, str], sentence: str
) -> None:
    """What cannot be used is named with its value and with what is allowed."""
    with container(data=data, environment=environment) as box:
        answer = box.run()
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_command_runs_in_the_image(image: dict[str, Any], data: Path) -> None:
    """`pacifica-uniqueid-cmd` as an argument runs with the environment of the service."""
    with container(data=data, environment={"UNIQUEID_MAX_RANGE": "5"}) as box:
        answer = box.run("pacifica-uniqueid-cmd", "config")
    assert answer.returncode == 0, answer.stderr
    assert "sqlite:////data/db.sqlite3" in answer.stdout
    assert "max_range = 5  (UNIQUEID_MAX_RANGE)" in answer.stdout


# -- the chart's pod, run as it is rendered ------------------------------------------------------


def _run_pod(values: dict[str, Any], data: Path, path: Path) -> containers.Container:
    """The service's container of a rendered pod, after its init containers have run."""
    manifests = helm.render_now(values)
    pod = helm.service_pod(manifests)
    files = [m["data"] for m in manifests if m["kind"] == "ConfigMap"]
    config = files[0] if files else {}
    assert pod["securityContext"]["runAsUser"] == 10001

    def box(spec: dict[str, Any]) -> containers.Container:
        made = containers.Container(
            *spec.get("args", []),
            data=data,
            environment={v["name"]: v["value"] for v in spec["env"]},
            ini=config.get("uwsgi.ini"),
        )
        mounts = {mount["mountPath"] for mount in spec["volumeMounts"]}
        assert {"/tmp", "/data"} <= mounts
        if "/etc/uniqueid/config.cfg" in mounts:
            file = path / "config.cfg"
            file.write_text(config["config.cfg"])
            made.options.append(f"--volume={file}:/etc/uniqueid/config.cfg:ro")
        return made

    for spec in pod["initContainers"]:
        init = box(spec)
        answer = init.run()
        init.remove()
        assert answer.returncode == 0, answer.stderr
    (spec,) = pod["containers"]
    return box(spec)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "settings": {"max_range": 1000000, "allowed_modes": ["file"]},
            "uwsgi": {"threads": 8, "options": {"log-4xx": True}},
            "service": {"ipFamilyPolicy": "PreferDualStack"},
        },
    ],
    ids=["defaults", "settings and both IP families"],
)
def test_what_the_chart_renders_runs(
    image: dict[str, Any], data: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    """Init container, service and `helm test` of the rendered pod work in the image."""
    box = _run_pod(values, data, tmp_path)
    try:
        box.start()
        (spec,) = helm.service_pod(helm.render(values))["containers"]
        for probe in ("startup", "readiness", "liveness"):
            assert box.get(spec[f"{probe}Probe"]["httpGet"]["path"])[0] == 200
        test = helm.one(helm.render(values), "Pod", "uniqueid-test")["spec"]["containers"][0]
        arguments = [a.replace("//uniqueid:8051", f"//127.0.0.1:{box.port}") for a in test["args"]]
        with container() as tester:
            answer = tester.run(*arguments)
            assert answer.returncode == 0, answer.stderr
        with sqlite3.connect(data / "db.sqlite3") as database:
            assert database.execute("SELECT * FROM uniqueindex").fetchall() == []
        database.close()
        assert box.allocate("file", 1000000 if values else 1) == (1, 1000000 if values else 1)
        if values:
            assert box.get("/livez", "::1")[0] == 200
            assert box.get("/getid?range=1000001&mode=file")[0] == 400
            assert box.get("/getid?range=1&mode=other")[0] == 400
            assert "cores: 8" in box.logs()
    finally:
        box.remove()


def test_the_documented_maintenance_restores_and_moves_counters(
    image: dict[str, Any], data: Path, mariadb: servers.MariaDB
) -> None:
    """The pod of maintenance runs the page's commands, on SQLite and then on another database, and
    ends at once when it is told to."""
    text = (CHECKOUT / "docs/kubernetes.md").read_text()
    (restore,) = re.findall(r"-maintenance -- sh -c '\n(.*?)'", text, re.DOTALL)
    (move,) = re.findall(r"-maintenance -- python3 -c '\n(.*?)'", text, re.DOTALL)
    manifests = helm.render(cases.MAINTENANCE)
    pod = helm.one(manifests, "Deployment", "uniqueid-maintenance")["spec"]["template"]["spec"]
    (spec,) = pod["containers"]
    backup = data.parent / "backup.sqlite3"
    with container(data=data) as box:
        box.sync()
        box.start()
        assert box.allocate("file", 7) == (1, 7)
        box.exec("python3", "-c", re.findall(r"-- python3 -c '\n(.*?)'", text, re.DOTALL)[-1])
        shutil.copy(data / "backup.sqlite3", backup)
        assert box.allocate("file", 93) == (8, 100)
        box.remove()

    def feed(box: containers.Container, command: list[str], file: Path) -> None:
        with file.open("rb") as stream:
            line = [*PODMAN, "exec", "-i", box.name, *command]
            subprocess.run(line, stdin=stream, check=True, capture_output=True)

    counters = data.parent / "counters.json"
    options = [f"--entrypoint={spec['command'][0]}"]
    waiting = spec["command"][1:]
    with container(*waiting, data=data, options=options) as box:
        box.launch()
        feed(box, ["sh", "-c", restore], backup)
        box.exec("pacifica-uniqueid-cmd", "dbsync", "--no-create")
        assert "8" in box.exec("pacifica-uniqueid-cmd", "show")
        box.exec("pacifica-uniqueid-cmd", "advance", "--mode", "file", "--to", "101")
        counters.write_text(box.exec("pacifica-uniqueid-cmd", "show", "--json"))
        started = time.monotonic()
        containers.podman("stop", "--time=60", box.name)
        assert time.monotonic() - started < 20
    url = mariadb.url(mariadb.new_database())
    environment = {"UNIQUEID_DATABASE_URL": url}
    with container(*waiting, data=data, environment=environment, options=options) as box:
        box.launch()
        box.exec("pacifica-uniqueid-cmd", "dbsync")
        feed(box, ["python3", "-c", move], counters)
    with container(data=data, environment=environment) as box:
        box.start()
        assert box.allocate("file", 1) == (101, 101)


def test_make_image_has_the_name_that_the_chart_asks_for() -> None:
    """The first two lines of the chart's page work one after the other, with podman as well."""
    environment = {**os.environ, "CONTAINER_TOOL": "echo"}
    environment.pop("IMAGE", None)
    printed = subprocess.check_output(
        ["make", "-s", "image"], cwd=CHECKOUT, env=environment, text=True
    ).split()
    (asked,) = {spec["image"] for spec in helm.containers(helm.service_pod(helm.render()))}
    assert printed[printed.index("-t") + 1] == asked


def test_the_image_has_what_pre_stop_needs(image: dict[str, Any]) -> None:
    """The preStop command of the chart is in the image."""
    values = {"database": {"existingSecret": "x"}}
    (spec,) = helm.service_pod(helm.render(values))["containers"]
    program = spec["lifecycle"]["preStop"]["exec"]["command"][0]
    with container() as box:
        box.options += [f"--entrypoint={program}"]
        assert box.run("0").returncode == 0


# -- the documented kubectl lines ----------------------------------------------------------------


def kubectl_exec_lines() -> set[str]:
    """What the documentation and the notes run in the service's container."""
    pages = [*(CHECKOUT / "docs").glob("*.md"), CHECKOUT / "README.md"]
    pages += [helm.CHART / "README.md", helm.CHART / "templates/NOTES.txt"]
    lines = set()
    for page in pages:
        for line in page.read_text().splitlines():
            found = re.search(r"kubectl .*exec .*-c uniqueid -- ([^>`;]+)", line)
            if found:
                lines.add(found[1].strip())
    return lines


def test_each_kubectl_line_reaches_the_database_of_the_service(
    image: dict[str, Any], data: Path, mariadb: servers.MariaDB
) -> None:
    """With database.host, as the chart sets it: commands use the database of the service."""
    lines = kubectl_exec_lines()
    # The copy of a SQLite file has a test of its own, above.
    lines -= {"python3 -c '", "cat /data/backup.sqlite3", "rm /data/backup.sqlite3"}
    assert lines == {
        "pacifica-uniqueid-cmd show --json",
        "pacifica-uniqueid-cmd fence --adopt",
    }
    name = mariadb.new_database()
    environment = {
        "PEEWEE_PROTO": "mysql",
        "PEEWEE_USER": mariadb.USER,
        "PEEWEE_PASS": mariadb.PASSWORD,
        "PEEWEE_ADDR": "127.0.0.1",
        "PEEWEE_PORT": str(mariadb.port),
        "PEEWEE_DATABASE": name,
    }
    with container(data=data, environment=environment) as box:
        box.sync()
        mariadb.sql("INSERT INTO uniqueindex VALUES ('file', 42)", name)
        # As fence.enabled does it, on a database that has counters: not ready until it is adopted.
        box.options.append("--env=UNIQUEID_FENCE_PATH=/data/fence.json")
        box.launch()
        wait_until(lambda: box.responds("/livez"), "the service", 120)
        assert box.get("/readyz")[0] == 503
        shown = box.exec(*shlex.split("pacifica-uniqueid-cmd show --json"))
        assert json.loads(shown)["counters"] == [{"mode": "file", "next_id": 42}]
        box.exec(*shlex.split("pacifica-uniqueid-cmd fence --adopt"))
        box.wait_until_ready()
        assert box.allocate("file", 3) == (42, 44)
        assert not list(data.glob("db.sqlite3*"))
        settings = box.exec("pacifica-uniqueid-cmd", "config")
        assert f"@127.0.0.1:{mariadb.port}/{name}" in settings
        assert mariadb.PASSWORD not in settings
        assert "dbchk" not in box.exec("pacifica-uniqueid-cmd", "dbchk")
