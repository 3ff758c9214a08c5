"""An instrument together with its attributes: where they lead is looked up once.

A bound instrument records exactly what the instrument itself would with these attributes, installed or
not, with an SDK or without one, before and after a fork.

Locks are taken by their methods: a `with` costs twice as much on the Pythons of today.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any, overload

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, UpDownCounter, _Gauge
from opentelemetry.util.types import AttributeValue

from flx_otel_distro.recording.exemplars import (
    ALWAYS,
    SPAN_KEY,
    AlignedHistogramBucketExemplarReservoir,
    current,
    offer_to,
    sampled,
)
from flx_otel_distro.recording.instruments import MOST, MOST_INT
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.recording.routes import ATTRIBUTE, NOWHERE, Route, Routes, generation, is_plain, key_of

Put = Callable[..., None]
"""Takes an amount and optionally a context, and whether that may hold a sampled span."""

RecordAll = Callable[[Sequence[float], Context, bool], None]


class _Bound:
    """What the four kinds share. Thread-safe; keeps the instrument alive, and no route of a dead provider's.

    The method of the instrument is made anew for each route: what never changes on it is in its closure, and it is
    called without another around it. One that the app has kept goes on working.
    """

    __slots__ = ("_attributes", "_instrument", "_key", "_negative", "_route")
    _method = ""

    def __init__(self, instrument: Any, negative: bool, attributes: Mapping[str, AttributeValue]) -> None:
        self._instrument = instrument
        self._negative = negative
        self._attributes = dict(attributes)
        self._key = key_of(self._attributes) if is_plain(self._attributes) else None
        self._route: Route = NOWHERE
        self._take(self._search)

    def _take(self, put: Put) -> None:
        setattr(self, self._method, put)

    def _search(self, amount: float, context: Context | None = None, may_sample: bool = True) -> None:
        """Record through the instrument itself, then take the route it has learnt."""
        self._route = NOWHERE
        self._take(self._search)
        getattr(self._instrument, self._method)(amount, self._attributes, context)
        if self._key is not None:
            real: Any = getattr(self._instrument, "_real_instrument", None) or self._instrument
            routes: Routes | None = getattr(real, ATTRIBUTE, None)
            if routes is not None:
                route = routes.known.get(self._key, NOWHERE)
                if route is not NOWHERE:
                    self._route = route
                    self._take(_along(route, self._negative, self._attributes, self._search))


class BoundCounter(_Bound):
    """A counter with its attributes."""

    __slots__ = ("add",)
    _method = "add"

    add: Put
    """Record an amount as `Counter.add` does, optionally in a context. Raises what the instrument raises."""


class BoundUpDownCounter(_Bound):
    """An up-down counter with its attributes."""

    __slots__ = ("add",)
    _method = "add"

    add: Put
    """Record an amount as `UpDownCounter.add` does, optionally in a context. Raises what the instrument raises."""


class BoundHistogram(_Bound):
    """A histogram with its attributes."""

    __slots__ = ("record",)
    _method = "record"

    record: Put
    """Record an amount as `Histogram.record` does, optionally in a context. Raises what the instrument raises."""

    def record_unsampled(self, amount: float, context: Context | None = None) -> None:
        """Record as `record` does in a context that is known to hold no sampled span."""
        self.record(amount, context, False)


class BoundGauge(_Bound):
    """A gauge with its attributes."""

    __slots__ = ("set",)
    _method = "set"

    set: Put
    """Record an amount as `Gauge.set` does, optionally in a context. Raises what the instrument raises."""


def _along(route: Route, negative: bool, attributes: dict[str, Any], search: Put) -> Put:
    """Return a function that records along `route`, and by `search` where that does not hold or the amount is odd."""
    least, least_int = (-MOST, -MOST_INT) if negative else (0.0, 0)
    most, most_int = MOST, MOST_INT
    consumer, meter, mode = route.consumer, route.meter, route.mode
    record, sample = route.record, route.sample
    total, histogram, extremes = route.sum, route.histogram, route.extremes
    into = histogram if histogram is not None else total
    lock: Any = into._lock if into is not None else None
    boundaries: Any = histogram._boundaries if histogram is not None else ()

    def put(amount: Any, context: Any = None, may_sample: Any = True) -> None:
        if (
            route.storages is consumer._reader_storages
            and meter._config.is_enabled
            and (
                ((kind := kind_of(amount)) is float and least <= amount <= most)
                or (kind is int and least_int <= amount <= most_int)
            )
        ):
            if mode and (may_sample or mode == ALWAYS) and ((where := context or current()) or mode == ALWAYS):
                span: Any = where.get(SPAN_KEY)
                if mode == ALWAYS or (span is not None and sampled(span, where)):
                    sample(amount, time_ns(), attributes, where)
                    return
            if histogram is not None:
                lock.acquire()  # what record(amount) does
                try:
                    counts = histogram._value
                    if counts is not None:
                        histogram._sum += amount
                        if extremes:
                            if amount < histogram._min:
                                histogram._min = amount
                            if amount > histogram._max:
                                histogram._max = amount
                        counts[bisect_left(boundaries, amount)] += 1
                        return
                finally:
                    lock.release()
            elif total is not None:
                lock.acquire()  # likewise
                try:
                    value = total._value
                    total._value = (0 if value is None else value) + amount
                finally:
                    lock.release()
                return
            record(amount)
            return
        search(amount, context)

    return put


class BoundHistograms:
    """Several histograms of one meter with the same attributes: one amount is recorded in each, in one go.

    What is common to them is asked once: whether the readers are the same, the meter enabled, the span sampled.
    Amounts must be `int` or `float`, finite and not negative. Thread-safe; histograms with views or settings of
    their own are recorded one by one.
    """

    __slots__ = ("_bound", "record")

    def __init__(self, histograms: Sequence[Histogram], attributes: Mapping[str, AttributeValue]) -> None:
        self._bound = [BoundHistogram(each, False, attributes) for each in histograms]
        self.record: RecordAll = self._singly
        """Record amounts, in the order of the histograms, in a context; false where that holds no sampled span."""

    def _singly(self, amounts: Sequence[float], context: Context, may_sample: bool) -> None:
        for each, amount in zip(self._bound, amounts, strict=True):
            each.record(amount, context)
        self.record = _along_all([each._route for each in self._bound], self._bound[0]._attributes, self._singly)


def _along_all(routes: list[Route], attributes: dict[str, Any], singly: RecordAll) -> RecordAll:
    first = routes[0]
    consumer, meter, mode, storages, made = first.consumer, first.meter, first.mode, first.storages, generation[0]
    for route in routes:
        alike = route.storages is storages and route.consumer is consumer and route.meter is meter
        reservoir: Any = getattr(route.histogram, "_reservoir", None)
        aligned = kind_of(reservoir) is AlignedHistogramBucketExemplarReservoir
        if not (alike and aligned and route.extremes and route.mode == mode != ALWAYS):
            return singly
    targets = [(each.histogram, each.histogram._lock, each.histogram._boundaries) for each in routes]
    offers = [offer_to(each.histogram._reservoir) for each in routes]

    def put(amounts: Sequence[float], context: Context, may_sample: bool) -> None:
        if consumer._reader_storages is not storages or generation[0] != made:
            return singly(amounts, context, may_sample)
        if not meter._config.is_enabled:
            return None
        for (histogram, lock, boundaries), amount in zip(targets, amounts):  # noqa: B905 - it takes its time
            lock.acquire()
            try:
                counts = histogram._value
                if counts is None:
                    counts = histogram._value = [0] * (len(boundaries) + 1)
                histogram._sum += amount
                if amount < histogram._min:
                    histogram._min = amount
                if amount > histogram._max:
                    histogram._max = amount
                counts[bisect_left(boundaries, amount)] += 1
            finally:
                lock.release()
        if may_sample and mode and (where := context or current()):
            span: Any = where.get(SPAN_KEY)
            if span is not None and sampled(span, where):
                time = time_ns()
                for offer, amount in zip(offers, amounts):  # noqa: B905
                    offer(amount, time, attributes, where)
        return None

    return put


@overload
def bind(instrument: Counter, attributes: Mapping[str, AttributeValue]) -> BoundCounter: ...
@overload
def bind(instrument: UpDownCounter, attributes: Mapping[str, AttributeValue]) -> BoundUpDownCounter: ...
@overload
def bind(instrument: Histogram, attributes: Mapping[str, AttributeValue]) -> BoundHistogram: ...
@overload
def bind(instrument: _Gauge, attributes: Mapping[str, AttributeValue]) -> BoundGauge: ...


def bind(instrument: Any, attributes: Mapping[str, AttributeValue]) -> Any:
    """Return `instrument` with a copy of `attributes` fixed: `add`, `record` or `set` of an amount.

    Raises TypeError for anything but a synchronous instrument of the API.
    """
    if isinstance(instrument, Counter):
        return BoundCounter(instrument, False, attributes)
    if isinstance(instrument, UpDownCounter):
        return BoundUpDownCounter(instrument, True, attributes)
    if isinstance(instrument, Histogram):
        return BoundHistogram(instrument, False, attributes)
    if isinstance(instrument, _Gauge):
        return BoundGauge(instrument, True, attributes)
    raise TypeError(f"not a synchronous instrument: {type(instrument).__name__}")
