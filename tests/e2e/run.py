#!/usr/bin/env python3
"""The chart on a real cluster, the one that KUBECONFIG names: no ID twice, whatever happens to it.

    KUBECONFIG=... python3 tests/e2e/run.py --image REGISTRY/NAME:TAG [--mysql [IMAGE]]

It works in a namespace of its own, of the `restricted` Pod Security level, which it removes at the
end: install, `helm test`, load, an upgrade under load, a killed pod under load, uninstall, install
again, load. With --mysql the counters are in a MariaDB that it installs as well, with two replicas,
and then no request may fail during the upgrade. It needs kubectl and helm, and exits 1 with a
sentence for the first promise that is broken. The image must be one that the cluster can pull.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from verdict import overlap

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "charts/uniqueid"
MODE = "e2e"
RELEASE = "uniqueid"
WAIT = 600
"""Seconds for any one thing to happen: an empty node pulls images first."""
CLAIM = "uniqueid-data"

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Broken(Exception):
    """A promise that did not hold."""


def load_pod(name: str, image: str, seconds: int, threads: int) -> dict[str, Any]:
    """A pod that takes IDs and prints them."""
    url = f"http://{RELEASE}:8051"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "ingest"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "load",
                    "image": image,
                    "command": ["python3", "-I", "-c", (HERE / "load.py").read_text()],
                    "args": [url, MODE, str(threads), str(seconds), "20000"],
                    "securityContext": {**RESTRICTED, "runAsUser": 10001},
                }
            ],
        },
    }


def mariadb(image: str) -> list[dict[str, Any]]:
    """A MariaDB with its Secret and Service; its data lasts as long as its pod."""
    labels = {"app.kubernetes.io/name": "mariadb"}
    secret = "uniqueid-database"
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret},
            "stringData": {"password": "p@ss%20w/rd:" + os.urandom(8).hex()},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "mariadb"},
            "spec": {"selector": labels, "ports": [{"port": 3306}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "mariadb"},
            "spec": {
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "securityContext": {"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999},
                        "containers": [
                            {
                                "name": "mariadb",
                                "image": image,
                                "env": [
                                    {"name": "MARIADB_RANDOM_ROOT_PASSWORD", "value": "1"},
                                    {"name": "MARIADB_DATABASE", "value": "uniqueid"},
                                    {"name": "MARIADB_USER", "value": "uniqueid"},
                                    {
                                        "name": "MARIADB_PASSWORD",
                                        "valueFrom": {
                                            "secretKeyRef": {"name": secret, "key": "password"}
                                        },
                                    },
                                ],
                                "ports": [{"containerPort": 3306}],
                                "readinessProbe": {"tcpSocket": {"port": 3306}},
                                "securityContext": RESTRICTED,
                                "volumeMounts": [{"name": "data", "mountPath": "/var/lib/mysql"}],
                            }
                        ],
                        "volumes": [{"name": "data", "emptyDir": {}}],
                    },
                },
            },
        },
    ]


def split_image(image: str) -> list[str]:
    """The chart's values for an image."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    values = ["image.registry=", f"image.repository={repository}"]
    if tag:
        values.append(f"image.tag={tag}")
    if digest:
        values.append(f"image.digest={digest}")
    return values


