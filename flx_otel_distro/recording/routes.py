"""What an instrument remembers: for each set of attributes, the aggregations it leads to.

A route is learnt after the SDK itself has recorded with those attributes, by reading where it put them.
It holds while the provider's readers are the same: adding or removing one replaces the consumer's
mapping of readers, and a route remembers the mapping it was learnt under. Routes are kept on the
instrument and go with it. All writes are single assignments or dict operations, so no lock is needed.
"""

from __future__ import annotations

import weakref
from typing import Any

from opentelemetry.sdk.metrics._internal._view_instrument_match import _hash_attributes, _ViewInstrumentMatch
from opentelemetry.sdk.metrics._internal.instrument import _Counter, _Gauge, _Histogram, _UpDownCounter
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics._internal.metric_reader_storage import MetricReaderStorage

from flx_otel_distro.guard import guarded
from flx_otel_distro.recording.exemplars import NEVER, mode_of
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.recording.targets import Target, foreseen, target, together

ATTRIBUTE = "_flx_routes"
"""Where an instrument keeps its routes."""

Key = tuple[Any, ...]
"""The types of the values, the keys, the values: flat, so that the tuple is made and hashed in one go."""

_KINDS: tuple[object, ...] = (_Counter, _UpDownCounter, _Histogram, _Gauge)
_SCALARS: frozenset[object] = frozenset({str, bool, int, float})
_MOST_CHARACTERS = 2048
_MOST_BITS = 64
_LONGEST_REST = 64
_WITHOUT_READERS = _WITHOUT_LIMIT = 2000


class _AlwaysEnabled:
    """Stands for the meter's configuration where the instrument has none."""

    is_enabled = True

    @property
    def _config(self) -> _AlwaysEnabled:
        return self


class _NoConsumer:
    """Stands for the consumer of a route that leads nowhere."""

    _reader_storages = ()


class Routes:
    """The routes of one instrument under one set of readers.

    `storages` is the consumer's mapping of readers they were learnt under, None once they are forgotten.
    `closed` instruments always take the SDK's way. `limit` bounds `known`.
    """

    __slots__ = ("__weakref__", "closed", "consumer", "known", "limit", "meter", "mode", "pause", "rest", "storages")

    def __init__(self, instrument: Any) -> None:
        self.known: dict[Key, Route] = {}
        self.consumer: Any = getattr(instrument, "_measurement_consumer", None)
        self.storages: Any = getattr(self.consumer, "_reader_storages", None)
        self.meter: Any = getattr(instrument, "_meter_config", None) or _AlwaysEnabled()
        self.limit = 0
        self.pause = 0
        self.rest = 0
        mode = None
        if kind_of(instrument) in _KINDS and kind_of(self.consumer) is SynchronousMeasurementConsumer:
            mode = mode_of(self.consumer._sdk_config.exemplar_filter)
        self.closed = mode is None
        self.mode = NEVER if mode is None else mode


class Route:
    """Where one set of attributes leads. Flat, so that the way there is short.

    It holds while `consumer` has the `storages` it was learnt under; None, once it is forgotten, never.
    """

    __slots__ = ("consumer", "extremes", "histogram", "meter", "mode", "record", "sample", "storages", "sum")

    def __init__(self, routes: Routes, way: Target) -> None:
        self.storages = routes.storages
        self.consumer = routes.consumer
        self.meter = routes.meter
        self.mode = routes.mode
        self.record, self.sample, self.sum, self.histogram, self.extremes = way


def _nowhere() -> Route:
    route = Route(Routes(None), together([]))
    route.consumer = _NoConsumer()
    return route


NOWHERE = _nowhere()
"""A route that never holds."""

generation = [0]
"""How often all routes were forgotten; for those who hold many and do not want to ask each."""

_all: weakref.WeakValueDictionary[int, Routes] = weakref.WeakValueDictionary()


