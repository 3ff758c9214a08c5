"""Tracer and instruments of the layer, asked for once, through the API only.

A request records through instruments bound to its attributes, so the way into the aggregations is
looked up once a series and not once a request.
"""

from __future__ import annotations

from opentelemetry.metrics import Histogram, MeterProvider, UpDownCounter, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from flx_otel_distro import __version__, semconv
from flx_otel_distro.recording import BoundHistogram, BoundUpDownCounter, bind
from flx_otel_distro.spans import Starter
from flx_otel_instrumentors.fastapi.kinds import Kind

SCOPE = "flx_otel_instrumentors.fastapi"

MOST_SERIES = 4096
"""Outcomes kept bound; beyond, all are bound anew as they are met."""

Outcome = tuple[Kind, str | None, int | None, str | None]
Series = tuple[BoundHistogram, BoundHistogram, BoundHistogram]


class Instruments:
    """The tracer and the four metrics. Made at the first request, when the providers are set.

    Safe from any thread and after a fork; threads may race to bind a series, and one of the two is kept.
    """

    __slots__ = (
        "_active",
        "_bound_active",
        "_duration",
        "_request_size",
        "_response_size",
        "_series",
        "spans",
        "tracer",
    )

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

        self._duration = histogram(semconv.HTTP_SERVER_DURATION)
        self._request_size = histogram(semconv.HTTP_SERVER_REQUEST_SIZE)
        self._response_size = histogram(semconv.HTTP_SERVER_RESPONSE_SIZE)
        active = semconv.HTTP_SERVER_ACTIVE
        self._active: UpDownCounter = meter.create_up_down_counter(active.name, active.unit, active.description)
        self._bound_active: dict[Kind, BoundUpDownCounter] = {}
        self._series: dict[Outcome, Series] = {}

    def active(self, kind: Kind) -> BoundUpDownCounter:
        """Return the counter of requests under way, for this kind of request."""
        found = self._bound_active.get(kind)  # bounded, as kinds are
        if found is None:
            found = self._bound_active[kind] = bind(self._active, kind.active)
        return found

    def series(self, kind: Kind, route: str | None, status: int | None, error: str | None) -> Series:
        """Return duration (seconds), request size and response size (bytes), for this outcome."""
        outcome = (kind, route, status, error)
        found = self._series.get(outcome)
        if found is None:
            labels = kind.series(route, status, error)
            found = (
                bind(self._duration, labels),
                bind(self._request_size, labels),
                bind(self._response_size, labels),
            )
            if len(self._series) >= MOST_SERIES:
                self._series.clear()
            self._series[outcome] = found
        return found
