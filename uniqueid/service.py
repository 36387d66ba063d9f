"""The composition root: from settings to the store, the allocator and the application."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from bottle import Bottle

from uniqueid import __version__, logs
from uniqueid.allocation.allocator import Allocator
from uniqueid.config import Configuration, Settings, load
from uniqueid.database import schema
from uniqueid.database.dialects import DIALECTS
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database.store import Store
from uniqueid.database_url import DatabaseURL
from uniqueid.errors import ConfigError
from uniqueid.fence.store import FencedStore
from uniqueid.model import CounterStore
from uniqueid.monitoring import health
from uniqueid.monitoring.incidents import Incidents
from uniqueid.monitoring.metrics import Metrics, State
from uniqueid.runtime.cpu_affinity import CpuAffinity
from uniqueid.web import openapi
from uniqueid.web.app import make_app
from uniqueid.web.auth import Tokens
from uniqueid.web.getid import RetentionPolicy
from uniqueid.web.parameters import Limits
from uniqueid.web.status import Status

log = logging.getLogger("uniqueid")


@dataclass(frozen=True)
class Service:
    """What a server needs: the application, and what to start and stop with it."""

    configuration: Configuration
    store: Store
    allocator: Allocator
    cpu_affinity: CpuAffinity
    monitor: health.HealthMonitor
    status: Status | None
    app: Bottle
    started: logs.Event
    """What the log has of a start."""
    token_texts: Mapping[str, str]
    """Setting to what its file of tokens holds."""

    def start(self) -> None:
        """Start the threads, once; a process that forks does it after the fork."""
        log.info(self.started)
        self.cpu_affinity.apply()
        self.allocator.start(one_cpu=self.cpu_affinity.cpu is not None)
        if self.status is not None:
            self.status.history.start()


def make_durability(configuration: Configuration, **options: object) -> DurabilityMonitor:
    """What takes the durability checks of a configuration's sessions."""
    required = configuration.settings.durability == "require"
    return DurabilityMonitor(required=required, **options)  # type: ignore[arg-type]


def make_store(
    configuration: Configuration,
    *,
    create: bool = False,
    max_modes: int | None = None,
    durability: DurabilityMonitor | None = None,
    **options: object,
) -> Store:
    """The store of a configuration, not opened.

    :param max_modes: how many counters may be created; as configured when None.
    :param durability: shared with other stores of the process; one of its own when None.
    """
    settings = configuration.settings
    return Store(
        configuration.database,
        max_modes=settings.max_modes if max_modes is None else max_modes,
        create=create,
        timeout=settings.request_timeout,
        durability=durability or make_durability(configuration),
        **options,  # type: ignore[arg-type]
    )


