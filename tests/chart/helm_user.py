"""A user of the chart, with the real Helm and kubectl."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import cluster
import helm
import yaml
from helm import CHART
from servers import CHECKOUT


class User:
    """A user with Helm, kubectl and a cluster."""

    def __init__(self, where: cluster.Cluster, home: Path, major: int) -> None:
        self.cluster = where
        self.major = major
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(where.kubeconfig(home / "kubeconfig")),
        }
        self.home = home

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(helm.tool(program, self.major)), *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def helm(self, *arguments: str, values: object = None) -> str:
        """Helm, which must succeed."""
        if values is not None:
            file = self.home / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            arguments = (*arguments, "-f", str(file))
        answer = self.run("helm", *arguments)
        assert answer.returncode == 0, (arguments, answer.stdout, answer.stderr)
        assert self.cluster.stuck == []
        return answer.stdout

    def install(self, verb: str = "install", values: object = None, chart: Path = CHART) -> str:
        """Install or upgrade, without a wait: in this cluster everything is ready at once."""
        return self.helm(verb, "uniqueid", str(chart), "--timeout", "100s", values=values)

    def template(self) -> Any:
        """The template of the service's pods."""
        deployment = self.cluster.get("Deployment", "uniqueid")
        assert deployment is not None
        return deployment["spec"]["template"]

    def secret(self, name: str, **data: str) -> None:
        """Make a Secret, or replace it."""
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
        self.cluster.put({**secret, "stringData": data})
