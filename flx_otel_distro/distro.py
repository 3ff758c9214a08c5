"""The distro: defaults for the environment, and one door through which every instrumentor passes.

Upstream's loader calls `configure()`, then the configurator, then `load_instrumentor()` for each
entry point. `FlxDistro` answers all three such that a failing part leaves the others working.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, cast

from flx_otel_distro import environment
from flx_otel_distro.early import BaseDistro
from flx_otel_distro.enrichment import GROUP, Enrichment
from flx_otel_distro.entries import entries
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import fault, guarded, tell_once
from flx_otel_distro.imports import when_imported

UPSTREAM_LOADER = "opentelemetry.instrumentation.auto_instrumentation._load"
"""The logger of upstream's loader."""


class FlxDistro(BaseDistro):
    """Set defaults, then decide for each instrumentor whether and how it is loaded.

    A singleton, as upstream's base makes it; `configure()` may be called again and does nothing new.
    """

    _instance = None

    def __init__(self) -> None:
        if not hasattr(self, "_ready"):
            self._ready = True
            self.inactive: str | None = None
            """Why this process is left alone, or None while the distro acts."""
            self.plan: dict[str, dict[str, Any]] = {}
            """What a configuration file says of each instrumentor; `enabled` false switches it off."""
            self._wrong: list[ConfigurationError] = []
            self._names: frozenset[str] | None = None
            self._enrichers: dict[str, EntryPoint] | None = None

    def _configure(self, **kwargs: Any) -> None:
        """Set the defaults, unless the process is to be left alone.

        Raises ConfigurationError under `FLX_OTEL_STRICT=true` for the first wrong variable.
        """
        _quiet_upstream_loader()
        self.inactive = _reason_to_stay_out()
        if self.inactive is not None:
            if self.inactive:
                tell_once("inactive", self.inactive)
            return
        self._wrong = environment.problems()
        for error in self._wrong:
            environment.report(error)
        self._check_names()
        environment.set_defaults()
        if "*" in environment.DISABLED_INSTRUMENTATIONS.read():  # the loader then asks us for none
            for name in self._enricher_entries():
                self._deny(name)

    def load_instrumentor(self, entry_point: Any, **kwargs: Any) -> None:
        """Load one instrumentor, unless it is switched off or one of ours does its work.

        A fault is logged once with the remedy and never reaches the loader, which would give up on
        all the others. An absent library (ModuleNotFoundError) is silent.
        """
        if self.inactive is not None:
            return
        name: str = entry_point.name
        if not self.allows(name):
            self._deny(name)
            return
        enrichment = self._enrichment(name)
        options = self.options(name)
        if enrichment.superseded_by is not None and self._takes_over(enrichment.superseded_by):
            return
        try:
            with environment.hidden([error.variable for error in self._wrong]):
                entry_point.load()().instrument(**{**enrichment.options, **options, **kwargs})
        except ModuleNotFoundError:
            logging.getLogger("flx_otel").debug("instrumentor %s: its library is not installed", name)
        except Exception as error:  # noqa: BLE001 - a loader that sees this would drop every other instrumentor
            fault(f"instrumentor {name}", error, f"To leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={name}")

    def allows(self, name: str) -> bool:
        """Return whether deny-list, allow-list and configuration file let instrumentor `name` act.

        One of ours is also named by the upstream instrumentor it stands for.
        """
        denied = environment.DISABLED_INSTRUMENTATIONS.read()
        allowed = environment.ENABLED_INSTRUMENTATIONS.read()
        names = {name} | self._stands_for(name)
        if "*" in denied or names & set(denied):
            return False
        if allowed and not names & set(allowed):
            return False
        return all(self.plan.get(each, {}).get("enabled", True) for each in names)

    def options(self, name: str) -> dict[str, Any]:
        """Return what the configuration file says of instrumentor `name`, without `enabled`."""
        return {key: value for key, value in self.plan.get(name, {}).items() if key != "enabled"}

    def _check_names(self) -> None:
        """Tell of a name in the lists of instrumentors that looks mistyped.

        A name that is like none may be of an instrumentor that is not installed here.
        """
        for variable in (environment.DISABLED_INSTRUMENTATIONS, environment.ENABLED_INSTRUMENTATIONS):
            for name in variable.read():
                if name != "*" and name not in self._instrumentor_names():
                    import difflib

                    close = difflib.get_close_matches(name, self._instrumentor_names(), 1, 0.8)
                    if close:
                        allowed = f"the name of an instrumentor, such as {close[0]}"
                        environment.report(ConfigurationError(variable.name, name, allowed, "it acts on nothing"))

    def _deny(self, name: str) -> None:
        for each in {name} | self._stands_for(name):
            silence = self._enrichment(each).when_denied
            if silence is not None:
                with guarded(f"silencing {each}"):
                    silence()

    def _takes_over(self, ours: str) -> bool:
        return ours in self._instrumentor_names() and ours not in environment.DISABLED_INSTRUMENTATIONS.read()

    def _stands_for(self, ours: str) -> set[str]:
        """Return the upstream names an instrumentor of ours answers to, such as `fastapi`.

        Where all of several upstream names stand for one of ours, each of them switches it.
        """
        if not ours.startswith("flx_"):
            return set()
        return {name for name in self._enricher_entries() if self._enrichment(name).superseded_by == ours}

    def _instrumentor_names(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(each.name for each in entries("opentelemetry_instrumentor"))
        return self._names

    def _enricher_entries(self) -> dict[str, EntryPoint]:
        if self._enrichers is None:
            self._enrichers = {each.name: each for each in entries(GROUP)}
        return self._enrichers

    def _enrichment(self, name: str) -> Enrichment:
        entry = self._enricher_entries().get(name)
        if entry is None:
            return Enrichment()
        try:
            enrich = cast("Callable[[Mapping[str, str]], Enrichment]", entry.load())
            return enrich(os.environ)
        except Exception as error:  # noqa: BLE001 - an enricher may come from anyone
            fault(f"enricher {name}", error)
            return Enrichment()


def _reason_to_stay_out() -> str | None:
    """Return why the process is left alone: "" silently, a sentence aloud, None to act."""
    if environment.SDK_DISABLED.read():
        return ""
    if "opentelemetry.trace" in sys.modules or "opentelemetry.metrics._internal" in sys.modules:
        import opentelemetry.metrics._internal as metrics
        import opentelemetry.trace as trace

        for what, provider in (("tracer", trace._TRACER_PROVIDER), ("meter", metrics._METER_PROVIDER)):
            if provider is not None:
                kind = f"{type(provider).__module__}.{type(provider).__qualname__}"
                return (
                    f"OpenTelemetry is already active in this process (a {what} provider, {kind}, is set): "
                    "this distro does nothing. Remove the other set-up to use it"
                )
    return None


class _RivalConfigurators(logging.Filter):
    """Drop the loader's warnings about the rival entry point that opentelemetry-distro registers.

    What it says of a library whose version an instrumentor does not support is told, by us, when the
    program imports that library: most programs import few of those that are installed.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        unsupported = re.match(r'(\S+) only instruments "([A-Za-z0-9_.-]+)([^"]*)', text)
        if unsupported:
            name, library, versions = unsupported.groups()
            when_imported(
                library.replace("-", "_"),
                lambda module: _tell_unsupported(name, library, versions.split(";")[0]),
            )
            return False
        return not text.startswith("Configuration of %s not loaded")


def _tell_unsupported(name: str, library: str, versions: str) -> None:
    tell_once(
        f"unsupported:{name}",
        f"{library} is not observed: instrumentor {name} supports {library}{versions} and another version is "
        f"installed. Install one of those, or say OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={name}",
    )


def _quiet_upstream_loader() -> None:
    loader = logging.getLogger(UPSTREAM_LOADER)
    if not any(isinstance(each, _RivalConfigurators) for each in loader.filters):
        loader.addFilter(_RivalConfigurators())
