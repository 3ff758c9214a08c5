"""One websocket connection: a server span named by its route, from the handshake to the end.

The conventions have no duration metric for it. `http.response.status_code` is that of the handshake:
101 where it was accepted, 403 where it was refused, 500 where the app failed before either.
"""

from __future__ import annotations

from opentelemetry.trace import Span, StatusCode

from flx_otel_distro import semconv
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.failures import error_type, record
from flx_otel_instrumentors.fastapi.asgi import Message, Receive, Send

UNROUTED = "websocket"
"""Name of the span of a connection that matched no route."""

CLOSE_CODE = "websocket.close.code"
"""Attribute: the close code (RFC 6455 section 7.4) of whichever side closed first; no convention has one."""


class Connection:
    """Observe one connection; used by its task and what that starts, never from two threads at once."""

    __slots__ = ("_close_code", "_receive", "_send", "_status", "recording", "route", "span")

    def __init__(self, span: Span, receive: Receive, send: Send) -> None:
        self.span = span
        self.recording = span.is_recording()
        self.route: str | None = None
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._close_code: int | None = None

    def routed(self, template: str) -> None:
        """Take the template of the route that was selected; a later one is more precise."""
        if template != self.route:
            self.route = template
            if self.recording:
                self.span.update_name(template)
                self.span.set_attribute(semconv.HTTP_ROUTE, template)

    def cede(self) -> None:
        """Do nothing: a connection has no metrics."""

    async def receive(self) -> Message:
        """Receive for the app, and note how the client closed."""
        message = await self._receive()
        if message.get("type") == "websocket.disconnect" and self._close_code is None:
            self._close_code = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        """Send for the app, and note the answer to the handshake and how the app closed."""
        await self._send(message)
        kind = message["type"]
        if kind == "websocket.accept":
            self._status = 101
        elif kind == "websocket.close":
            if self._status is None:
                self._status = 403
            elif self._close_code is None:
                self._close_code = message.get("code", 1000)
        elif kind == "websocket.http.response.start":
            self._status = message.get("status")

    def close(self, error: BaseException | None) -> None:
        """End the span. Never raises; called once.

        The framework tells the app of a client that went away by an exception, `WebSocketDisconnect`;
        where the app lets it pass, that is no error.
        """
        if not self.recording:
            return
        span = self.span
        try:
            gone = self._close_code is not None and type(error).__name__ == "WebSocketDisconnect"
            if error is not None and not gone:
                if self._status is None and isinstance(error, Exception):
                    self._status = 500
                span.set_attribute(semconv.ERROR_TYPE, error_type(error))
                span.set_status(StatusCode.ERROR)
            elif self._status is not None and self._status >= 500:
                span.set_attribute(semconv.ERROR_TYPE, str(self._status))
                span.set_status(StatusCode.ERROR)
            if self._status is not None:
                span.set_attribute(semconv.HTTP_RESPONSE_STATUS_CODE, self._status)
            if self._close_code is not None:
                span.set_attribute(CLOSE_CODE, self._close_code)
            if isinstance(error, Exception) and not gone:
                record(span, error)
        except Exception as fault_of_ours:  # noqa: BLE001 - such as an exception whose text raises
            fault("describing a websocket", fault_of_ours)
        try:
            span.end()
        except Exception as fault_of_ours:  # noqa: BLE001 - a span processor of anyone
            fault("ending a span", fault_of_ours)
