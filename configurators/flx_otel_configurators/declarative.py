"""Declarative configuration: `OTEL_CONFIG_FILE`, carried out by `opentelemetry-configuration`.

Each signal is configured by itself, so that one that fails leaves the others working. What the file
says of instrumentors goes to the distro, which is the one door they pass, so that `enabled: false`
holds for ours too and nothing is instrumented twice.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from opentelemetry import _logs, metrics, trace

from flx_otel_configurators.lifecycle import CallPart, Lifecycle
from flx_otel_distro import environment as env
from flx_otel_distro.distro import FlxDistro
from flx_otel_distro.errors import ConfigurationError, MissingDependencyError
from flx_otel_distro.guard import tell_once

_SIGNALS = ("tracer_provider", "meter_provider", "logger_provider", "propagator")


def configure_from_file(path: str, lifecycle: Lifecycle) -> bool:
    """Configure the SDK from the file; return False where the variables must serve instead.

    A missing package, a missing or a wrong file is told in one line, or raised under strict mode.
    """
    try:
        import opentelemetry.configuration as package
    except ImportError:
        remedy = MissingDependencyError("reading OTEL_CONFIG_FILE", "config")
        env.report(ConfigurationError("OTEL_CONFIG_FILE", path, f"set only with its reader: {remedy}", _INSTEAD))
        return False
    api: Any = package
    try:
        with _silent("opentelemetry.configuration"):  # it also logs, with a traceback, what it raises
            config = api.load_config_file(path)
    except Exception as error:  # noqa: BLE001 - yaml, schema and file errors share no base
        said = " ".join(str(error).split())[:300]
        env.report(ConfigurationError("OTEL_CONFIG_FILE", path, f"a declarative configuration file ({said})", _INSTEAD))
        return False

    if config.disabled:
        tell_once("declared-disabled", f"{path} says disabled: true; nothing is observed", logging.INFO)
        FlxDistro().inactive = ""
        return True
    declared: dict[str, Any] = getattr(config.instrumentation_development, "python", None) or {}
    FlxDistro().plan = {name: dict(options or {}) for name, options in declared.items()}
    alone = {"instrumentation_development": None}
    for signal in _SIGNALS:
        others = {each: None for each in _SIGNALS if each != signal}
        try:
            with _silent("opentelemetry.configuration"):
                api.configure_sdk(dataclasses.replace(config, **others, **alone))
        except Exception as error:  # noqa: BLE001 - yaml, plugin and SDK errors share no base
            said = " ".join(str(error).split()).rstrip(".")[:300]
            allowed = f"a file whose {signal} can be set up ({said})"
            env.report(ConfigurationError("OTEL_CONFIG_FILE", path, allowed, "the other signals go on"))
    if config.propagator is None:
        from flx_otel_configurators.propagation import configure_propagation

        configure_propagation()
    for name, provider in (
        ("traces", trace.get_tracer_provider()),
        ("metrics", metrics.get_meter_provider()),
        ("logs", _logs.get_logger_provider()),
    ):
        _bound_the_end(name, provider, lifecycle)
    return True


_INSTEAD = "using the other variables"


@contextmanager
def _silent(name: str) -> Generator[None]:
    """Keep the loggers below `name` quiet for the length of the block."""
    drop = logging.Filter("nothing of that name")
    found = [each for key, each in logging.root.manager.loggerDict.items() if key.startswith(name)]
    loggers = [each for each in found if isinstance(each, logging.Logger)]
    for each in loggers:
        each.addFilter(drop)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(drop)


def _bound_the_end(name: str, provider: Any, lifecycle: Lifecycle) -> None:
    """Take the provider's own end, which waits up to 22 s for a collector, and give it ours."""
    handler = getattr(provider, "_atexit_handler", None)
    if handler is None:
        return
    atexit.unregister(handler)
    provider._atexit_handler = None
    lifecycle.add(CallPart(name, lambda seconds: provider.force_flush(int(seconds * 1000))))
    if name == "metrics":
        from flx_otel_configurators.metrics import forget_measurements, watch_first_measurement

        watch_first_measurement(provider)
        lifecycle.on_fork(lambda: forget_measurements(provider))
