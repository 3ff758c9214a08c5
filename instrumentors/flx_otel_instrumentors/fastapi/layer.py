"""The ASGI layer itself: decide, start the span, call the app once, close.

Both ways in, the patched application classes and `ObservabilityMiddleware`, are made by `observing`. Our
own code runs in small guarded blocks before and after the app's call, never around it; where it fails
before the call, the app gets the request unobserved.

What a request costs is counted in calls: a coroutine around the app's own is made once, attributes are
put together for sampled requests only, and what depends on the app alone is kept with the app.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Span, SpanContext, SpanKind, TracerProvider

from flx_otel_distro import environment, semconv
from flx_otel_distro.contexts import attach, current, detach, with_span
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault, guarded
from flx_otel_distro.prometheus import activity
from flx_otel_instrumentors.fastapi import capture, propagation
from flx_otel_instrumentors.fastapi.asgi import OBSERVED, PREFIX, Receive, Scope, Send
from flx_otel_instrumentors.fastapi.description import MOST_METHOD, describe, path_of
from flx_otel_instrumentors.fastapi.exchange import Exchange
from flx_otel_instrumentors.fastapi.exclusion import Exclusion
from flx_otel_instrumentors.fastapi.instruments import Instruments
from flx_otel_instrumentors.fastapi.kinds import Kind, kind
from flx_otel_instrumentors.fastapi.messages import traced
from flx_otel_instrumentors.fastapi.websocket import UNROUTED, Connection

NATIVE = "fastapi.telemetry"
"""Scope key under which newer FastAPI keeps its own telemetry; where it is present FastAPI adds none."""

Begun = tuple[Exchange | Connection, Receive, Send, Token[Context]]
Call = Callable[[Any, Scope, Receive, Send], Awaitable[None]]
Enter = Callable[[Any, Scope, Receive, Send], Begun | None]

_SIZES = frozenset({b"content-length", b"transfer-encoding"})

_announced = False


def announce() -> None:
    """Say once in each process that it serves, so that the metrics endpoint starts."""
    global _announced
    if not _announced:
        _announced = True
        with guarded("starting the metrics endpoint"):
            activity.serving()


def _forget() -> None:
    global _announced
    _announced = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def observing(enter: Enter, call: Call) -> Call:
    """Return `call`, the `__call__` of an ASGI app, as a coroutine function that is observed where `enter` says so.

    `enter` gets the same arguments, must not raise, and returns None where `call` gets them unchanged.
    """

    @functools.wraps(call)
    async def __call__(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        begun = enter(app, scope, receive, send)
        if begun is None:
            await call(app, scope, receive, send)
            return
        observed, receive, send, token = begun
        try:
            await call(app, scope, receive, send)
        except BaseException as error:
            observed.close(error)
            raise
        else:
            observed.close(None)
        finally:
            detach(token)
            # Servers keep the scope with what receives and sends, which we hold: a cycle would leave everything
            # of every request to the garbage collector.
            scope[OBSERVED] = None

    return __call__


class Layer:
    """Settings and instruments of one way in. Shared by all its requests, in any thread; survives a fork."""

    def __init__(
        self,
        *,
        excluded_urls: str | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Read the variables once. Raises ConfigurationError under strict mode for a wrong one."""
        self._exclusion = Exclusion.read(urls=excluded_urls)
        self._request_headers, self._response_headers = capture.read()
        self._message_spans = environment.ASGI_MESSAGE_SPANS.read()
        self._providers = (tracer_provider, meter_provider)
        self._instruments: Instruments | None = None
        self._textmap: TextMapPropagator | None = None
        self._read: frozenset[bytes] | None = None

    def enter(self, scope: Scope, receive: Receive, send: Send, root: str) -> Begun | None:
        """Start observing a request; None where it leaves no trace. `root` is the prefix of every route.

        What it returns besides the observer and the token of its context is what the app is to be called with.
        Never raises.
        """
        begun: Begun | None = None
        try:
            begun = self._begin(scope, receive, send, root)
        except Exception as error:  # noqa: BLE001 - the app gets its request all the same
            fault("observing a request", error)
        scope.setdefault(NATIVE, None)
        if begun is None:
            scope.setdefault(OBSERVED, None)
        return begun

    def _begin(self, scope: Scope, receive: Receive, send: Send, root: str) -> Begun | None:
        """Start observing, or return None where the request leaves no trace."""
        above = current()
        if above and not is_http_instrumentation_enabled():
            return None
        if self._exclusion.covers(scope, root):
            return None
        if not _announced:
            announce()
        instruments = self._instruments
        if instruments is None:
            instruments = self._instruments = Instruments(*self._providers)
        if scope["type"] == "websocket":
            return self._websocket(instruments, above, scope, receive, send, root)

        textmap = get_global_textmap()
        if textmap is not self._textmap:
            carried = propagation.names(textmap)
            self._read = None if carried is None else carried | _SIZES
            self._textmap = textmap
        read = self._read
        carrier: propagation.Carrier | None = None
        length: int | None = None
        streamed = False
        for name, value in scope["headers"]:
            if read is not None and name not in read:
                continue
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 19 else None
            elif name == b"transfer-encoding":
                streamed = True
            else:
                carrier = propagation.add(carrier, name, value)
        parent = above if carrier is None else textmap.extract(carrier, above, getter=propagation.GETTER)

        what = kind(scope["method"], scope.get("scheme", "http"), scope.get("http_version", "1.1"))
        decision: Any = instruments.spans.decide(parent)
        span: Span
        if decision is None or type(decision) is SpanContext:
            span = self._span(instruments, decision, parent, what, scope, root)
            recording = span.is_recording()
        else:
            span, recording = decision, False
        try:
            context = with_span(parent, span)
            exchange = Exchange(what, span, context, instruments, receive, send, self._response_headers, recording)
            if length is not None:
                exchange.request_size = length
            elif streamed or what.may_have_body:
                receive = exchange.receive
            send = exchange.send
            if self._message_spans:
                receive, send = traced(instruments.tracer, what.verb, scope, receive, send)
            exchange.open()
        except Exception:
            span.end()
            raise
        scope.setdefault(PREFIX, root.rstrip("/") if root else "")
        scope[OBSERVED] = exchange
        return exchange, receive, send, attach(context)

    def _span(
        self,
        instruments: Instruments,
        decision: SpanContext | None,
        parent: Context,
        what: Kind,
        scope: Scope,
        root: str,
    ) -> Span:
        """Start the span of a request that is sampled, or of which only the tracer knows whether it is."""
        attributes: dict[str, Any] = {
            semconv.HTTP_REQUEST_METHOD: what.method,
            semconv.URL_SCHEME: what.scheme,
            semconv.URL_PATH: path_of(scope, root),
        }
        if decision is not None:
            self._describe(attributes, what, scope)
            span = instruments.spans.span(what.verb, decision, parent, SpanKind.SERVER, attributes)
        else:
            span = instruments.tracer.start_span(what.verb, parent, SpanKind.SERVER, attributes)
            if not span.is_recording():
                return span
            rest: dict[str, Any] = {}
            self._describe(rest, what, scope)
            span.set_attributes(rest)
        if self._request_headers is not None:
            with guarded("capturing headers"):
                span.set_attributes(self._request_headers.attributes(scope["headers"]))
        return span

    def _websocket(
        self, instruments: Instruments, above: Context, scope: Scope, receive: Receive, send: Send, root: str
    ) -> Begun:
        carrier: propagation.Carrier | None = None
        for name, value in scope["headers"]:
            carrier = propagation.add(carrier, name, value)
        parent = get_global_textmap().extract(carrier or {}, above, getter=propagation.GETTER)
        what = kind("GET", scope.get("scheme", "ws"), scope.get("http_version", "1.1"))
        attributes: dict[str, Any] = {
            semconv.HTTP_REQUEST_METHOD: what.method,
            semconv.URL_SCHEME: what.scheme,
            semconv.URL_PATH: path_of(scope, root),
            semconv.NETWORK_PROTOCOL_NAME: "websocket",
        }
        span = instruments.tracer.start_span(UNROUTED, parent, SpanKind.SERVER, attributes)
        try:
            connection = Connection(span, receive, send)
            if connection.recording:
                span.set_attributes(describe(scope))
                if self._request_headers is not None:
                    span.set_attributes(self._request_headers.attributes(scope["headers"]))
            receive, send = connection.receive, connection.send
            if self._message_spans:
                receive, send = traced(instruments.tracer, UNROUTED, scope, receive, send)
        except Exception:
            span.end()
            raise
        scope.setdefault(PREFIX, root.rstrip("/"))
        scope[OBSERVED] = connection
        return connection, receive, send, attach(with_span(parent, span))

    @staticmethod
    def _describe(attributes: dict[str, Any], what: Kind, scope: Scope) -> None:
        attributes.update(describe(scope))
        attributes[semconv.NETWORK_PROTOCOL_VERSION] = what.labels[semconv.NETWORK_PROTOCOL_VERSION]
        if what.method == semconv.OTHER:
            attributes[semconv.HTTP_REQUEST_METHOD_ORIGINAL] = scrubbed(scope["method"], MOST_METHOD)
