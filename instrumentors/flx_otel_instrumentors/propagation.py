"""Which headers the global propagator reads, so that a call without any of them need not ask it."""

from __future__ import annotations

from typing import Any, cast

from opentelemetry.propagators.textmap import TextMapPropagator

_LEAVES = {
    "opentelemetry.trace.propagation.tracecontext": ("traceparent", "tracestate"),
    "opentelemetry.baggage.propagation": ("baggage",),
    "opentelemetry.propagators.b3": (
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    ),
}
"""What the propagators of a module read. B3's `fields` are only what it writes; it reads both its formats."""

_COMPOSITES = frozenset({"opentelemetry.propagators.composite", "flx_otel_configurators.propagation"})


def names(propagator: TextMapPropagator) -> frozenset[str] | None:
    """Return the headers `propagator` reads, in lower case; None where it may read any, as it is not one we know.

    One that is known leaves the context as it is where none of them is there. A subclass made elsewhere is not.
    """
    module = type(propagator).__module__
    if module in _LEAVES:
        return frozenset(_LEAVES[module])
    inner: Any = getattr(propagator, "_propagators", None)
    if module not in _COMPOSITES or not isinstance(inner, list | tuple):
        return None
    found: set[str] = set()
    for each in cast("list[TextMapPropagator]", inner):
        read = names(each)
        if read is None:
            return None
        found |= read
    return frozenset(found)
