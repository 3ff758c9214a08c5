"""Read the caller's trace context from ASGI headers.

ASGI headers are pairs of bytes with lower-case names. They are decoded as latin-1, which never
fails. Repeated headers are joined by a comma, as RFC 9110 section 5.3 allows for lists: right for
`tracestate` and `baggage`, and a repeated `traceparent` becomes invalid, as W3C Trace Context asks.
"""

from __future__ import annotations

from opentelemetry.propagators.textmap import Getter, TextMapPropagator

from flx_otel_instrumentors import propagation

Carrier = dict[str, str]


class HeaderGetter(Getter[Carrier]):
    """Give a propagator the headers collected from a request; stateless."""

    lower_case = True

    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        """Return the value of header `key` as a list of one, or None."""
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Carrier) -> list[str]:
        """Return the names of the headers collected."""
        return list(carrier)


GETTER = HeaderGetter()


def names(propagator: TextMapPropagator) -> frozenset[bytes] | None:
    """Return the headers `propagator` reads, or None where it may read any (it is not one we know)."""
    read = propagation.names(propagator)
    return None if read is None else frozenset(each.encode("latin-1") for each in read)


def add(carrier: Carrier | None, name: bytes, value: bytes) -> Carrier:
    """Return `carrier` with one more header, joined to an earlier one of the same name."""
    key, said = name.decode("latin-1").lower(), value.decode("latin-1")
    if carrier is None:
        return {key: said}
    carrier[key] = f"{carrier[key]},{said}" if key in carrier else said
    return carrier
