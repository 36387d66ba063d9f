"""nginx and HAProxy as their ingress controllers would set them up from the chart's annotations."""

from __future__ import annotations

import http.client
import json

import servers


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
        main, http = servers.nginx_lines(self.directory)
        self.configuration.write_text(
            f"""
            {main}
            events {{ worker_connections 256; }}
            http {{
                {http} {context.format(directory=self.directory)}
                server {{
                    listen 127.0.0.1:{self.port};
                    location / {{ proxy_pass http://127.0.0.1:{service}; {directives} }}
                }}
            }}
            """
        )

    def command(self) -> list[str]:
        directory = str(self.directory)
        nginx = [servers.sbin("nginx"), "-p", directory, "-e", "stderr"]
        return [*nginx, "-c", str(self.configuration)]


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
        return [servers.sbin("haproxy"), "-db", "-f", str(self.configuration)]
