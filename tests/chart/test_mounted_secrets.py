"""The chart's secrets are files, which the service reads as the manifests mount them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import cases
import helm
import pytest
import servers
from helm_user import CHART, User
from servers import BIN

WHOLE = "mysql://u:s%40cret@db.science:3306/ids"


def run(pod: dict[str, Any], secrets: dict[str, dict[str, str]], place: Path) -> str:
    """What `config` prints in each container of the service's image, with the pod's files."""
    for volume in pod["volumes"]:
        for item in volume.get("secret", {}).get("items", []):
            secret = secrets[volume["secret"]["secretName"]]
            (place / item["path"]).write_text(secret[item["key"]])
    printed = set()
    for container in helm.containers(pod):
        if container["name"] not in ("uniqueid", "dbsync", "maintenance"):
            continue
        mounts = {m["name"]: m for m in container["volumeMounts"]}
        mount = mounts["database-secret"]
        assert mount["readOnly"]
        assert "subPath" not in mount
        environment = {one["name"]: one["value"] for one in container["env"]}
        environment = {
            name: value.replace(mount["mountPath"], str(place))
            for name, value in environment.items()
        }
        done = subprocess.run(
            [BIN / "pacifica-uniqueid-cmd", "config"],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    (text,) = printed
    return text


@pytest.mark.parametrize("mode", ["initContainer", "hook", "maintenance"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_pod_reads_the_secret_from_its_file(mode: str, end: str, tmp_path: Path) -> None:
    """Of dbsync, the service and maintenance, with the whole URL or the password alone."""
    more: cases.Values = cases.MAINTENANCE if mode == "maintenance" else {"dbsync": {"mode": mode}}
    for values, secret in (
        (cases.URL, {"url": WHOLE + end}),
        (cases.MYSQL, {"password": "s@cret" + end}),
        (
            helm.merge(cases.MYSQL, {"database": {"secretKeys": {"password": "a.b"}}}),
            {"a.b": "s@cret" + end},
        ),
    ):
        manifests = helm.render(helm.merge(values, more))
        pods = [p["spec"] for p in helm.pods(manifests) if "volumes" in p["spec"]]
        assert pods
        for pod in pods:
            text = run(pod, {"counters": secret}, tmp_path)
            name = "ids" if "url" in secret else "uniqueid"
            user = "u" if "url" in secret else "uniqueid"
            assert f"mysql://{user}:***@db.science:3306/{name}" in text
            assert "cret" not in text


def test_a_password_of_the_values_is_a_file_too(tmp_path: Path) -> None:
    """Of the hook's own Secret, and of the release's."""
    values = helm.merge(cases.POSTGRESQL, cases.NETWORK_ONLY["hook"])
    manifests = helm.render(values)
    secrets = {m["metadata"]["name"]: m["stringData"] for m in manifests if m["kind"] == "Secret"}
    assert len(secrets) == 2
    for pod in helm.pods(manifests):
        if "volumes" in pod["spec"]:
            assert "[database] password = ***" in run(pod["spec"], secrets, tmp_path)


@pytest.mark.parametrize(
    "variable", ["UNIQUEID_DATABASE_URL", "UNIQUEID_DATABASE_PASSWORD", "PEEWEE_PASS"]
)
@pytest.mark.parametrize("values", [cases.URL, cases.MYSQL], ids=["url", "parts"])
def test_a_secret_of_extra_env_goes_before_the_file(values: cases.Values, variable: str) -> None:
    """It did when the chart passed variables, and both together are refused."""
    own = {"extraEnv": [{"name": variable, "value": "x"}]}
    pod = helm.service_pod(helm.render(helm.merge(values, own)))
    names = [one["name"] for one in pod["containers"][0]["env"]]
    assert names.count(variable) == 1
    assert not [name for name in names if name.endswith("_FILE")]


def test_an_upgrade_from_variables_to_files_is_accepted(user: User, tmp_path: Path) -> None:
    """Of a release whose chart passed the Secret as a variable, with its values, and back."""
    copy = tmp_path / "uniqueid"
    subprocess.run(["cp", "-r", helm.CHART, copy], check=True)
    template = copy / "templates/_database.tpl"
    text = template.read_text()
    begin = text.index("- name: {{ .variable }}_FILE")
    end = text.index("{{- end -}}", begin)
    before = """- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.database.existingSecret }}
      key: {{ .file }}
"""
    template.write_text(text[:begin] + before + text[end:])
    user.secret("counters", password="x", url=WHOLE)
    for verb, values in (("install", cases.MYSQL), ("upgrade", cases.URL)):
        user.install(verb, values, chart=copy)
        for option in ("--reuse-values", "--reset-then-reuse-values"):
            user.helm("upgrade", "uniqueid", str(CHART), option)
            (container,) = user.template()["spec"]["containers"]
            assert not [one for one in container["env"] if "valueFrom" in one]
        user.helm("rollback", "uniqueid", "1")


def test_the_database_takes_what_the_file_has(mariadb: servers.MariaDB, tmp_path: Path) -> None:
    """The parts and the password's file lead to a real database."""
    name = mariadb.new_database()
    file = tmp_path / "password"
    file.write_text(f"{mariadb.PASSWORD}\n")
    done = subprocess.run(
        [BIN / "pacifica-uniqueid-cmd", "dbsync"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "PEEWEE_PROTO": "mysql",
            "PEEWEE_ADDR": "127.0.0.1",
            "PEEWEE_PORT": str(mariadb.port),
            "PEEWEE_DATABASE": name,
            "PEEWEE_USER": mariadb.USER,
            "UNIQUEID_DATABASE_PASSWORD_FILE": str(file),
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert mariadb.PASSWORD not in done.stdout + done.stderr
