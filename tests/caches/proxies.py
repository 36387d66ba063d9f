"""The caching proxies of Debian, each with settings that make it keep what it may, or more.

Each forwards `/control/` to the origin of the controls and everything else to the service.
"""

from __future__ import annotations

import grp
import os
import pwd

import servers

HONEST = "aggressive but honest"
"""Everything is kept, for minutes, unless the answer says that it must not be."""


class Cache(servers.Process):
    """A proxy in front of two origins."""

    name = ""
    settings: tuple[str, ...] = (HONEST,)
    control = "bare"
    """What an honest cache of this kind keeps: see `controls.Controls`."""

    def __init__(self, settings: str, service: int, controls: int) -> None:
        assert settings in self.settings
        super().__init__()
        self.chosen = settings
        self.service = service
        self.controls = controls
        self.configuration = self.directory / "configuration"
        self.configure()

    @property
    def honest(self) -> bool:
        return self.chosen == HONEST

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def configure(self) -> None:
        """Write the configuration."""
        raise NotImplementedError

    def own(self, user: str) -> None:
        """Give the directory to the user whom the proxy becomes when root starts it."""
        if os.getuid() == 0:
            entry = pwd.getpwnam(user)
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)


class Nginx(Cache):
    name = "nginx"
    IGNORING = "ignores Cache-Control, Expires, Set-Cookie, Vary"
    FORCED = "ignores X-Accel-* as well"
    settings = (HONEST, IGNORING, FORCED)

    def configure(self) -> None:
        more = ""
        if not self.honest:
            more = "proxy_ignore_headers Cache-Control Expires Set-Cookie Vary"
            if self.chosen == self.FORCED:
                more += " X-Accel-Expires X-Accel-Buffering"
            more += ";"
        main, http = servers.nginx_lines(self.directory)
        self.configuration.write_text(
            f"""
            {main}
            events {{ worker_connections 256; }}
            http {{
                {http}
                proxy_cache_path {self.directory}/cache keys_zone=c:1m;
                server {{
                    listen 127.0.0.1:{self.port};
                    proxy_cache c; proxy_cache_valid any 10m; proxy_cache_lock on;
                    proxy_cache_use_stale error timeout updating http_500 http_503; {more}
                    location / {{ proxy_pass http://127.0.0.1:{self.service}; }}
                    location /control/ {{ proxy_pass http://127.0.0.1:{self.controls}; }}
                }}
            }}
            """
        )

    def command(self) -> list[str]:
        directory = str(self.directory)
        nginx = [servers.sbin("nginx"), "-p", directory, "-e", "stderr"]
        return [*nginx, "-c", str(self.configuration)]


class Varnish(Cache):
    name = "Varnish"
    FORCED = "forces a lifetime"
    BLIND = "forces a lifetime, also of POST, and ignores the query"
    settings = (HONEST, FORCED, BLIND)

    def configure(self) -> None:
        forced = blind = ""
        if not self.honest:
            forced = """
                sub vcl_backend_response {
                    set beresp.ttl = 10m; set beresp.uncacheable = false; return (deliver);
                }"""
        if self.chosen == self.BLIND:
            blind = """
                sub vcl_recv { return (hash); }
                sub vcl_hash { hash_data(regsub(req.url, "[?].*", "")); return (lookup); }"""
        self.configuration.write_text(
            f"""vcl 4.1;
            backend service {{ .host = "127.0.0.1"; .port = "{self.service}"; }}
            backend controls {{ .host = "127.0.0.1"; .port = "{self.controls}"; }}
            sub vcl_recv {{
                if (req.url ~ "^/control/") {{ set req.backend_hint = controls; }}
            }}
            {blind}{forced}
            """
        )

    def command(self) -> list[str]:
        return [
            servers.sbin("varnishd"),
            "-F",
            *("-j", "none"),
            *("-a", f"127.0.0.1:{self.port}"),
            *("-T", "none"),
            *("-f", str(self.configuration)),
            *("-n", str(self.directory / "work")),
            *("-s", "malloc,16m"),
            # Few threads: the machine is shared.
            *("-p", "thread_pools=1", "-p", "thread_pool_min=20", "-p", "thread_pool_max=100"),
        ]