class Run:
    """One run against one cluster."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.image: str = arguments.image
        self.mysql: str | None = arguments.mysql
        self.helm_program: str = arguments.helm
        self.kubectl_program: str = arguments.kubectl
        self.seconds: int = arguments.seconds
        self.threads: int = arguments.threads
        self.namespace = f"uniqueid-e2e-{os.getpid()}"
        self.ranges: list[tuple[int, int]] = []

    def call(self, *command: str, text: str | None = None) -> str:
        answer = subprocess.run(command, input=text, capture_output=True, text=True)
        if answer.returncode:
            raise Broken(f"{' '.join(command[:6])} ...: {answer.stderr.strip() or answer.stdout}")
        return answer.stdout

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self.call(self.kubectl_program, "-n", self.namespace, *arguments, text=text)

    def apply(self, *manifests: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "-f", "-", text=text)

    def helm(self, *arguments: str) -> str:
        return self.call(self.helm_program, "-n", self.namespace, *arguments)

    def values(self, revision: str) -> list[str]:
        values = [*split_image(self.image), f"podAnnotations.revision={revision}"]
        if self.mysql:
            values += ["database.type=mysql", "database.host=mariadb", "replicas=2"]
            values += ["database.existingSecret=uniqueid-database"]
        return [
            word
            for value in values
            for word in ("--set-string" if "revision" in value else "--set", value)
        ]

    def install(self, verb: str, revision: str) -> None:
        self.helm(
            verb, RELEASE, str(CHART), *self.values(revision), "--wait", "--timeout", f"{WAIT}s"
        )

    def start_load(self, name: str) -> None:
        self.apply(load_pod(name, self.image, self.seconds, self.threads))
        self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={WAIT}s")

    def finish_load(self, name: str, *, may_fail: bool) -> None:
        """Wait for a load to end, and hold what it got against all that was got before."""
        end = time.monotonic() + WAIT
        while True:
            phase = self.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")
            if phase == "Succeeded":
                break
            if phase == "Failed" or time.monotonic() > end:
                raise Broken(f"the load {name} ended as {phase}: {self.kubectl('logs', name)}")
            time.sleep(1)
        got = json.loads(self.kubectl("logs", name))
        before = max((last for _first, last in self.ranges), default=0)
        ranges = [(first, last) for first, last in got["ranges"]]
        failures = got["failures"]
        print(f"{name}: {len(ranges)} requests met, {len(failures)} failed")
        if not ranges:
            raise Broken(f"{name}: no request was met; {failures[:3]}")
        if min(first for first, _last in ranges) <= before:
            raise Broken(f"{name}: IDs up to {before} were allocated before, and now again")
        self.ranges += ranges
        shared = overlap(self.ranges)
        if shared:
            raise Broken(f"{name}: {shared}")
        if failures and not may_fail:
            raise Broken(f"{name}: {len(failures)} requests failed, the first with {failures[0]}")

    def steps(self) -> None:
        """Everything, in order."""
        if self.mysql:
            self.apply(*mariadb(self.mysql))
            self.kubectl("rollout", "status", "deployment/mariadb", f"--timeout={WAIT}s")
        self.install("install", "1")
        self.helm("test", RELEASE, "--timeout", f"{WAIT}s")
        self.start_load("load-installed")
        self.finish_load("load-installed", may_fail=False)

        self.start_load("load-upgrade")
        self.install("upgrade", "2")
        self.finish_load("load-upgrade", may_fail=self.mysql is None)

        self.start_load("load-kill")
        selector = "app.kubernetes.io/component=service"
        pods = self.kubectl("get", "pods", "-l", selector, "-o", "name").split()
        self.kubectl("delete", pods[0], "--grace-period=0", "--force")
        self.kubectl("rollout", "status", f"deployment/{RELEASE}", f"--timeout={WAIT}s")
        self.finish_load("load-kill", may_fail=True)

        self.helm("uninstall", RELEASE, "--wait", "--timeout", f"{WAIT}s")
        if not self.mysql:
            self.kubectl("get", "pvc", CLAIM)
        self.install("install", "3")
        self.start_load("load-again")
        self.finish_load("load-again", may_fail=False)
        total = sum(last - first + 1 for first, last in self.ranges)
        print(f"{total} IDs in {len(self.ranges)} ranges, none of them twice")

    def run(self) -> None:
        """The steps in a namespace of their own, which goes with everything in it."""
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
        self.call(self.kubectl_program, "create", "-f", "-", text=json.dumps(namespace))
        try:
            self.steps()
        finally:
            self.call(self.kubectl_program, "delete", "namespace", self.namespace, "--wait=false")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="the service's image, as nodes pull it")
    parser.add_argument(
        "--mysql",
        nargs="?",
        const="docker.io/library/mariadb:11",
        metavar="IMAGE",
        help="keep the counters in a MariaDB of this image (default: %(const)s)",
    )
    parser.add_argument("--helm", default="helm", help="Helm 3 or 4")
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--seconds", type=int, default=60, help="of each load")
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        parser.error("KUBECONFIG must name the cluster to use")
    try:
        Run(arguments).run()
    except Broken as broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
