"""The instruments' own methods, with the known way tried first.

One function serves `Counter.add`, `UpDownCounter.add`, `Histogram.record` and `Gauge.set`: they differ in
whether an amount may be negative. It does not call others until the amount is recorded, and decides in
the order that is cheapest for what an app does most: a known attribute set outside a sampled span.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable
from functools import wraps
from time import time_ns
from typing import Any

from flx_otel_distro.recording import routes as table
from flx_otel_distro.recording.exemplars import ALWAYS, SPAN_KEY, current, sampled
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.recording.routes import Route, Routes

Method = Callable[..., Any]

MOST = sys.float_info.max
MOST_INT = int(MOST)
"""Amounts beyond are not finite, or do not fit a float: the SDK says what becomes of them."""


def fast(stock: Method, negative: bool) -> Method:
    """Return `stock`, an instrument's recording method, with the known way tried first.

    The result has the same signature and effect, and passes whatever `stock` raises. Thread-safe.
    """
    least, least_int = (-MOST, -MOST_INT) if negative else (0.0, 0)

    @wraps(stock)
    def put(self: Any, amount: Any, attributes: Any = None, context: Any = None) -> Any:
        route: Route | None = None
        try:
            routes: Routes = self._flx_routes
            known = routes.known
            if known:
                if attributes is None:
                    route = known[()]
                elif kind_of(attributes) is dict:
                    values: Any = attributes.values()
                    route = known[(*map(type, values), *attributes, *values) if attributes else ()]  # key_of()
        except Exception:  # noqa: BLE001 - unknown, or a value whose hash or comparison fails: the stock way
            route = None
        if (
            route is not None
            and route.storages is route.consumer._reader_storages
            and route.meter._config.is_enabled
            and (
                ((kind := kind_of(amount)) is float and least <= amount <= MOST)
                or (kind is int and least_int <= amount <= MOST_INT)
            )
        ):
            if (mode := route.mode) and ((where := context or current()) or mode == ALWAYS):
                span = where.get(SPAN_KEY)
                if mode == ALWAYS or (span is not None and sampled(span, where)):
                    route.sample(amount, time_ns(), _copy(attributes), where)
                    return None
            if (into := route.histogram) is not None:
                lock = into._lock
                lock.acquire()  # what route.record(amount) does
                try:
                    counts = into._value
                    if counts is not None:
                        into._sum += amount
                        if route.extremes:
                            if amount < into._min:
                                into._min = amount
                            if amount > into._max:
                                into._max = amount
                        counts[bisect_left(into._boundaries, amount)] += 1
                        return None
                finally:
                    lock.release()
            elif (into := route.sum) is not None:
                lock = into._lock
                lock.acquire()  # likewise
                try:
                    value = into._value
                    into._value = (0 if value is None else value) + amount
                finally:
                    lock.release()
                return None
            route.record(amount)
            return None
        return explore(stock, self, amount, attributes, context)

    return put


def explore(stock: Method, instrument: Any, amount: Any, attributes: Any, context: Any) -> Any:
    """Record the stock way, and learn the route where there is one to keep."""
    routes = table.routes_of(instrument) if learning() else None
    if routes is None or not (attributes is None or kind_of(attributes) is dict) or not table.room(routes):
        return stock(instrument, amount, attributes, context)
    copy = _copy(attributes)  # another thread may change the app's own meanwhile
    if not table.is_plain(copy):
        return stock(instrument, amount, attributes, context)
    result = stock(instrument, amount, attributes if attributes is None else copy, context)
    table.learn(routes, instrument, copy)
    return result


def _copy(attributes: Any) -> dict[Any, Any]:
    return dict(attributes or ())


_learning = False


def learning(*, now: bool | None = None) -> bool:
    """Return whether routes are learnt at all; with `now`, change it."""
    global _learning
    if now is not None:
        _learning = now
    return _learning
