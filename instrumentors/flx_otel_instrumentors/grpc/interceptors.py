"""Server interceptors, for grpc's sync and asyncio servers alike.

    grpc.aio.server(interceptors=[MetricsServerInterceptor(), TracingServerInterceptor()])

However many of them a call passes, the outermost does the work of all: one span and one measurement a
call. It knows of the others because they run inside its `continuation`.
"""

from __future__ import annotations

import functools
import threading
from contextvars import ContextVar
from typing import Any

import grpc
from opentelemetry.context import get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from flx_otel_distro.guard import fault, guarded
from flx_otel_distro.prometheus import activity
from flx_otel_instrumentors.grpc import registration
from flx_otel_instrumentors.grpc.aio_server import AioServerCall, style_of
from flx_otel_instrumentors.grpc.sync_server import SyncServerCall
from flx_otel_instrumentors.grpc.telemetry import SERVER, Catalog, Metering, Tracing


class ReceivedCall(SyncServerCall, AioServerCall):
    """A call of either kind of server: which one is known only once the handler has been looked up."""

    __slots__ = ()


_covering: ContextVar[ReceivedCall | None] = ContextVar("flx_grpc_covering", default=None)
"""The call whose handler is being looked up, within the outermost interceptor's continuation."""

_sync_base: Any = grpc.ServerInterceptor
_aio_base: Any = grpc.aio.ServerInterceptor


class ServerInterceptor(_sync_base, _aio_base):
    """Observe the calls of a server. Thread-safe; may be shared by servers, sync and asyncio."""

    def __init__(self, tracing: Tracing | None, metering: Metering | None, catalog: Catalog | None = None) -> None:
        self.tracing = tracing
        self.metering = metering
        self.catalog = Catalog() if catalog is None else catalog
        self.enabled = True
        """False once the instrumentation that placed this interceptor is undone."""
        self.outermost = False
        """True where nobody but us placed this interceptor, before all others of the app."""
        self.limited = False
        """True where the server refuses calls beyond a maximum."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler with its calls observed; a coroutine that does where the server is an asyncio one."""
        covering = _covering.get()
        if covering is not None:
            covering.tracing = covering.tracing or self.tracing
            covering.metering = covering.metering or self.metering
            return continuation(handler_call_details)
        call = self._call(handler_call_details)
        if call is None:
            return continuation(handler_call_details)
        token = _covering.set(call)
        try:
            handler = continuation(handler_call_details)
        except BaseException as error:
            _covering.reset(token)
            self._failed(call, error)
            raise
        _covering.reset(token)
        if hasattr(handler, "__await__"):
            call.aio = True
            return self._await_handler(call, handler)
        return self._observe(call, handler)

    async def _await_handler(self, call: ReceivedCall, continuation: Any) -> Any:
        token = _covering.set(call)
        try:
            handler = await continuation
        except BaseException as error:
            _covering.reset(token)
            self._failed(call, error)
            raise
        _covering.reset(token)
        return self._observe(call, handler)

    def _call(self, details: Any) -> ReceivedCall | None:
        try:
            path = details.method
            known = self.catalog.known(path)
            if not self.enabled or (known is None and self.catalog.excludes(path)):
                return None
            if get_current() and not is_instrumentation_enabled():  # an empty context suppresses nothing
                return None
            call = ReceivedCall(path, details.invocation_metadata, self.tracing, self.metering)
            call.method = known
            return call
        except Exception as problem:  # noqa: BLE001
            fault("receiving a gRPC call", problem)
            return None

    def _failed(self, call: ReceivedCall, error: BaseException) -> None:
        """End a call whose handler another interceptor refused to give."""
        call.method = call.method or self.catalog.other
        if isinstance(error, Exception):
            call.end("UNKNOWN", error, f"{type(error).__name__}: {error}")
        else:
            call.end("CANCELLED")

    def _observe(self, call: ReceivedCall, handler: Any) -> Any:
        try:
            catalog = self.catalog
            known = call.method
            if known is None:
                # An interceptor or a generic handler of the app may answer any name an outsider calls.
                known = catalog.learn(call.path) if registration.knows(call.path) else catalog.other
            call.method = known
            if handler is None:
                call.end("UNIMPLEMENTED", details="Method not found!")
                return None
            return self._stand_in(call, handler)
        except Exception as problem:  # noqa: BLE001
            fault("observing a gRPC handler", problem)
            return handler

    def _stand_in(self, call: ReceivedCall, handler: Any) -> Any:
        behavior: Any
        if handler.request_streaming:
            behavior = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        method = call.method
        style = method.style if method is not None else None
        if style is None or style[0] is not behavior or style[1] is not call.aio:
            style = (behavior, call.aio, _style(behavior, handler.response_streaming, call.aio))
            if method is not None and method is not self.catalog.other:
                method.style = style
        name = style[2]
        if name == _UNTOUCHED:
            return handler
        call.behavior = behavior
        entry: Any
        if name.startswith(_OWN_POOL):
            entry = functools.partial(getattr(call, name.removeprefix(_OWN_POOL)))
            entry.experimental_thread_pool = behavior.experimental_thread_pool
        else:
            entry = getattr(call, name)
        observed = call.stand_in(handler, entry)
        if self.outermost:
            call.unheard = (
                ("RESOURCE_EXHAUSTED", None if call.aio else threading.get_ident())
                if self.limited
                else ("CANCELLED", None)
            )
        if call.aio and name.startswith("pooled"):
            _watch_task(call)
        return observed


_UNTOUCHED = ""
_OWN_POOL = "own_pool:"


def _style(behavior: Any, streaming: bool, aio: bool) -> str:
    if aio:
        return style_of(behavior, streaming)
    if getattr(behavior, "experimental_non_blocking", False):
        return _UNTOUCHED  # an experiment of grpc: it answers by a callback, with no end to observe
    name = "sync_stream" if streaming else "sync_unary"
    return _OWN_POOL + name if getattr(behavior, "experimental_thread_pool", None) is not None else name


def _watch_task(call: ReceivedCall) -> None:
    """End the call with grpc's task of the RPC: a plain function on a thread is not told of a cancellation."""
    import asyncio

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(call.terminated)


def _by_hand() -> None:
    with guarded("watching gRPC registrations"):
        registration.watch(by_hand=True)
    activity.serving()


class MetricsServerInterceptor(ServerInterceptor):
    """Measure each call: duration in seconds, and messages of streams."""

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        super().__init__(None, Metering(SERVER, meter_provider))
        _by_hand()


class TracingServerInterceptor(ServerInterceptor):
    """Make a span of each call, under the caller's, and current in the handler."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        super().__init__(Tracing(tracer_provider), None)
        _by_hand()