class Squid(Cache):
    name = "Squid"
    IGNORING = "ignore-no-store, ignore-private, override-expire"
    settings = (HONEST, IGNORING)

    def configure(self) -> None:
        options = ""
        if not self.honest:
            options = (
                "override-expire override-lastmod ignore-reload ignore-no-store ignore-private"
            )
        user = "cache_effective_user proxy" if os.getuid() == 0 else ""
        self.configuration.write_text(
            f"""
http_port 127.0.0.1:{self.port} accel defaultsite=uniqueid no-vhost
cache_peer 127.0.0.1 parent {self.service} 0 no-query no-digest originserver name=service
cache_peer 127.0.0.1 parent {self.controls} 0 no-query no-digest originserver name=controls
acl control urlpath_regex ^/control/
cache_peer_access controls allow control
cache_peer_access controls deny all
cache_peer_access service deny control
cache_peer_access service allow all
never_direct allow all
http_access allow all
cache_mem 16 MB
refresh_pattern . 1440 100% 10080 {options}
# With it, no-store alone does not keep an answer from being shared by those who ask meanwhile.
collapsed_forwarding on
{user}
visible_hostname uniqueid
pid_filename {self.directory}/pid
cache_log {self.directory}/cache.log
access_log none
coredump_dir {self.directory}
shutdown_lifetime 0 seconds
pinger_enable off
"""
        )
        self.own("proxy")

    def command(self) -> list[str]:
        # The name keeps its shared memory apart from that of other Squids.
        name = f"uniqueid{os.getpid()}p{self.port}"
        return [servers.sbin("squid"), "-N", "-n", name, "-f", str(self.configuration)]


class HAProxy(Cache):
    name = "HAProxy"
    REWRITING = "rewrites the headers"
    settings = (HONEST, REWRITING)
    # It keeps nothing that has neither a lifetime nor a validator.
    control = "lifetime"

    def configure(self) -> None:
        rewriting = ""
        if not self.honest:
            rewriting = """
    http-response set-header Cache-Control "public, max-age=600"
    http-response del-header Vary
    http-response del-header Expires
    http-response del-header Pragma"""
        self.configuration.write_text(
            f"""
global
    maxconn 200
    nbthread 2
defaults
    mode http
    timeout connect 30s
    timeout client 60s
    timeout server 60s
cache kept
    total-max-size 4
    max-age 600
frontend front
    bind 127.0.0.1:{self.port}
    http-request cache-use kept{rewriting}
    http-response cache-store kept
    use_backend controls if {{ path_beg /control/ }}
    default_backend service
backend service
    server service 127.0.0.1:{self.service}
backend controls
    server controls 127.0.0.1:{self.controls}
"""
        )

    def command(self) -> list[str]:
        return [servers.sbin("haproxy"), "-db", "-f", str(self.configuration)]


