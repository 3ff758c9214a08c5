"""FastAPI, and Starlette under it: a server span and metrics for each request.

Importing this module imports neither framework; an app that imports none pays nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import DependencyConflict
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from flx_otel_distro.enrichment import Enrichment
from flx_otel_distro.imports import when_imported

if TYPE_CHECKING:
    from flx_otel_instrumentors.fastapi.patches import Patches

_REMEDY = "To leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=flx_fastapi"


class FlxFastAPIInstrumentor(BaseInstrumentor):
    """Observe every FastAPI and Starlette app of the process, made before or after.

    `instrument()` takes `excluded_urls`, `tracer_provider` and `meter_provider`, as
    `ObservabilityMiddleware` does. A singleton; call it before the app serves.
    """

    _instance = None
    _active: _Activation | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what is instrumented, with the versions it is tested with."""
        return ("fastapi >= 0.110",)

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        """Return a conflict for a FastAPI that is too old; an absent one is none, as nothing happens then."""
        conflict = super()._check_dependency_conflicts()
        return conflict if conflict is not None and conflict.found else None

    def _instrument(self, **kwargs: Any) -> None:
        active = self._active = _Activation(kwargs)
        when_imported("starlette.applications", active.starlette, _REMEDY, again=True)
        when_imported("fastapi.applications", active.fastapi, _REMEDY, again=True)

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._active is not None:
            self._active.end()
            self._active = None


class _Activation:
    """One `instrument()`, until its `uninstrument()`: hooks that fire later find it ended."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._patches: Patches | None = None
        self._ended = False

    def starlette(self, module: ModuleType) -> None:
        self._wrap(module, "Starlette")

    def fastapi(self, module: ModuleType) -> None:
        self._wrap(module, "FastAPI")

    def end(self) -> None:
        self._ended = True
        if self._patches is not None:
            self._patches.remove()

    def _wrap(self, module: ModuleType, name: str) -> None:
        if self._ended:
            return
        if self._patches is None:
            from flx_otel_instrumentors.fastapi.layer import Layer
            from flx_otel_instrumentors.fastapi.patches import Patches

            self._patches = Patches(Layer(**self._options))
        self._patches.wrap(getattr(module, name))


def enrich(environ: Mapping[str, str]) -> Enrichment:
    """Say that ours does the work of upstream's `fastapi` instrumentor."""
    return Enrichment(superseded_by="flx_fastapi", when_denied=silence_native_telemetry)


def silence_native_telemetry() -> None:
    """Keep FastAPI's own telemetry off the providers we set, where the user switched FastAPI off.

    Newer FastAPI records by itself as soon as a global provider exists. An app that gives it providers
    of its own keeps it.
    """
    when_imported("fastapi.telemetry._asgi", _silence, _REMEDY)


def _silence(module: ModuleType) -> None:
    native: Any = getattr(module, "NativeTelemetry", None)
    original = getattr(native, "enabled", None)
    if original is None or getattr(original, "_flx_otel", False):
        return

    def enabled(self: Any) -> bool:
        own = any(self.config.get(f"{each}_provider") is not None for each in ("tracer", "meter", "logger"))
        return bool(own and original(self))

    enabled._flx_otel = True  # pyright: ignore[reportFunctionMemberAccess]
    native.enabled = enabled
