"""Server interceptors, for grpc's sync and asyncio servers alike.

    grpc.aio.server(interceptors=[MetricsServerInterceptor(), TracingServerInterceptor()])

However many of them a call passes, the outermost does the work of all: one span and one measurement a
call. It knows of the others because they run inside its `continuation`.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from contextvars import ContextVar
from time import perf_counter_ns
from typing import Any, Protocol

import grpc
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from flx_otel_distro.contexts import current
from flx_otel_distro.guard import fault, guarded
from flx_otel_distro.prometheus import activity
from flx_otel_instrumentors.grpc import registration
from flx_otel_instrumentors.grpc.aio_server import (
    COROUTINE,
    GENERATOR,
    POOLED,
    POOLED_STREAM,
    WRITER,
    AioServerCall,
    style_of,
)
from flx_otel_instrumentors.grpc.server import CANCELLED, Plan, ServerCall, answering
from flx_otel_instrumentors.grpc.sync_server import SyncServerCall
from flx_otel_instrumentors.grpc.telemetry import SERVER, Catalog, Metering, Method, Tracing


class ReceivedCall(SyncServerCall, AioServerCall):
    """A call of either kind of server, made before its handler is known."""

    __slots__ = ("aio", "request_streaming", "response_streaming")

    def __init__(
        self,
        details: Any,
        method: Method | None,
        tracing: Tracing | None,
        metering: Metering | None,
        started: int,
    ) -> None:
        super().__init__(details, method, tracing, metering, started)
        self.aio = self.request_streaming = self.response_streaming = False


class _Covering(Protocol):
    """What an inner interceptor may give its own to, where the outermost has none."""

    tracing: Tracing | None
    metering: Metering | None


_covering: ContextVar[_Covering | None] = ContextVar("flx_grpc_covering", default=None)
"""What observes the call whose handler is being looked up, within the outermost interceptor's continuation."""

_sync_base: Any = grpc.ServerInterceptor
_aio_base: Any = grpc.aio.ServerInterceptor
_handlers_base: Any = grpc.GenericRpcHandler


class ServerInterceptor(_sync_base, _aio_base):
    """Observe the calls of a server. Thread-safe; may be shared by servers, sync and asyncio."""

    def __init__(self, tracing: Tracing | None, metering: Metering | None, catalog: Catalog | None = None) -> None:
        self.tracing = tracing
        self.metering = metering
        self.catalog = Catalog() if catalog is None else catalog
        self.enabled = True
        """False once the instrumentation that placed this interceptor is undone."""

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
            self.failed(call, error)
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
            self.failed(call, error)
            raise
        _covering.reset(token)
        return self._observe(call, handler)

    def leaves_no_trace(self, path: str, known: Method | None) -> bool:
        """Return whether a call of `path` is not to be observed; `known` is what was learned under it."""
        if not self.enabled or (known is None and self.catalog.excludes(path)):
            return True
        return bool(current()) and not is_instrumentation_enabled()  # an empty context suppresses nothing

    def _call(self, details: Any) -> ReceivedCall | None:
        try:
            path = details.method
            known = self.catalog.known(path)
            if self.leaves_no_trace(path, known):
                return None
            return ReceivedCall(details, known, self.tracing, self.metering, perf_counter_ns())
        except Exception as problem:  # noqa: BLE001
            fault("receiving a gRPC call", problem)
            return None

    def failed(self, call: ReceivedCall, error: BaseException) -> None:
        """End a call whose handler another interceptor refused to give."""
        call.method = call.method or self.catalog.other
        if isinstance(error, Exception):
            call.end("UNKNOWN", error, f"{type(error).__name__}: {error}")
        else:
            call.end("CANCELLED")

    def _observe(self, call: ReceivedCall, handler: Any) -> Any:
        try:
            method = call.method = self.method_of(call.received.method, call.method)
            if handler is None:
                call.end("UNIMPLEMENTED", details="Method not found!")
                return None
            return _stand_in(call, self.plan_of(method, handler, call.aio))
        except Exception as problem:  # noqa: BLE001
            fault("observing a gRPC handler", problem)
            return handler

    def method_of(self, path: str, known: Method | None) -> Method:
        """Return the method that a call of `path` counts as."""
        if known is not None:
            return known
        # An interceptor or a generic handler of the app may answer any name an outsider calls.
        return self.catalog.learn(path) if registration.knows(path) else self.catalog.other

    def plan_of(self, method: Method, handler: Any, aio: bool) -> Plan:
        """Return how the calls of `handler` are observed."""
        plan: Plan | None = method.plan
        if plan is not None and plan.handler is handler and plan.aio is aio:
            return plan
        plan = _plan(handler, aio)
        if method is not self.catalog.other and type(handler) is _LASTING:
            method.plan = plan
        return plan


