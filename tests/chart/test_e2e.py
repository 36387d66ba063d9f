"""The parts of tests/e2e that need no cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import helm
import pytest
import servers
from servers import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "tests/e2e"))

import run
import verdict


@pytest.mark.parametrize(
    ("ranges", "shared"),
    [
        ([(1, 3), (4, 4), (9, 20)], None),
        ([(4, 4), (1, 3)], None),
        ([(1, 3), (3, 5)], "1 to 3 and 3 to 5 share an ID"),
        ([(1, 10), (2, 3)], "1 to 10 and 2 to 3 share an ID"),
        ([(5, 5), (5, 5)], "5 to 5 and 5 to 5 share an ID"),
        ([(5, 4)], "5 to 4 is no range"),
    ],
)
def test_the_verdict_finds_a_shared_id(ranges: list[tuple[int, int]], shared: str | None) -> None:
    """Two ranges that have an ID in common are found, in any order."""
    assert verdict.overlap(ranges) == shared


def test_the_load_takes_ids_and_counts_failures(tmp_path: Path) -> None:
    """The program that runs in the cluster does here what it says, as `python3 -c`."""
    with servers.running(servers.Service(f"sqlite:///{tmp_path}/db.sqlite3")) as service:
        assert isinstance(service, servers.Service)
        command = [sys.executable, "-I", "-c", (CHECKOUT / "tests/e2e/load.py").read_text()]
        arguments = [service.url, "e2e", "4", "60", "200"]
        answer = subprocess.run(command + arguments, capture_output=True, text=True, check=True)
        url = service.url
    got = json.loads(answer.stdout)
    assert len(got["ranges"]) == 200
    assert got["failures"] == []
    assert verdict.overlap(map(tuple, got["ranges"])) is None
    answer = subprocess.run(
        [*command, url, "e2e", "1", "60", "2"], capture_output=True, text=True, check=True
    )
    got = json.loads(answer.stdout)
    assert got["ranges"] == []
    assert len(got["failures"]) == 2


def test_the_manifests_of_the_run_are_valid() -> None:
    """What the run applies besides the chart is strictly valid and fits a restricted namespace."""
    manifests = [run.load_pod("load", "image:1", 5, 2), *run.mariadb("mariadb:11")]
    helm.check(manifests)
    for pod in helm.pods(manifests):
        for container in pod["spec"]["containers"]:
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize(
    ("image", "rendered"),
    [
        ("registry.example.com:5000/ids:1.2", "registry.example.com:5000/ids:1.2"),
        ("registry.example.com:5000/ids", "registry.example.com:5000/ids:1.0.0"),
        ("ids@sha256:" + "0" * 64, "ids@sha256:" + "0" * 64),
    ],
)
def test_the_image_of_the_run_is_the_one_that_was_named(image: str, rendered: str) -> None:
    """The values which the run sets lead to the image that was given to it."""
    options = [word for value in run.split_image(image) for word in ("--set", value)]
    answer = helm.run(4, "template", "uniqueid", str(helm.CHART), *options)
    pod = helm.service_pod(helm.parse(answer.stdout))
    assert {container["image"] for container in pod["containers"]} == {rendered}
