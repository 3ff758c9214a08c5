"""Put the trace context into a response, where the user set a response propagator."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Setter

from flx_otel_instrumentors.fastapi.asgi import Message

Headers = list[tuple[bytes, bytes]]


class _HeaderSetter(Setter[Headers]):
    def set(self, carrier: Headers, key: str, value: str) -> None:
        carrier.append((key.lower().encode("latin-1"), value.encode("latin-1")))


_SETTER = _HeaderSetter()


def with_propagation(propagator: Any, message: Message, context: Context) -> Message:
    """Return a copy of `message` (`http.response.start`) with the propagator's headers at the end.

    `propagator` is an `opentelemetry.instrumentation.propagators.ResponsePropagator`, an untyped class.
    """
    headers: Headers = list(message.get("headers") or ())
    propagator.inject(headers, context=context, setter=_SETTER)
    return {**message, "headers": headers}