def routes_of(instrument: Any) -> Routes:
    """Return the instrument's routes under the readers it has now, new ones where they have changed."""
    routes: Routes | None = instrument.__dict__.get(ATTRIBUTE)
    if routes is None or routes.storages is not getattr(routes.consumer, "_reader_storages", None):
        routes = Routes(instrument)
        _all[id(routes)] = routes
        setattr(instrument, ATTRIBUTE, routes)
    return routes


def forget() -> None:
    """Forget every route of every instrument, bound ones included; they are learnt anew.

    To be called in a forked child after its aggregations were made new. Safe from any thread.
    """
    generation[0] += 1
    for reference in _all.valuerefs():
        routes = reference()
        if routes is not None:
            routes.storages = None
            for route in list(routes.known.values()):
                route.storages = None
            routes.known.clear()


def key_of(attributes: dict[str, Any]) -> Key:
    """Return the key of `attributes`: `True`, 1 and 1.0 differ in it. Raises TypeError where a value has no hash.

    An object that is no `str`, but has the hash of one and says that it is equal, is taken for it as a key.
    """
    values = attributes.values()
    return (*map(type, values), *attributes, *values)


def is_plain(attributes: dict[Any, Any]) -> bool:
    """Return whether the SDK takes these attributes as they are, and they are small enough to be kept."""
    characters = 0
    for key, value in attributes.items():
        kind = kind_of(value)
        if type(key) is not str or not key or kind not in _SCALARS:
            return False
        characters += len(key)
        if kind is str:
            characters += len(value)
        elif kind is int and value.bit_length() > _MOST_BITS:
            return False
    return characters <= _MOST_CHARACTERS


def room(routes: Routes) -> bool:
    """Return whether one more route may be learnt now.

    After a search that ended in overflow the next ones are passed over, ever more of them: under a flood
    of new attribute sets the SDK's way alone is dear enough.
    """
    if routes.closed or (routes.limit and len(routes.known) >= routes.limit):
        return False
    if routes.rest:
        routes.rest -= 1
        return False
    return True


def learn(routes: Routes, instrument: Any, attributes: dict[str, Any]) -> None:
    """Keep the route of plain `attributes`, with which the SDK has just recorded; a fault goes no further."""
    with guarded("recording: learning a route"):
        consumer = routes.consumer
        if routes.storages is not consumer._reader_storages or "consume_measurement" in consumer.__dict__:
            return
        way = _way(routes, instrument, attributes)
        if way is not None:
            routes.known[key_of(attributes)] = Route(routes, way)
            routes.pause = 0
        else:
            routes.pause = min(2 * routes.pause + 1, _LONGEST_REST)
            routes.rest = routes.pause


def _way(routes: Routes, instrument: Any, attributes: dict[str, Any]) -> Target | None:
    """Return where the SDK records these attributes, None where that is not the same for ever."""
    targets: list[Target] = []
    limit = 0
    storages: list[Any] = list(routes.storages.values())
    for storage in storages:
        if kind_of(storage) is not MetricReaderStorage:
            routes.closed = True
            return None
        matches: list[Any] = storage._instrument_view_instrument_matches.get(instrument, [])
        for match in matches:
            if not _is_lasting(match):
                routes.closed = True
                return None
            limit = max(limit, getattr(match, "_cardinality_limit", _WITHOUT_LIMIT))
            kept = match._view._attribute_keys
            seen = attributes if kept is None else {k: v for k, v in attributes.items() if k in kept}
            aggregation = match._attributes_aggregation.get(_hash_attributes(seen))
            if aggregation is None:  # beyond the cardinality limit: recorded as overflow
                return None
            into = target(aggregation)
            if into is not None:
                targets.append(into)
        if not matches:
            return None
    routes.limit = 2 * (limit or _WITHOUT_READERS)
    return together(targets)


def _is_lasting(match: Any) -> bool:
    """Return whether the aggregations of this stream stay: a delta stream makes new ones at each collection."""
    return (
        kind_of(match) is _ViewInstrumentMatch
        and not getattr(match, "_reset_on_collect", False)
        and foreseen(match._aggregation)
    )
