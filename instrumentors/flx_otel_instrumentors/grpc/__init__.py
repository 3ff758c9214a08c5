"""gRPC: spans and metrics of servers and clients, sync and asyncio.

This module does not import grpc, and an app that never does pays nothing. Upstream's four instrumentors
are superseded by the two here: upstream has no metrics, and its spans carry no status for exceptions,
unknown methods, cancellations and deadlines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from flx_otel_distro.enrichment import Enrichment
from flx_otel_distro.imports import when_imported

if TYPE_CHECKING:
    from flx_otel_instrumentors.grpc.patching import Patch

_REQUIRED = ("grpcio >= 1.71",)


class _GrpcInstrumentor(BaseInstrumentor):
    """Patch grpc when the app imports it. `instrument()` takes `tracer_provider` and `meter_provider`."""

    _name = ""
    _patch: Patch | None = None
    _wanted: object | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what must be installed; a grpcio that is absent is no conflict, there is just nothing to do."""
        return _REQUIRED if find_spec("grpc") is not None else ()

    def _patched(self, options: Mapping[str, Any]) -> Patch:
        raise NotImplementedError

    def _instrument(self, **kwargs: Any) -> None:
        wanted = self._wanted = object()

        def patch(_: ModuleType) -> None:
            if self._wanted is wanted and self._patch is None:
                self._patch = self._patched(kwargs)

        when_imported("grpc", patch, f"To leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={self._name}")

    def _uninstrument(self, **kwargs: Any) -> None:
        """Put grpc back; servers and channels made in the meantime go on, unobserved."""
        self._wanted = None
        patch, self._patch = self._patch, None
        if patch is not None:
            patch.undo()


class FlxGrpcServerInstrumentor(_GrpcInstrumentor):
    """Observe the calls that gRPC servers receive. A singleton, as upstream's base makes it."""

    _instance = None
    _name = "flx_grpc_server"

    def _patched(self, options: Mapping[str, Any]) -> Patch:
        from flx_otel_instrumentors.grpc.patching import patch_servers

        return patch_servers(options.get("tracer_provider"), options.get("meter_provider"))


class FlxGrpcClientInstrumentor(_GrpcInstrumentor):
    """Observe the calls that gRPC channels make. A singleton, as upstream's base makes it."""

    _instance = None
    _name = "flx_grpc_client"

    def _patched(self, options: Mapping[str, Any]) -> Patch:
        from flx_otel_instrumentors.grpc.patching import patch_channels

        return patch_channels(options.get("tracer_provider"), options.get("meter_provider"))


def enrich_server(environ: Mapping[str, str]) -> Enrichment:
    """Leave the server side to `flx_grpc_server`."""
    return Enrichment(superseded_by="flx_grpc_server")


def enrich_client(environ: Mapping[str, str]) -> Enrichment:
    """Leave the client side to `flx_grpc_client`."""
    return Enrichment(superseded_by="flx_grpc_client")
