"""The API's description against the running service, by schemathesis."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
import servers
from servers import BIN, Service


def schemathesis(service: Service, directory: Path, *options: str) -> str:
    """Try the service against its own description, with requests that fit it and that do not."""
    # Generated keys repeat, with other parameters: then a request that fits is a 422 by right.
    (directory / "schemathesis.toml").write_text(
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]\n'
    )
    result = subprocess.run(
        [
            str(BIN / "schemathesis"),
            "run",
            f"{service.url}/openapi.json",
            "--checks=all",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=40",
            "--seed=1",
            "--generation-database=none",
            "--no-color",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=directory,
        env={**service.environment(), "NO_PROXY": "*"},
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "No issues found" in result.stdout
    return result.stdout


SITE = {"allowed_modes": "file, upload_job", "max_range": "50"}


@pytest.mark.parametrize("settings", [{}, SITE])
def test_the_description_is_true(tmp_path: Path, settings: dict[str, str]) -> None:
    """Every status, header and document is as described; bad requests are refused, others met."""
    with servers.running(Service(f"sqlite:///{tmp_path}/db.sqlite3", **settings)) as service:
        assert isinstance(service, Service)
        schemathesis(service, tmp_path)
        assert service.get("/readyz")[0] == 200


def test_the_description_is_true_with_tokens(tmp_path: Path) -> None:
    """It says where one is needed, and there it is."""
    file = tmp_path / "tokens"
    file.write_text(f"test {hashlib.sha256(b'a-token').hexdigest()}\n")
    names = ("auth_tokens_file", "status_tokens_file")
    settings = dict.fromkeys(names, str(file))
    with servers.running(Service(f"sqlite:///{tmp_path}/db.sqlite3", **settings)) as service:
        assert isinstance(service, Service)
        schemathesis(service, tmp_path, "--header=Authorization: Bearer a-token")