def build(
    configuration: Configuration | None = None,
    *,
    threads: int = 48,
    send_interim: Callable[[bytes], object] | None = None,
    connect_attempts: int | None = None,
    token_texts: Mapping[str, str] | None = None,
) -> Service:
    """Everything but the server, checked: the database answers and has the right schema.

    The connection made for that is closed again, since the caller may fork.

    :param threads: how many the server has for requests.
    :param send_interim: sends an interim response, where the server does not.
    :param connect_attempts: instead of the setting; 0 to begin without the database, as after a
        reload: requests are rejected and `/readyz` is 503 until it can be used.
    :param token_texts: by setting, what its file held before a reload.
    :raises ConfigError: for a setting that cannot be used.
    :raises DatabaseUnavailable: when the database was not reached in `connect_attempts`.
    :raises SchemaError: when the schema needs ``dbsync``, or a newer release.
    :raises JournalMissing: when ``journal = on`` and the schema is older than 1.1.
    """
    configuration = configuration or load()
    settings = configuration.settings
    logs.set_up(settings.log_level, settings.log_format)
    for warning in configuration.warnings:
        log.warning("%s", warning)
    cpu_affinity = CpuAffinity(settings.cpu)
    metrics = Metrics(configuration.database.kind)
    durability = make_durability(configuration)
    store = make_store(configuration, durability=durability, on_retry=metrics.retried)
    attempts = settings.connect_attempts if connect_attempts is None else connect_attempts
    version = check_database(store, settings, attempts) if attempts else ""
    incidents = Incidents()
    fence = make_fence(configuration, store, metrics)
    allocator = make_allocator(settings, store, fence, metrics, incidents, threads)
    monitor = make_monitor(configuration, allocator, incidents, durability, store)
    checks = make_checks(settings, allocator, fence, monitor.check)
    last_checks = make_checks(settings, allocator, fence, monitor.last_result)
    # One connection is made for the check above, where there is one, and one for the committer.
    expected = 2 if attempts else 1
    metrics.state = lambda: State(
        waiting=allocator.waiting,
        reconnects=max(0, store.connections - expected),
        checks={name: check() is None for name, check in last_checks.items()},
        counters=monitor.last_result().counters,
        max_modes=settings.max_modes,
        dropped_log_lines=logs.dropped(),
        durability_problems=len(durability.problems),
    )
    status = make_status(configuration, metrics, last_checks, durability)
    tokens = make_tokens(settings, token_texts or {})
    app = make_application(settings, allocator, checks, metrics, status, tokens, send_interim)
    started = _start_event(configuration, version)
    texts = {name: file.text for name, file in tokens.items()}
    return Service(
        configuration, store, allocator, cpu_affinity, monitor, status, app, started, texts
    )


def make_application(
    settings: Settings,
    allocator: Allocator,
    checks: health.Checks,
    metrics: Metrics,
    status: Status | None,
    tokens: Mapping[str, Tokens],
    send_interim: Callable[[bytes], object] | None,
) -> Bottle:
    """The WSGI application."""
    return make_app(
        allocator,
        make_limits(settings),
        checks=checks,
        metrics=metrics,
        tokens=tokens.get("auth_tokens_file"),
        status_tokens=tokens.get("status_tokens_file"),
        status=status,
        description=describe_api(settings),
        access_log=logs.AccessLog(settings.access_log) if settings.access_log else None,
        retention=RetentionPolicy(settings.idempotency_ttl, settings.journal, settings.journal_ttl),
        send_interim=send_interim,
    )


def check_database(store: Store, settings: Settings, attempts: int) -> str:
    """See that the database can be used, and close the connection again.

    :returns: the version of its schema.
    :raises DatabaseUnavailable, SchemaError, JournalMissing: as `build`.
    """
    store.connect(attempts, settings.connect_wait)
    try:
        version = "{}.{}".format(*(schema.require(store).version or (0, 0)))
        if settings.journal:
            store.need_journal()
    finally:
        store.disconnect()
    return version


