"""The ASGI layer itself: decide, start the span, call the app once, close.

Both ways in, the patched application classes and `ObservabilityMiddleware`, end here. Our own code
runs in small guarded blocks before and after the app's call, never around it; where it fails before
the call, the app gets the request unobserved.
"""

from __future__ import annotations

import os
from contextvars import Token
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Span, SpanKind, TracerProvider, set_span_in_context

from flx_otel_distro import environment, semconv
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault, guarded
from flx_otel_distro.prometheus import activity
from flx_otel_instrumentors.fastapi import capture, propagation
from flx_otel_instrumentors.fastapi.asgi import OBSERVED, PREFIX, App, Receive, Scope, Send
from flx_otel_instrumentors.fastapi.description import MOST_METHOD, describe, path_of
from flx_otel_instrumentors.fastapi.exchange import Exchange
from flx_otel_instrumentors.fastapi.exclusion import Exclusion
from flx_otel_instrumentors.fastapi.instruments import Instruments
from flx_otel_instrumentors.fastapi.kinds import kind
from flx_otel_instrumentors.fastapi.messages import traced
from flx_otel_instrumentors.fastapi.websocket import UNROUTED, Connection

NATIVE = "fastapi.telemetry"
"""Scope key under which newer FastAPI keeps its own telemetry; where it is present FastAPI adds none."""

Begun = tuple[Exchange | Connection, Receive, Send, Token[Context]]

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
        self._carried: frozenset[bytes] | None = None

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send, root: str) -> None:
        """Call `app` once, observed. `root` is the application root, a prefix of every route."""
        begun: Begun | None = None
        try:
            begun = self._begin(scope, receive, send, root)
        except Exception as error:  # noqa: BLE001 - the app gets its request all the same
            fault("observing a request", error)
        scope.setdefault(NATIVE, None)
        if begun is None:
            scope.setdefault(OBSERVED, None)
            await app(scope, receive, send)
            return
        observed, receive, send, token = begun
        try:
            await app(scope, receive, send)
        except BaseException as error:
            observed.close(error)
            raise
        else:
            observed.close(None)
        finally:
            otel.detach(token)

    def _begin(self, scope: Scope, receive: Receive, send: Send, root: str) -> Begun | None:
        """Start observing, or return None where the request leaves no trace."""
        current = otel.get_current()
        if current and not is_http_instrumentation_enabled():
            return None
        if self._exclusion.covers(scope, root):
            return None
        if not _announced:
            announce()
        instruments = self._instruments
        if instruments is None:
            instruments = self._instruments = Instruments(*self._providers)
        if scope["type"] == "websocket":
            return self._websocket(instruments, current, scope, receive, send, root)

        textmap = get_global_textmap()
        if textmap is not self._textmap:
            self._carried = propagation.names(textmap)
            self._textmap = textmap
        carried = self._carried
        carrier: propagation.Carrier | None = None
        length: int | None = None
        streamed = False
        for name, value in scope["headers"]:
            if carried is None or name in carried:
                carrier = propagation.add(carrier, name, value)
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 19 else None
            elif name == b"transfer-encoding":
                streamed = True
        parent = current if carrier is None else textmap.extract(carrier, current, getter=propagation.GETTER)

        method: str = scope["method"]
        what = kind(method, scope.get("scheme", "http"), scope.get("http_version", "1.1"))
        attributes: dict[str, Any] = {
            semconv.HTTP_REQUEST_METHOD: what.method,
            semconv.URL_SCHEME: what.scheme,
            semconv.URL_PATH: path_of(scope, root),
        }
        span = instruments.tracer.start_span(what.verb, parent, SpanKind.SERVER, attributes)
        try:
            context = set_span_in_context(span, parent)
            exchange = Exchange(what, span, context, instruments, receive, send, self._response_headers)
            if exchange.recording:
                self._describe(span, scope)
                span.set_attribute(semconv.NETWORK_PROTOCOL_VERSION, what.labels[semconv.NETWORK_PROTOCOL_VERSION])
                if what.method == semconv.OTHER:
                    span.set_attribute(semconv.HTTP_REQUEST_METHOD_ORIGINAL, scrubbed(method, MOST_METHOD))
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
        scope.setdefault(PREFIX, root.rstrip("/"))
        scope[OBSERVED] = exchange
        return exchange, receive, send, otel.attach(context)

    def _websocket(
        self, instruments: Instruments, current: Context, scope: Scope, receive: Receive, send: Send, root: str
    ) -> Begun:
        carrier: propagation.Carrier | None = None
        for name, value in scope["headers"]:
            carrier = propagation.add(carrier, name, value)
        parent = get_global_textmap().extract(carrier or {}, current, getter=propagation.GETTER)
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
                self._describe(span, scope)
            receive, send = connection.receive, connection.send
            if self._message_spans:
                receive, send = traced(instruments.tracer, UNROUTED, scope, receive, send)
        except Exception:
            span.end()
            raise
        scope.setdefault(PREFIX, root.rstrip("/"))
        scope[OBSERVED] = connection
        return connection, receive, send, otel.attach(set_span_in_context(span, parent))

    def _describe(self, span: Span, scope: Scope) -> None:
        for name, value in describe(scope).items():
            span.set_attribute(name, value)
        if self._request_headers is not None:
            for name, values in self._request_headers.attributes(scope["headers"]).items():
                span.set_attribute(name, values)
