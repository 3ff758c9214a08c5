"""What is replaced in grpc, and how it is put back.

Servers: `grpc._server.create_server` and `grpc.aio.Server.__init__`; channels: the four methods of
`grpc._channel.Channel` and `grpc.aio.Channel` that make callables, and the asyncio channel's `__init__`,
which alone is told the target. The public factories all end there at call time, so an app that did
`from grpc import server, insecure_channel` before us is reached as well. The same in grpcio 1.71 to 1.85.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

import grpc
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from flx_otel_distro.guard import fault
from flx_otel_distro.prometheus import activity
from flx_otel_instrumentors.grpc import registration
from flx_otel_instrumentors.grpc.aio_client import AIO_CALLABLES
from flx_otel_instrumentors.grpc.client import CALLABLES, Telemetry, target_attributes
from flx_otel_instrumentors.grpc.interceptors import (
    AioOutermostInterceptor,
    ObservingHandlers,
    OutermostInterceptor,
    ServerInterceptor,
)
from flx_otel_instrumentors.grpc.telemetry import CLIENT, SERVER, Catalog, Metering, Tracing

_server: Any = import_module("grpc._server")
_channel: Any = import_module("grpc._channel")
_aio_server: Any = import_module("grpc.aio._server")
_aio_channel: Any = import_module("grpc.aio._channel")

_HANDLERS = 1
_INTERCEPTORS = 2
_MAXIMUM = 4
"""Where servers take generic handlers, interceptors and the maximum of concurrent calls by position, after `self`."""


class Patch:
    """A set of replacements. Undone, it also quiets the servers and channels made while it was in force."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._quiet: list[Callable[[], None]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in place of an attribute."""
        original = getattr(owner, name)
        replacement = functools.wraps(original)(make(original))
        setattr(owner, name, replacement)
        self._replaced.append((owner, name, original, replacement))

    def on_undo(self, quiet: Callable[[], None]) -> None:
        """Call `quiet` when the patch is undone."""
        self._quiet.append(quiet)

    def undo(self) -> None:
        """Put the originals back, except where somebody else has replaced ours since; ours then passes on."""
        for owner, name, original, replacement in reversed(self._replaced):
            if getattr(owner, name) is replacement:
                setattr(owner, name, original)
        for quiet in self._quiet:
            quiet()
        self._replaced.clear()
        self._quiet.clear()


