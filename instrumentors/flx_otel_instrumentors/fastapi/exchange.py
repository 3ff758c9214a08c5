"""One HTTP request and its response, from the first byte to the end of the app's call.

The duration, the sizes and `active_requests` are settled when the last byte of the response has been
sent, so that neither a background task nor the tidying of dependencies counts. Where the status is
5xx they wait for the app to return, because only then the exception behind it is known. The span
ends when the app has returned, with the time of the last byte as its end: an exception of a
background task is still recorded, and the context stays current all along.
"""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter, time_ns
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.instrumentation.propagators import get_global_response_propagator
from opentelemetry.trace import Span, StatusCode

from flx_otel_distro import semconv
from flx_otel_distro.guard import fault
from flx_otel_distro.spans import describe, finish
from flx_otel_instrumentors.failures import error_type, record
from flx_otel_instrumentors.fastapi.asgi import Message, Receive, Send
from flx_otel_instrumentors.fastapi.capture import HeaderCapture
from flx_otel_instrumentors.fastapi.instruments import Active, Instruments
from flx_otel_instrumentors.fastapi.kinds import Kind
from flx_otel_instrumentors.fastapi.responses import with_propagation

INCOMPLETE = "incomplete_response"
"""`error.type` where the app returned before its response was complete: the client went away, as a rule."""


class Exchange:
    """Observe one request; used by its task and what that starts, never from two threads at once."""

    __slots__ = (
        "_active", "_capture", "_elapsed", "_ended", "_headers", "_instruments", "_receive", "_received", "_send",
        "_sent", "_settled", "_started", "_trailers", "ceded", "context", "kind", "recording", "request_size", "route",
        "span", "status",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        span: Span,
        context: Context,
        instruments: Instruments,
        receive: Receive,
        send: Send,
        capture: HeaderCapture | None,
        recording: bool,
    ) -> None:
        self.kind = kind
        self.span = span
        self.context = context
        self.recording = recording
        self.route: str | None = None
        self.status: int | None = None
        self.request_size: int | None = None
        """Bytes the content-length announced; None where they are counted as they are read."""
        self.ceded = False
        self._instruments = instruments
        self._receive = receive
        self._send = send
        self._capture = capture
        self._received = 0
        self._sent = 0
        self._trailers = False
        self._headers: Any = ()
        self._active: Active | None = None
        self._settled = False
        self._elapsed: float | None = None
        self._ended = 0
        self._started = perf_counter()

    def open(self) -> None:
        """Count the request as active; `close` must follow."""
        active = self._active = self._instruments.active(self.kind)
        next(active.begun)

    def routed(self, template: str) -> None:
        """Take the template of the route that was selected; a later one is more precise."""
        if template == self.route:
            return
        self.route = template
        if self.recording:
            self.span.update_name(self.kind.name(template))
            describe(self.span, {semconv.HTTP_ROUTE: template})

    def cede(self) -> None:
        """Leave the metrics to an inner app that is instrumented by others."""
        if not self.ceded:
            self.ceded = True
            self._inactive()

    async def receive(self) -> Message:
        """Receive for the app, and count the bytes of the body."""
        message = await self._receive()
        if message.get("type") == "http.request":
            self._received += len(message.get("body") or b"")
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Send for the app; what the server raises passes unchanged."""
        kind = message["type"]
        if kind == "http.response.start":
            try:
                message = self._start(message)
            except Exception as error:  # noqa: BLE001 - our own part of the way
                fault("observing a response", error)
            return self._send(message)
        return self._body(message) if kind == "http.response.body" else self._other(kind, message)

    async def _body(self, message: Message) -> None:
        await self._send(message)
        body = message.get("body")
        if body:
            self._sent += len(body)
        if not self._trailers and not message.get("more_body", False):
            self._complete()

    async def _other(self, kind: str, message: Message) -> None:
        await self._send(message)
        if kind == "http.response.pathsend":
            self._sent = _announced(self._headers)
            self._complete()
        elif kind == "http.response.trailers" and not message.get("more_trailers", False):
            self._complete()

    def _start(self, message: Message) -> Message:
        self.status = int(message["status"])
        self._trailers = bool(message.get("trailers", False))
        self._headers = message.get("headers") or ()
        if self.recording and self._capture is not None:
            self._headers = list(self._headers)
            for name, values in self._capture.attributes(self._headers).items():
                self.span.set_attribute(name, values)
        propagator = cast("Any", get_global_response_propagator())
        if propagator is None:
            return message
        return with_propagation(propagator, message, self.context)

    def _complete(self) -> None:
        """Take the time of the last byte; settle the metrics unless an exception may be on its way."""
        if self._elapsed is not None:
            return
        self._elapsed = perf_counter() - self._started
        if self.recording:
            self._ended = time_ns()
        if self.status is not None and self.status < 500:
            self._settle(None)

    def close(self, error: BaseException | None) -> None:
        """End the request: settle what is open, end the span. Never raises; called once."""
        failure: str | None = None
        try:
            if error is not None:
                failure = error_type(error)
                if self.status is None and isinstance(error, Exception):
                    self.status = 500
            elif self.status is not None and self.status >= 500:
                failure = str(self.status)
            elif self._elapsed is None:
                failure = INCOMPLETE
            if not self._settled:
                self._settle(failure)
        except Exception as fault_of_ours:  # noqa: BLE001 - the app's own outcome must pass
            fault("closing a request", fault_of_ours)
        if self.recording:
            self._end_span(error, failure)

    def _settle(self, failure: str | None) -> None:
        self._settled = True
        if self.ceded:
            return
        try:
            self._inactive()
            elapsed = self._elapsed
            if elapsed is None:
                elapsed = perf_counter() - self._started
            kind, size = self.kind, self.request_size
            received, sent = self._received if size is None else size, self._sent if kind.sends_body else 0
            series = self._instruments.series(kind, self.route, self.status, failure)
            series.record((elapsed, received, sent), self.context, self.recording)
        except Exception as error:  # noqa: BLE001 - our own recording
            fault("recording a request", error)

    def _inactive(self) -> None:
        active = self._active
        if active is not None:
            self._active = None
            next(active.ended)

    def _end_span(self, error: BaseException | None, failure: str | None) -> None:
        span = self.span
        try:
            found: dict[str, str | int] = {}
            if self.status is not None:
                found[semconv.HTTP_RESPONSE_STATUS_CODE] = self.status
            if failure is not None:
                found[semconv.ERROR_TYPE] = failure
                span.set_status(StatusCode.ERROR)
            describe(span, found)
            if isinstance(error, Exception):
                record(span, error)
                self._ended = 0
        except Exception as fault_of_ours:  # noqa: BLE001 - such as an exception whose text raises
            fault("describing a request", fault_of_ours)
        try:
            finish(span, self._ended or time_ns())
        except Exception as fault_of_ours:  # noqa: BLE001 - a span processor of anyone
            fault("ending a span", fault_of_ours)


def _announced(headers: Any) -> int:
    """Return the bytes that the response headers announce, 0 where they do not."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
    return 0