class OutermostInterceptor(ServerInterceptor):
    """The one that nobody but us placed, before all others of the app: what it returns is seen by grpc alone.

    `alone` says that the app has none of its own, `limited` that the server refuses calls beyond a maximum, `aio`
    that it is an asyncio one.
    """

    def __init__(self, tracing: Tracing, metering: Metering, *, alone: bool, limited: bool, aio: bool) -> None:
        super().__init__(tracing, metering)
        self.aio = aio
        self.alone = alone
        self.limited = limited
        self.known = self.catalog.known
        self._unheard: tuple[str, int | None] = ("RESOURCE_EXHAUSTED", None) if limited else CANCELLED

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler with its calls observed; it is the call itself, as a rule."""
        started = perf_counter_ns()
        known: Method | None = None
        observed = False
        try:
            path = handler_call_details.method
            known = self.known(path)
            observed = (
                known is not None and self.enabled and not current() and (self.alone or _covering.get() is None)
            ) or self.observes(path, known)
        except Exception as problem:  # noqa: BLE001
            fault("receiving a gRPC call", problem)
        if not observed:
            return continuation(handler_call_details)
        token = None if self.alone else _covering.set(self)
        try:
            handler = continuation(handler_call_details)
        except BaseException as error:
            self.refused(handler_call_details, known, started, error)
            raise
        finally:
            if token is not None:
                _covering.reset(token)
        return self.answer(handler_call_details, known, handler, started)

    def execute(self, thunk: Any, details: Any) -> Any:
        """Answer what grpc's sync server asks its pipeline of interceptors, where there is no other."""
        started = perf_counter_ns()
        try:
            handler = thunk(details)
        except BaseException as error:
            self.raised(details, error)
            raise
        return self.observed(details, handler, started)

    def observed(self, details: Any, handler: Any, started: int) -> Any:
        """Return the call that grpc is to take for `handler`, with no other interceptor around us.

        A method seen before, with the same handler, takes the least way: what `answer` does, in one go.
        """
        try:
            known: Method | None = self.known(details.method)
            plan: Plan | None = known.plan if known is not None else None
            if (
                plan is not None
                and plan.handler is handler
                and plan.aio is self.aio
                and plan.answer is not None
                and not (plan.watched or self.limited or current())
                and self.enabled
            ):
                call: ServerCall = _new(plan.answer)
                call._started = started
                call._open = call.ended = call.awaited = False
                call.method = known
                call.tracing = self.tracing
                call.metering = self.metering
                call.span = call.context = call.rpc = call.outcome = None
                call.requests = call.responses = 0
                call.received = details
                call.plan = plan
                call.unheard = CANCELLED
                return call
        except Exception as problem:  # noqa: BLE001
            fault("observing a gRPC handler", problem)

        def found(_: Any) -> Any:
            return handler

        return self.intercept_service(found, details)

    def raised(self, details: Any, error: BaseException) -> None:
        """Note a call for which the app's own code raised instead of giving a handler."""

        def again(_: Any) -> Any:
            raise error

        with contextlib.suppress(BaseException):
            self.intercept_service(again, details)

    def observes(self, path: str, known: Method | None) -> bool:
        """Return whether the call is to be observed, where that is not plain."""
        return _covering.get() is None and not self.leaves_no_trace(path, known)

    def refused(self, details: Any, known: Method | None, started: int, error: BaseException) -> None:
        """Note a call whose handler the app's own code refused to give."""
        try:
            self.failed(ReceivedCall(details, known, self.tracing, self.metering, started), error)
        except Exception as problem:  # noqa: BLE001 - also an exception that cannot be printed
            fault("receiving a gRPC call", problem)

    def answer(self, details: Any, known: Method | None, handler: Any, started: int) -> Any:
        """Return what grpc is to call in place of `handler`."""
        try:
            method = self.method_of(details.method, None) if known is None else known
            aio = self.aio
            plan: Plan | None = None
            if handler is not None:
                plan = method.plan
                if plan is None or plan.handler is not handler or plan.aio is not aio:
                    plan = self.plan_of(method, handler, aio)
            made = ReceivedCall if plan is None or plan.answer is None else plan.answer
            if aio and self.limited and plan is not None and plan.answer is not None:
                made = plan.answer_of_limited
            call = made(details, method, self.tracing, self.metering, started)
            if plan is None:
                call.end("UNIMPLEMENTED", details="Method not found!")
                return None
            answer = call
            call.plan = plan
            if made is ReceivedCall:
                call.aio = aio
                answer = _stand_in(call, plan)
                if answer is handler:
                    return handler
            elif plan.watched:
                _watch_task(call)
            call.unheard = self._unheard if aio or not self.limited else ("RESOURCE_EXHAUSTED", threading.get_ident())
            return answer
        except Exception as problem:  # noqa: BLE001
            fault("observing a gRPC handler", problem)
            return handler


