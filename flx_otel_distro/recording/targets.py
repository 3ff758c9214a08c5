"""What a recording comes to in each of the SDK's aggregations, without a measurement around it.

Each function says in one place what the aggregation's `aggregate()` does, under the aggregation's own
lock, with the same arithmetic in the same order; `shape` refuses an SDK whose `aggregate()` differs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.metrics._internal.aggregation import (
    _DropAggregation,
    _ExplicitBucketHistogramAggregation,
    _ExponentialBucketHistogramAggregation,
    _LastValueAggregation,
    _SumAggregation,
)

from flx_otel_distro.recording.exemplars import RESERVOIRS, offer_to

Record = Callable[[Any], None]
"""Takes an amount that is known to be valid."""

Sample = Callable[[Any, int, dict[str, Any], Context], None]
"""Takes a valid amount, its time in Unix nanoseconds, clean attributes and the context."""


class Target(NamedTuple):
    """One aggregation, with and without the offer of an exemplar.

    `sum` and `histogram` are the aggregation itself where it is a single one of that kind: what is done to it
    is short enough to be done in place, without a call. `extremes` says whether a histogram keeps them.
    """

    record: Record
    sample: Sample
    sum: Any = None
    histogram: Any = None
    extremes: bool = True


class _Amount:
    """As much of a measurement as an aggregation reads."""

    __slots__ = ("attributes", "context", "time_unix_nano", "value")

    def __init__(self, value: Any, time: int = 0, attributes: Any = None, context: Any = None) -> None:
        self.value = value
        self.time_unix_nano = time
        self.attributes = attributes
        self.context = context


def _sum(aggregation: Any) -> Target:
    def record(amount: Any) -> None:
        with aggregation._lock:
            value = aggregation._value
            aggregation._value = (0 if value is None else value) + amount

    return _offering(aggregation, record)._replace(sum=aggregation)


def _last_value(aggregation: Any) -> Target:
    def record(amount: Any) -> None:
        with aggregation._lock:
            aggregation._value = amount

    return _offering(aggregation, record)


def _histogram(aggregation: Any) -> Target:
    boundaries = aggregation._boundaries
    extremes = aggregation._record_min_max
    buckets = len(boundaries) + 1

    def record(amount: Any) -> None:
        with aggregation._lock:
            counts = aggregation._value
            if counts is None:
                counts = aggregation._value = [0] * buckets
            aggregation._sum += amount
            if extremes:
                if amount < aggregation._min:
                    aggregation._min = amount
                if amount > aggregation._max:
                    aggregation._max = amount
            counts[bisect_left(boundaries, amount)] += 1

    return _offering(aggregation, record)._replace(histogram=aggregation, extremes=extremes)


def _offering(aggregation: Any, record: Record) -> Target:
    offer = offer_to(aggregation._reservoir)

    def sample(amount: Any, time: int, attributes: dict[str, Any], context: Context) -> None:
        record(amount)
        offer(amount, time, attributes, context)

    return Target(record, sample)


def _exponential(aggregation: Any) -> Target:
    aggregate = aggregation.aggregate

    def record(amount: Any) -> None:
        aggregate(_Amount(amount), False)

    def sample(amount: Any, time: int, attributes: dict[str, Any], context: Context) -> None:
        aggregate(_Amount(amount, time, attributes, context), True)

    return Target(record, sample)


_MAKERS: dict[type, Callable[[Any], Target]] = {
    _SumAggregation: _sum,
    _LastValueAggregation: _last_value,
    _ExplicitBucketHistogramAggregation: _histogram,
    _ExponentialBucketHistogramAggregation: _exponential,
}


def foreseen(aggregation: object) -> bool:
    """Return whether this aggregation and its reservoir are the SDK's own, subclasses excluded."""
    kind = type(aggregation)
    if kind is _DropAggregation:
        return True
    return kind in _MAKERS and type(getattr(aggregation, "_reservoir", None)) in RESERVOIRS


def target(aggregation: object) -> Target | None:
    """Return the way into an aggregation that is `foreseen`; None where it drops what it gets."""
    if type(aggregation) is _DropAggregation:
        return None
    return _MAKERS[type(aggregation)](aggregation)


def together(targets: list[Target]) -> Target:
    """Return one target for all: several views or readers, or none."""
    if len(targets) == 1:
        return targets[0]
    records = tuple(each.record for each in targets)
    samples = tuple(each.sample for each in targets)

    def record(amount: Any) -> None:
        for each in records:
            each(amount)

    def sample(amount: Any, time: int, attributes: dict[str, Any], context: Context) -> None:
        for each in samples:
            each(amount, time, attributes, context)

    return Target(record, sample)
