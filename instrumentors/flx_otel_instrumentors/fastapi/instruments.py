"""Tracer and instruments of the layer, asked for once, through the API only."""

from __future__ import annotations

from opentelemetry.metrics import Histogram, MeterProvider, UpDownCounter, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from flx_otel_distro import __version__, semconv

SCOPE = "flx_otel_instrumentors.fastapi"


class Instruments:
    """The tracer and the four metrics. Made at the first request, when the providers are set."""

    __slots__ = ("active", "duration", "request_size", "response_size", "tracer")

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self.tracer = get_tracer(SCOPE, __version__, tracer_provider, schema_url=semconv.SCHEMA_URL)
        meter = get_meter(SCOPE, __version__, meter_provider, schema_url=semconv.SCHEMA_URL)

        def histogram(data: semconv.Instrument) -> Histogram:
            return meter.create_histogram(
                data.name, data.unit, data.description, explicit_bucket_boundaries_advisory=data.buckets
            )

        self.duration = histogram(semconv.HTTP_SERVER_DURATION)
        self.request_size = histogram(semconv.HTTP_SERVER_REQUEST_SIZE)
        self.response_size = histogram(semconv.HTTP_SERVER_RESPONSE_SIZE)
        active = semconv.HTTP_SERVER_ACTIVE
        self.active: UpDownCounter = meter.create_up_down_counter(active.name, active.unit, active.description)
