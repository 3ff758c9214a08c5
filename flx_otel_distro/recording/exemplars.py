"""Whether a measurement may become an exemplar, and how it does: the SDK's filters and reservoirs, made short.

The trace-based filter, the default, looks at nothing but the context's span; for the spans that the SDK
makes, their flags are read in place. A reservoir finds a slot and fills it; both are done here in one go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics._internal.exemplar import (
    AlignedHistogramBucketExemplarReservoir,
    SimpleFixedSizeExemplarReservoir,
)
from opentelemetry.sdk.metrics._internal.exemplar import exemplar_reservoir as reservoirs
from opentelemetry.sdk.trace import _Span
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext

from flx_otel_distro import contexts
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.unsampled import Unsampled

SPAN_KEY = contexts.SPAN_KEY
current = contexts.current

NEVER, TRACED, ALWAYS = 0, 1, 2
"""The SDK's exemplar filters; any other is not ours to foresee."""

_MODES: dict[type, int] = {
    AlwaysOffExemplarFilter: NEVER,
    TraceBasedExemplarFilter: TRACED,
    AlwaysOnExemplarFilter: ALWAYS,
}
_filter = TraceBasedExemplarFilter()


def mode_of(exemplar_filter: object) -> int | None:
    """Return which of the SDK's own filters this is, or None for any other, subclasses included."""
    return _MODES.get(type(exemplar_filter))


def sampled(span: Any, context: Context) -> bool:
    """Return what the trace-based filter says of `context`, in which `span` was found."""
    kind = kind_of(span)
    if kind is Unsampled:
        return False
    if kind is NonRecordingSpan or kind is _Span:
        found = span._context
        if kind_of(found) is SpanContext:
            return found[3] & 1 == 1  # the trace flags
    return _filter.should_sample(0, 0, None, context)


RESERVOIRS = (SimpleFixedSizeExemplarReservoir, AlignedHistogramBucketExemplarReservoir)
"""The reservoirs whose `offer` is known, subclasses excluded."""

_reservoirs: Any = reservoirs  # its own randrange, by its own name there, so that both draw alike

Offer = Callable[[Any, int, Any, Context], None]


def offer_to(reservoir: Any) -> Offer:
    """Return what `reservoir.offer` does: take an amount, its Unix nanoseconds, its attributes and its context."""
    storage: Any = reservoir._reservoir_storage
    aligned = kind_of(reservoir) is AlignedHistogramBucketExemplarReservoir
    boundaries: Any = reservoir._boundaries if aligned else ()

    def offer(amount: Any, time: int, attributes: Any, context: Context) -> None:
        with reservoir._lock:
            if aligned:
                index = bisect_left(boundaries, amount)
            else:
                seen = reservoir._measurements_seen
                reservoir._measurements_seen = seen + 1
                index = seen if seen < reservoir._size else _reservoirs.randrange(0, seen + 1)
                if index >= reservoir._size:
                    return
            slot = storage[index]
            span: Any = context.get(SPAN_KEY)
            kind = kind_of(span)
            if (kind is _Span or (kind is NonRecordingSpan and span is not INVALID_SPAN)) and kind_of(
                found := span._context
            ) is SpanContext:
                slot._ExemplarBucket__value = amount
                slot._ExemplarBucket__time_unix_nano = time
                slot._ExemplarBucket__attributes = attributes
                slot._ExemplarBucket__trace_id, slot._ExemplarBucket__span_id = found[:2]
                slot._ExemplarBucket__offered = True
            else:
                slot.offer(amount, time, attributes, context)

    return offer
