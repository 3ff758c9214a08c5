"""In-memory telemetry for tests, ours and our users'.

    with capture() as seen:
        do_work()
    assert [span.name for span in seen.spans()] == ["work"]
    assert seen.metrics()["orders"].data.data_points[0].value == 1

`capture()` makes providers of its own and puts them behind the global API for the length of the
block, so that code that asks `opentelemetry.trace` for a tracer is seen as well.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import opentelemetry.metrics._internal as metrics_api
import opentelemetry.trace as trace_api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


class Capture:
    """Spans and metrics recorded since the capture began. Thread-safe; not meant to survive a fork."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def spans(self) -> list[ReadableSpan]:
        """Return the finished spans, in the order in which they ended."""
        return list(self._exporter.get_finished_spans())

    def metrics(self) -> dict[str, Metric]:
        """Return each metric by its OpenTelemetry name, with cumulative data points."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Return the data points of metric `name` by their sorted attributes; empty where it has none."""
        metric = self.metrics().get(name)
        if metric is None:
            return {}
        return {tuple(sorted(dict(p.attributes or {}).items())): p for p in metric.data.data_points}


@contextmanager
def capture(sampler: Sampler = ALWAYS_ON) -> Generator[Capture]:
    """Put in-memory providers behind the global API for the block; not for use in parallel threads.

    Tracers and meters obtained before the block keep the provider they had.
    """
    seen = Capture(sampler)
    before = (trace_api._TRACER_PROVIDER, metrics_api._METER_PROVIDER)
    trace_api._TRACER_PROVIDER = seen.tracer_provider
    metrics_api._METER_PROVIDER = seen.meter_provider
    try:
        yield seen
    finally:
        trace_api._TRACER_PROVIDER, metrics_api._METER_PROVIDER = before
        seen.tracer_provider.shutdown()
        seen.meter_provider.shutdown()