class Apache(Cache):
    name = "Apache"
    IGNORING = "CacheStoreNoStore, CacheStorePrivate, CacheStoreExpired"
    settings = (HONEST, IGNORING)
    # It keeps nothing that has a query and no lifetime.
    control = "lifetime"

    def configure(self) -> None:
        more = ""
        if not self.honest:
            more = "\n".join(
                f"{option} On"
                for option in (
                    "CacheStoreNoStore",
                    "CacheStorePrivate",
                    "CacheStoreExpired",
                    "CacheIgnoreCacheControl",
                    "CacheIgnoreQueryString",
                )
            )
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in ("mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk")
        )
        (self.directory / "cache").mkdir()
        user = ""
        if os.getuid() == 0:
            user = f"User www-data\nGroup {grp.getgrgid(pwd.getpwnam('www-data').pw_gid).gr_name}"
        self.configuration.write_text(
            f"""
{modules}
{user}
ServerRoot {self.directory}
DefaultRuntimeDir {self.directory}
ServerName localhost
Listen 127.0.0.1:{self.port}
PidFile {self.directory}/pid
ErrorLog /dev/stderr
StartServers 1
MinSpareThreads 25
MaxSpareThreads 75
ThreadsPerChild 25
MaxRequestWorkers 100
CacheRoot {self.directory}/cache
CacheEnable disk /
CacheIgnoreNoLastMod On
CacheDefaultExpire 600
CacheLock On
CacheLockPath {self.directory}/cache
{more}
ProxyPass /control/ http://127.0.0.1:{self.controls}/control/
ProxyPass / http://127.0.0.1:{self.service}/
"""
        )
        self.own("www-data")

    def command(self) -> list[str]:
        return [servers.sbin("apache2"), "-f", str(self.configuration), "-DFOREGROUND"]


class TrafficServer(Cache):
    name = "Traffic Server"
    IGNORING = "ignores Cache-Control, ttl-in-cache"
    settings = (HONEST, IGNORING)

    def configure(self) -> None:
        directory = self.directory
        for name in ("etc", "var", "run", "logs", "cache"):
            (directory / name).mkdir()
        records = {
            "http.server_ports": f"STRING {self.port}:ip-in=127.0.0.1",
            "http.cache.required_headers": "INT 0",
            "http.negative_caching_enabled": "INT 1",
            "http.wait_for_cache": "INT 1",
            "cache.ram_cache.size": "INT 4M",
            "exec_thread.autoconfig": "INT 0",
            "exec_thread.limit": "INT 2",
            "admin.user_id": "STRING #-1",
        }
        rules = ""
        if not self.honest:
            records["http.cache.ignore_server_no_cache"] = "INT 1"
            records["http.cache.ignore_client_no_cache"] = "INT 1"
            rules = "url_regex=.* ttl-in-cache=10m\n"
        etc = directory / "etc"
        (etc / "records.config").write_text(
            "".join(f"CONFIG proxy.config.{name} {value}\n" for name, value in records.items())
        )
        (etc / "cache.config").write_text(rules)
        (etc / "storage.config").write_text(f"{directory}/cache 32M\n")
        (etc / "remap.config").write_text(
            f"map /control/ http://127.0.0.1:{self.controls}/control/\n"
            f"map / http://127.0.0.1:{self.service}/\n"
        )
        (etc / "ip_allow.yaml").write_text(
            "ip_allow:\n- {apply: in, ip_addrs: 0/0, action: allow, methods: ALL}\n"
        )
        for name in ("plugin.config", "logging.yaml", "ssl_multicert.config", "sni.yaml"):
            (etc / name).write_text("")
        self.configuration.write_text(
            "\n".join(
                [
                    f"prefix: {directory}",
                    f"exec_prefix: {directory}",
                    f"bindir: {os.path.dirname(servers.sbin('traffic_server'))}",
                    f"sbindir: {os.path.dirname(servers.sbin('traffic_server'))}",
                    f"sysconfdir: {etc}",
                    f"datadir: {directory}",
                    f"includedir: {directory}",
                    f"libdir: {directory}",
                    f"libexecdir: {directory}",
                    f"localstatedir: {directory}/var",
                    f"runtimedir: {directory}/run",
                    f"logdir: {directory}/logs",
                    f"mandir: {directory}",
                    f"infodir: {directory}",
                    f"cachedir: {directory}/cache",
                    "",
                ]
            )
        )
        self.own("trafficserver")

    def user(self) -> str | None:
        return "trafficserver" if os.getuid() == 0 else None

    def command(self) -> list[str]:
        return [servers.sbin("traffic_server"), f"--run-root={self.configuration}"]


CACHES: tuple[type[Cache], ...] = (Nginx, Varnish, Squid, HAProxy, Apache, TrafficServer)
