"""What most commands begin with: the settings, and the store that they name."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace

from uniqueid import config, logs, service
from uniqueid.database import schema
from uniqueid.database.store import Store


def load(arguments: argparse.Namespace) -> config.Configuration:
    """The settings, with the time-out of the command line."""
    configuration = config.load(arguments.config)
    settings = configuration.settings
    logs.set_up(settings.log_level, settings.log_format)
    timeout: float | None = getattr(arguments, "timeout", None)
    if timeout is not None:
        settings = replace(
            settings,
            connect_attempts=max(1, int(timeout // 5)),
            connect_wait=5.0,
            request_timeout=min(timeout, settings.request_timeout),
        )
    return replace(configuration, settings=settings)


def open_store(arguments: argparse.Namespace) -> tuple[Store, float]:
    """The store, with a schema that fits, and the deadline of what is done with it."""
    configuration, store = open_configured(arguments)
    return store, time.monotonic() + configuration.settings.request_timeout


def open_configured(
    arguments: argparse.Namespace, max_modes: int | None = None
) -> tuple[config.Configuration, Store]:
    """The settings, and the store with a schema that fits.

    :param max_modes: how many counters may be created; as configured when None.
    """
    configuration = load(arguments)
    settings = configuration.settings
    if settings.log_level == "info":
        # That the database was reached is no news to who reads its counters.
        logging.getLogger("uniqueid").setLevel(logging.WARNING)
    store = service.make_store(configuration, max_modes=max_modes)
    store.connect(settings.connect_attempts, settings.connect_wait)
    schema.require(store)
    return configuration, store
