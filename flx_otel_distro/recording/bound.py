"""An instrument together with its attributes: where they lead is looked up once.

A bound instrument records exactly what the instrument itself would with these attributes, installed or
not, with an SDK or without one, before and after a fork.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import Any, overload

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, UpDownCounter, _Gauge
from opentelemetry.util.types import AttributeValue

from flx_otel_distro.recording.exemplars import ALWAYS, SPAN_KEY, current, sampled
from flx_otel_distro.recording.instruments import MOST, MOST_INT
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.recording.routes import ATTRIBUTE, NOWHERE, Route, Routes, is_plain, key_of


class _Bound:
    """What the four kinds share. Thread-safe; keeps the instrument alive, and no route of a dead provider's."""

    __slots__ = ("_attributes", "_instrument", "_key", "_least", "_least_int", "_method", "_route")

    def __init__(self, instrument: Any, method: str, negative: bool, attributes: Mapping[str, AttributeValue]) -> None:
        self._instrument = instrument
        self._method = method
        self._attributes = dict(attributes)
        self._key = key_of(self._attributes) if is_plain(self._attributes) else None
        self._least, self._least_int = (-MOST, -MOST_INT) if negative else (0.0, 0)
        self._route: Route = NOWHERE

    def _put(self, amount: float, context: Context | None = None) -> None:
        route = self._route
        if (
            route.storages is route.consumer._reader_storages
            and route.meter._config.is_enabled
            and (
                ((kind := kind_of(amount)) is float and self._least <= amount <= MOST)
                or (kind is int and self._least_int <= amount <= MOST_INT)
            )
        ):
            if (mode := route.mode) and ((where := context or current()) or mode == ALWAYS):
                span = where.get(SPAN_KEY)
                if mode == ALWAYS or (span is not None and sampled(span, where)):
                    route.sample(amount, time_ns(), self._attributes, where)
                    return
            total = route.sum
            if total is None:
                route.record(amount)
                return
            with total._lock:  # what route.record(amount) does
                value = total._value
                total._value = (0 if value is None else value) + amount
            return
        self._search(amount, context)

    def _search(self, amount: float, context: Context | None) -> None:
        """Record through the instrument itself, then take the route it has learnt."""
        self._route = NOWHERE
        getattr(self._instrument, self._method)(amount, self._attributes, context)
        if self._key is not None:
            real: Any = getattr(self._instrument, "_real_instrument", None) or self._instrument
            routes: Routes | None = getattr(real, ATTRIBUTE, None)
            if routes is not None:
                self._route = routes.known.get(self._key, NOWHERE)


class BoundCounter(_Bound):
    """A counter with its attributes."""

    __slots__ = ()
    add = _Bound._put


class BoundUpDownCounter(_Bound):
    """An up-down counter with its attributes."""

    __slots__ = ()
    add = _Bound._put


class BoundHistogram(_Bound):
    """A histogram with its attributes."""

    __slots__ = ()
    record = _Bound._put


class BoundGauge(_Bound):
    """A gauge with its attributes."""

    __slots__ = ()
    set = _Bound._put


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
        return BoundCounter(instrument, "add", False, attributes)
    if isinstance(instrument, UpDownCounter):
        return BoundUpDownCounter(instrument, "add", True, attributes)
    if isinstance(instrument, Histogram):
        return BoundHistogram(instrument, "record", False, attributes)
    if isinstance(instrument, _Gauge):
        return BoundGauge(instrument, "set", True, attributes)
    raise TypeError(f"not a synchronous instrument: {type(instrument).__name__}")
