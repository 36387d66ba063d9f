"""nginx and HAProxy as their ingress controllers would set them up from the chart's annotations."""

from __future__ import annotations

import http.client
import json
import os
import shutil

import servers


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None, f"{name} is missing: run .ci/setup test"
    return found


class Proxy(servers.Process):
    """A proxy in front of the service."""

    def get(self, path: str) -> http.client.HTTPResponse:
        """One GET over a connection of its own, with its body read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            self.body = response.read()
        finally:
            connection.close()
        return response

    def allocate(self, mode: str) -> int:
        """One ID."""
        assert self.get(f"/getid?range=1&mode={mode}").status == 200, self.body
        return int(json.loads(self.body)["startIndex"])


class Nginx(Proxy):
    """nginx with directives in its only location; `{directory}` in them is its own."""

    def __init__(self, service: int, directives: str, context: str = "") -> None:
        """
        :param service: the port of the service.
        :param context: directives of the context `http`.
        """
        super().__init__()
        self.configuration = self.directory / "configuration"
        temporary = "".join(
            f"{kind}_temp_path {self.directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.getuid() == 0 else ""
        self.configuration.write_text(
            f"""
            {user} daemon off; worker_processes 1; pid {self.directory}/pid; error_log stderr;
            events {{ worker_connections 256; }}
            http {{
                access_log off; {temporary} {context.format(directory=self.directory)}
                server {{
                    listen 127.0.0.1:{self.port};
                    location / {{ proxy_pass http://127.0.0.1:{service}; {directives} }}
                }}
            }}
            """
        )

    def command(self) -> list[str]:
        directory = str(self.directory)
        return [_program("nginx"), "-p", directory, "-e", "stderr", "-c", str(self.configuration)]


class HAProxy(Proxy):
    """HAProxy with lines in its only backend."""

    def __init__(self, service: int, lines: list[str]) -> None:
        super().__init__()
        self.configuration = self.directory / "configuration"
        backend = "\n                ".join(lines)
        self.configuration.write_text(
            f"""
            defaults
                mode http
                timeout connect 10s
                timeout client 60s
                timeout server 60s
            frontend all
                bind 127.0.0.1:{self.port}
                default_backend service
            backend service
                {backend}
                server service 127.0.0.1:{service}
"""
        )

    def command(self) -> list[str]:
        return [_program("haproxy"), "-db", "-f", str(self.configuration)]