def make_allocator(
    settings: Settings,
    store: Store,
    fence: FencedStore | None,
    metrics: Metrics,
    incidents: Incidents,
    threads: int,
) -> Allocator:
    """The allocator on a store, or on the fence in front of it."""
    return Allocator(
        store if fence is None else fence,
        request_timeout=settings.request_timeout,
        queue_size=settings.queue_size,
        batch_size=settings.batch_size,
        repair=settings.on_regression == "advance",
        # Some threads are for others than those who wait for a database that hangs.
        max_blocked_requests=max(1, threads - max(1, threads // 8)),
        prune=store.prune,
        high_water_marks=None if fence is None else fence.high_water_marks,
        observer=metrics,
        incidents=incidents,
    )


def make_checks(
    settings: Settings,
    allocator: Allocator,
    fence: FencedStore | None,
    check: Callable[[], health.HealthResult],
) -> health.Checks:
    """What `/readyz` asks.

    :param check: of the database.
    """

    def check_fence() -> str | None:
        # A probe may come before the first request, and before anything else starts it.
        allocator.start()
        return fence.error if fence is not None else None

    return health.checks(
        allocator,
        check,
        repair=settings.on_regression == "advance",
        fence=None if fence is None else check_fence,
    )


def make_status(
    configuration: Configuration,
    metrics: Metrics,
    checks: health.Checks,
    durability: DurabilityMonitor,
) -> Status | None:
    """The data of the status page; None where it is switched off.

    :param checks: what `/readyz` asks, answered at once.
    """
    settings = configuration.settings
    if not settings.status_page:
        return None
    return Status(
        metrics,
        checks,
        _where(configuration.database),
        lambda: [asdict(problem) for problem in durability.problems],
        tokens_required=bool(settings.auth_tokens_file),
    )


def make_limits(settings: Settings) -> Limits:
    """What a request may ask for."""
    return Limits(
        max_range=settings.max_range,
        allowed_modes=frozenset(settings.allowed_modes) or None,
        allowed_modes_text=", ".join(settings.allowed_modes),
    )


def make_tokens(settings: Settings, texts: Mapping[str, str]) -> dict[str, Tokens]:
    """Setting to the tokens of its file, where it names one.

    :param texts: by setting, what its file held before a reload.
    """
    return {
        name: Tokens(file, f"[uniqueid] {name}", fallback=texts.get(name))
        for name in ("auth_tokens_file", "status_tokens_file")
        if (file := getattr(settings, name))
    }


def describe_api(settings: Settings) -> dict[str, object]:
    """The document of `/openapi.json`."""
    return openapi.document(
        max_range=settings.max_range,
        allowed_modes=settings.allowed_modes,
        tokens=bool(settings.auth_tokens_file),
        status_tokens=bool(settings.status_tokens_file),
        status_page=settings.status_page,
    )


def _start_event(configuration: Configuration, version: str) -> logs.Event:
    return logs.Event(
        "pacifica-uniqueid starts",
        version=__version__,
        database=configuration.database,
        schema=version,
        file=configuration.file or "",
        **{
            option.rpartition(" ")[2]: value
            for option, value, _source in configuration.describe()
            if option not in ("[database] url", "[database] password")
        },
    )


def check_fence(configuration: Configuration) -> None:
    """See that the fence file can be written, apart from one that is in use.

    :raises ConfigError: when its directory is missing or read-only.
    """
    path = configuration.settings.fence_path
    if path and not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK):
        source = configuration.sources["fence_path"]
        raise ConfigError(
            "[fence] path", path, source, "must be in a directory that can be written"
        )


def make_fence(
    configuration: Configuration, store: CounterStore, metrics: Metrics | None = None
) -> FencedStore | None:
    """The store behind the fence; None where none is set.

    :raises ConfigError: on Windows, which has no flock(2).
    """
    settings = configuration.settings
    if not settings.fence_path:
        return None
    if sys.platform == "win32":
        source = configuration.sources["fence_path"]
        raise ConfigError("[fence] path", settings.fence_path, source, "must be empty on Windows")
    return FencedStore(
        store,
        settings.fence_path,
        window=settings.fence_window,
        timeout=settings.request_timeout,
        observer=metrics,
    )


def _where(database: DatabaseURL) -> dict[str, str]:
    """Kind and host of a database, for everybody to see."""
    dialect = DIALECTS[database.kind]
    return {"kind": dialect.name, "host": dialect.host(database)}


def make_monitor(
    configuration: Configuration,
    allocator: Allocator,
    incidents: Incidents,
    durability: DurabilityMonitor,
    allocating: Store,
) -> health.HealthMonitor:
    """The health monitor of a service, with a store that it shares with no other thread.

    :param allocating: the allocator's.
    """
    store = make_store(configuration, durability=durability)

    def require() -> None:
        if durability.problems:
            # Without waiting for a new session, so that the warning ends with its reason.
            store.check_session()
        schema.require(store)

    check = health.HealthCheck(
        store,
        require,
        lambda: allocator.high_water_marks,
        incidents=incidents,
        close_after=lambda: store.dialect.session_per_health_check or not allocating.connected,
    )
    return health.HealthMonitor(check)
