"""A span for each ASGI receive and send, for those who ask (`FLX_OTEL_ASGI_MESSAGE_SPANS=true`)."""

from __future__ import annotations

from opentelemetry.trace import Tracer

from flx_otel_distro import semconv
from flx_otel_instrumentors.fastapi.asgi import Message, Receive, Scope, Send

EVENT_TYPE = "asgi.event.type"


def traced(tracer: Tracer, name: str, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Return `receive` and `send` with a span around each call, named as upstream names them."""
    protocol: str = scope["type"]

    async def traced_receive() -> Message:
        with tracer.start_as_current_span(f"{name} {protocol} receive") as span:
            message = await receive()
            span.set_attribute(EVENT_TYPE, message["type"])
            return message

    async def traced_send(message: Message) -> None:
        with tracer.start_as_current_span(f"{name} {protocol} send") as span:
            span.set_attribute(EVENT_TYPE, message["type"])
            if "status" in message:
                span.set_attribute(semconv.HTTP_RESPONSE_STATUS_CODE, int(message["status"]))
            await send(message)

    return traced_receive, traced_send