class AioOutermostInterceptor(OutermostInterceptor):
    """The same before the interceptors of an asyncio server."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler with its calls observed."""
        started = perf_counter_ns()
        known: Method | None = None
        observed = False
        try:
            path = handler_call_details.method
            known = self.known(path)
            observed = (
                known is not None and self.enabled and not current() and _covering.get() is None
            ) or self.observes(path, known)
        except Exception as problem:  # noqa: BLE001
            fault("receiving a gRPC call", problem)
        if not observed:
            return await continuation(handler_call_details)
        token = None if self.alone else _covering.set(self)
        try:
            handler = await continuation(handler_call_details)
        except BaseException as error:
            self.refused(handler_call_details, known, started, error)
            raise
        finally:
            if token is not None:
                _covering.reset(token)
        return self.answer(handler_call_details, known, handler, started)


class ObservingHandlers(_handlers_base):
    """All handlers of an asyncio server without interceptors, in place of them: what it answers is observed.

    An interceptor makes grpc run three coroutines more for each call; a handler that asks the others makes it run
    none. What is registered for one method goes before what is generic, as with grpc.
    """

    def __init__(self, interceptor: OutermostInterceptor, generic: list[Any]) -> None:
        self.interceptor = interceptor
        self.generic = generic
        self.registered: dict[str, Any] = {}
        self.started = False

    def service(self, handler_call_details: Any) -> Any:
        """Return what grpc is to call."""
        started = perf_counter_ns()
        try:
            handler = self.registered.get(handler_call_details.method)
            if handler is None:
                for each in self.generic:
                    handler = each.service(handler_call_details)
                    if handler is not None:
                        break
        except BaseException as error:
            self.interceptor.raised(handler_call_details, error)
            raise
        return self.interceptor.observed(handler_call_details, handler, started)


_new: Any = object.__new__
_makers: Any = grpc  # the module's functions carry no types
_LASTING: Any = _makers.unary_unary_rpc_method_handler(None).__class__
"""The class of handlers that never change, a tuple; an app's own may."""

_UNTOUCHED = ""
_OWN_POOL = "own_pool:"


def _plan(handler: Any, aio: bool) -> Plan:
    plan = Plan(handler, aio)
    streaming = plan.response_streaming
    plan.style = _style(plan.behavior, streaming, aio)
    kind = (plan.style, plan.request_streaming, plan.request_streaming or plan.read is not None)
    plan.answer, plan.answer_of_limited = _ANSWERS.get(kind, (None, None))
    plan.watched = aio and plan.style.startswith("pooled")
    return plan


def _style(behavior: Any, streaming: bool, aio: bool) -> str:
    if aio:
        return style_of(behavior, streaming)
    if getattr(behavior, "experimental_non_blocking", False):
        return _UNTOUCHED  # an experiment of grpc: it answers by a callback, with no end to observe
    name = "sync_stream" if streaming else "sync_unary"
    return _OWN_POOL + name if getattr(behavior, "experimental_thread_pool", None) is not None else name


_ANSWERS: dict[tuple[str, bool, bool], tuple[Any, Any]] = {
    (style, requests, reading): (
        answering(base, style, requests, responses, reading),
        answering(base, style, requests, responses, reading, limited=True),
    )
    for base, style, responses in (
        (SyncServerCall, "sync_unary", False),
        (SyncServerCall, "sync_stream", True),
        (AioServerCall, COROUTINE, False),
        (AioServerCall, WRITER, True),
        (AioServerCall, GENERATOR, True),
        (AioServerCall, POOLED, False),
        (AioServerCall, POOLED_STREAM, True),
    )
    for requests, reading in ((False, False), (False, True), (True, True))
}


def _stand_in(call: ReceivedCall, plan: Plan) -> Any:
    """Return a handler of grpc's kind for `call`, which another interceptor may look into and change."""
    name = plan.style
    if name == _UNTOUCHED:
        return plan.handler
    call.plan = plan
    call.request_streaming = plan.request_streaming
    call.response_streaming = plan.response_streaming
    entry: Any
    if name.startswith(_OWN_POOL):
        entry = functools.partial(getattr(call, name.removeprefix(_OWN_POOL)))
        entry.experimental_thread_pool = plan.behavior.experimental_thread_pool
    else:
        entry = getattr(call, name)
    if plan.watched:
        _watch_task(call)
    return call.stand_in(entry)


def _watch_task(call: ServerCall) -> None:
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