def patch_servers(tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> Patch:
    """Observe every server made from now on."""
    tracing, metering = Tracing(tracer_provider), Metering(SERVER, meter_provider)
    placed: weakref.WeakSet[ServerInterceptor] = weakref.WeakSet()
    active = [True]

    def stop() -> None:
        active.clear()
        for interceptor in placed:
            interceptor.enabled = False

    def ours(kind: type[OutermostInterceptor], own: Any, args: tuple[Any, ...], kwargs: dict[str, Any], aio: bool):
        activity.serving()
        maximum = args[_MAXIMUM] if len(args) > _MAXIMUM else kwargs.get("maximum_concurrent_rpcs")
        made = kind(tracing, metering, alone=not own, limited=maximum is not None, aio=aio)
        placed.add(made)
        return made

    def create(original: Any) -> Any:
        def create_server(*args: Any, **kwargs: Any) -> Any:
            made = None
            if active:
                try:
                    own: tuple[Any, ...] = tuple(_argument(args, kwargs, _INTERCEPTORS, "interceptors") or ())
                    made = ours(OutermostInterceptor, own, args, kwargs, False)
                    args, kwargs = _with(args, kwargs, _INTERCEPTORS, "interceptors", (made, *own))
                except Exception as problem:  # noqa: BLE001
                    fault("instrumenting a gRPC server", problem, _remedy("flx_grpc_server"))
            server = original(*args, **kwargs)
            if made is not None and made.alone:
                state = getattr(server, "_state", None)
                if getattr(getattr(state, "interceptor_pipeline", None), "interceptors", None) == (made,):
                    state.interceptor_pipeline = made  # pyright: ignore[reportOptionalMemberAccess]
            return server

        return create_server

    def initialise(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            if active:
                try:
                    own: tuple[Any, ...] = tuple(_argument(args, kwargs, _INTERCEPTORS, "interceptors") or ())
                    handlers = list(_argument(args, kwargs, _HANDLERS, "generic_handlers") or ())
                    registration.note(handlers)
                    if own:
                        args, kwargs = _with(args, kwargs, _HANDLERS, "generic_handlers", handlers)
                        made = ours(AioOutermostInterceptor, own, args, kwargs, True)
                        args, kwargs = _with(args, kwargs, _INTERCEPTORS, "interceptors", (made, *own))
                    else:
                        observing = ObservingHandlers(ours(OutermostInterceptor, own, args, kwargs, True), handlers)
                        args, kwargs = _with(args, kwargs, _HANDLERS, "generic_handlers", [observing])
                        registration.gather(self, observing)
                except Exception as problem:  # noqa: BLE001
                    fault("instrumenting a gRPC server", problem, _remedy("flx_grpc_server"))
            original(self, *args, **kwargs)

        return __init__

    patch = Patch()
    registration.watch()
    patch.on_undo(stop)
    patch.on_undo(registration.remove)
    patch.replace(_server, "create_server", create)
    patch.replace(_aio_server.Server, "__init__", initialise)
    return patch


def patch_channels(tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> Patch:
    """Observe the callables that channels make from now on."""
    telemetry = Telemetry(Tracing(tracer_provider), Metering(CLIENT, meter_provider))
    catalogs: weakref.WeakKeyDictionary[Any, Catalog] = weakref.WeakKeyDictionary()

    def stop() -> None:
        telemetry.enabled = False

    def catalog_of(channel: Any, target: str | None = None) -> Catalog:
        found = catalogs.get(channel)
        if found is None:
            target = target or getattr(channel, "_target", None)
            found = Catalog(target_attributes(target) if isinstance(target, str) else None)
            catalogs[channel] = found
        return found

    def initialise(original: Any) -> Any:
        def __init__(self: Any, target: Any, *args: Any, **kwargs: Any) -> None:
            original(self, target, *args, **kwargs)
            try:
                catalog_of(self, target)
            except Exception as problem:  # noqa: BLE001
                fault("instrumenting a gRPC channel", problem, _remedy("flx_grpc_client"))

        return __init__

    def observed(kind: Any) -> Callable[[Any], Any]:
        def wrap(original: Any) -> Any:
            def callable_of(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
                inner = original(self, method, *args, **kwargs)
                if not telemetry.enabled:
                    return inner
                try:
                    catalog = catalog_of(self)
                    if catalog.excludes(method):
                        return inner
                    serializer, deserializer, rest, named = _serializers(args, kwargs)

                    def make(serializer: Any, deserializer: Any) -> Any:
                        return original(self, method, serializer, deserializer, *rest, **named)

                    return kind(inner, make, (serializer, deserializer), telemetry, catalog.learn(method))
                except Exception as problem:  # noqa: BLE001
                    fault("instrumenting a gRPC channel", problem, _remedy("flx_grpc_client"))
                    return inner

            return callable_of

        return wrap

    patch = Patch()
    patch.on_undo(stop)
    for name, kind in CALLABLES.items():
        patch.replace(_channel.Channel, name, observed(kind))
    for name, kind in AIO_CALLABLES.items():
        patch.replace(_aio_channel.Channel, name, observed(kind))
    patch.replace(_aio_channel.Channel, "__init__", initialise)
    return patch


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _with(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, value: object
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with another value for one of them."""
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _serializers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
    """Return request serializer and response deserializer, and the arguments without them."""
    named = dict(kwargs)
    serializer = args[0] if args else named.pop("request_serializer", None)
    deserializer = args[1] if len(args) > 1 else named.pop("response_deserializer", None)
    return serializer, deserializer, args[2:], named


def _remedy(name: str) -> str:
    version = getattr(grpc, "__version__", "of this version")
    return f"It may not know grpcio {version}; to leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={name}"
