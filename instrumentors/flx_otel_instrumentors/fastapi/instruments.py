"""Tracer and instruments of the layer, asked for once, through the API only.

A request records through histograms bound to its attributes, so the way into the aggregations is looked
up once a series and not once a request. Requests under way are counted in two numbers and read when
somebody collects.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from itertools import count
from typing import Any

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from flx_otel_distro import __version__, semconv
from flx_otel_distro.recording import BoundHistograms
from flx_otel_distro.spans import Starter
from flx_otel_instrumentors.fastapi.kinds import Kind

SCOPE = "flx_otel_instrumentors.fastapi"

MOST_SERIES = 4096
"""Outcomes kept bound; beyond, all are bound anew as they are met."""

Outcome = tuple[Kind, str | None, int | None, str | None]


class Active:
    """Requests under way, of one kind: `next(begun)` and `next(ended)` count, without a lock, in any thread."""

    __slots__ = ("begun", "ended")

    def __init__(self) -> None:
        self.begun = count()
        self.ended = count()

    @property
    def now(self) -> int:
        """Return how many are under way; reading does not count."""
        ended = _number(self.ended)  # first, so that a request which begins and ends meanwhile is not missing
        return _number(self.begun) - ended


def _number(counter: Any) -> int:
    return int(repr(counter)[6:-1])  # "count(5)"


class Instruments:
    """The tracer and the four metrics. Made at the first request, when the providers are set.

    Safe from any thread; threads may race to bind a series, and one of the two is kept. After a fork, no request
    of the parent's is under way in the child.
    """

    __slots__ = ("__weakref__", "_active", "_histograms", "_series", "spans", "tracer")

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self.tracer = get_tracer(SCOPE, __version__, tracer_provider, schema_url=semconv.SCHEMA_URL)
        self.spans = Starter(self.tracer)
        meter = get_meter(SCOPE, __version__, meter_provider, schema_url=semconv.SCHEMA_URL)

        def histogram(data: semconv.Instrument) -> Histogram:
            return meter.create_histogram(
                data.name, data.unit, data.description, explicit_bucket_boundaries_advisory=data.buckets
            )

        self._histograms = [
            histogram(each)
            for each in (
                semconv.HTTP_SERVER_DURATION,
                semconv.HTTP_SERVER_REQUEST_SIZE,
                semconv.HTTP_SERVER_RESPONSE_SIZE,
            )
        ]
        self._series: dict[Outcome, BoundHistograms] = {}
        self._active: dict[Kind, Active] = {}
        active = semconv.HTTP_SERVER_ACTIVE

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            return self.observe()  # also when the layer is gone: what was counted stays

        meter.create_observable_up_down_counter(active.name, [observe], active.unit, active.description)
        _all.add(self)

    def observe(self) -> list[Observation]:
        """Return the requests under way, of each kind there was."""
        return [Observation(active.now, kind.active) for kind, active in list(self._active.items())]

    def active(self, kind: Kind) -> Active:
        """Return the counter of requests under way, for this kind of request."""
        found = self._active.get(kind)  # bounded, as kinds are
        return found if found is not None else self._active.setdefault(kind, Active())

    def series(self, kind: Kind, route: str | None, status: int | None, error: str | None) -> BoundHistograms:
        """Return duration (seconds), request size and response size (bytes), for this outcome."""
        outcome = (kind, route, status, error)
        found = self._series.get(outcome)
        if found is None:
            found = BoundHistograms(self._histograms, kind.series(route, status, error))
            if len(self._series) >= MOST_SERIES:
                self._series.clear()
            self._series[outcome] = found
        return found

    def begin_anew(self) -> None:
        """Forget the requests under way."""
        self._active.clear()


_all: weakref.WeakSet[Instruments] = weakref.WeakSet()


def _forked() -> None:
    for each in list(_all):
        each.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
