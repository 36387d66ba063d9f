"""What users rely on, collected from outside: routes, problem types, headers, metrics, settings,
commands, files.

    python tests/public_interface.py --write

writes the snapshot that tests/test_public_interface.py compares with. It uses the service's public
entry points alone, so that a change of the modules behind them changes nothing here.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).with_name("public_interface.json")
BIN = Path(sys.executable).parent
COMMANDS = ("pacifica-uniqueid", "pacifica-uniqueid-cmd")

# Runs in a process of its own: the WSGI entry point builds the service when it is imported.
_WSGI = r"""
import io, json, logging, sys
sys.argv = ["wsgi"]
from pacifica.uniqueid.wsgi import application

def ask(method, path, query="", **headers):
    answer = {}
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "h",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http", "wsgi.version": (1, 0),
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
        "REMOTE_ADDR": "127.0.0.1",
        **{"HTTP_" + name.upper(): value for name, value in headers.items()},
    }
    def start(status, headers, exc_info=None):
        answer.update(status=status, headers=sorted(headers))
    body = b"".join(application(environ, start))
    return {**answer, "body": body.decode("utf-8", "replace")}

print(json.dumps({
    "allocation": ask("GET", "/getid", "range=10&mode=file&nonce=n", x_request_id="r"),
    "key": ask("GET", "/getid", "range=3&mode=file", idempotency_key="k" * 16),
    "bad": ask("GET", "/getid", "range=0x&mode="),
    "livez": ask("GET", "/livez"),
    "readyz": ask("GET", "/readyz"),
    "healthz": ask("GET", "/healthz"),
    "metrics": ask("GET", "/metrics"),
    "status": ask("GET", "/status.json"),
    "openapi": ask("GET", "/openapi.json"),
    "unknown": ask("GET", "/unknown"),
    "method": ask("DELETE", "/getid"),
}))
"""


def collect() -> dict[str, Any]:
    """The public interface, as JSON values."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": directory,
            "COLUMNS": "100",
            "UNIQUEID_DATABASE_URL": f"sqlite:///{place}/db.sqlite3",
            "UNIQUEID_FENCE_PATH": f"{place}/fence.json",
            "UNIQUEID_LOG_FORMAT": "json",
            "UNIQUEID_ACCESS_LOG": "1",
        }
        _run(environment, place, str(BIN / "pacifica-uniqueid-cmd"), "dbsync")
        served = _run(environment, place, sys.executable, "-c", _WSGI)
        answers = json.loads(served.stdout)
        return {
            "access log": _access_log(served.stderr),
            "alerts": _alerts(),
            "commands": _commands(environment, place),
            "entry points": _entry_points(),
            "fence file": (place / "fence.json").read_text().splitlines(),
            "headers": {name: _headers(answer) for name, answer in answers.items()},
            "JSON keys": {name: _keys(answer["body"]) for name, answer in answers.items()},
            "metrics": _metrics(answers["metrics"]["body"]),
            "problems": _problems(),
            "readiness checks": sorted(json.loads(answers["readyz"]["body"])["checks"]),
            "routes": _routes(answers["openapi"]["body"]),
            "settings": _settings(),
            "tables": _tables(place / "db.sqlite3"),
        }


def _run(
    environment: dict[str, str], place: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=place, check=True, capture_output=True, text=True
    )


def _access_log(text: str) -> list[str]:
    """The keys of a request's log line."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (line,) = [one for one in lines if one.get("path") == "/getid" and one.get("range") == 10]
    return list(line)


def _alerts() -> list[str]:
    """Each alert with its severity."""
    text = (CHECKOUT / "charts/uniqueid/alerts.yaml").read_text()
    found = re.findall(r"alert: (\w+).*?severity: (\w+)", text, re.DOTALL)
    return [" ".join(one) for one in found]


def _commands(environment: dict[str, str], place: Path) -> dict[str, list[str]]:
    """The help of each command and each of its subcommands."""
    helps = {}
    for name in COMMANDS:
        text = _run(environment, place, str(BIN / name), "--help").stdout
        helps[name] = text.splitlines()
        for command in re.findall(r"^    ([a-z]+) ", text, re.MULTILINE):
            help_ = _run(environment, place, str(BIN / name), command, "--help").stdout
            helps[f"{name} {command}"] = help_.splitlines()
    return helps


def _entry_points() -> list[str]:
    points = metadata.distribution("pacifica-uniqueid").entry_points
    modules = ["pacifica.uniqueid.wsgi", "uniqueid.wsgi", "uniqueid.container"]
    return sorted([point.name for point in points] + [f"module {name}" for name in modules])


def _headers(answer: dict[str, Any]) -> dict[str, str]:
    """Status and headers; what differs each time is left out."""
    changing = {"content-length", "x-request-id", "etag"}
    headers = {
        name: "..." if name.lower() in changing else value for name, value in answer["headers"]
    }
    return {"status": answer["status"], **headers}


def _keys(body: str) -> Any:
    """The keys of a JSON document, with the types of their values."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if "openapi" in document:
        return sorted(document)

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: keys(one) for name, one in sorted(value.items())}
        if isinstance(value, list):
            return [keys(value[0])] if value else []
        return type(value).__name__

    return keys(document)


def _metrics(text: str) -> dict[str, Any]:
    """Each metric's type and the names of its labels."""
    metrics: dict[str, Any] = {}
    for name, kind in re.findall(r"^# TYPE (uniqueid_\w+) (\w+)$", text, re.MULTILINE):
        labels: set[str] = set()
        for found in re.findall(rf"^{name}(?:_bucket|_sum|_count)?{{(.*?)}} ", text, re.MULTILINE):
            labels |= set(re.findall(r"(\w+)=", found))
        metrics[name] = {"type": kind, "labels": sorted(labels)}
    return dict(sorted(metrics.items()))


def _problems() -> list[str]:
    """Status and type of each problem, from the table that a test holds against the code."""
    text = (CHECKOUT / "docs/http.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)`", text, re.MULTILINE)
    return [" ".join(row) for row in rows]


def _routes(text: str) -> dict[str, list[str]]:
    paths = json.loads(text)["paths"]
    methods = ("get", "post", "head", "options")
    return {path: [one for one in methods if one in item] for path, item in paths.items()}


def _settings() -> list[str]:
    """Names and defaults from docs/configuration.md, whose table a test holds against the code."""
    text = (CHECKOUT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| (`\[\w+\]` .*?) \| (.*?) \| (.*?) \|", text, re.MULTILINE)
    return [" | ".join(row) for row in rows]


def _tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        )
        return [sql for (sql,) in rows]


def options(helps: dict[str, list[str]]) -> dict[str, list[str]]:
    """The options and words of each help, whose layout depends on the version of Python."""
    return {
        name: sorted(set(re.findall(r"--?[a-zA-Z][\w-]*|\w+", " ".join(lines))))
        for name, lines in helps.items()
    }


def render(interface: dict[str, Any]) -> str:
    return json.dumps(interface, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        SNAPSHOT.write_text(render(collect()), encoding="utf-8")
    else:
        print(render(collect()), end="")
