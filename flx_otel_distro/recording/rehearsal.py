"""One small run of both ways, side by side, before the fast one is let near the app.

Two private pipelines, one for each way, record the same amounts into every kind of instrument, in and
out of a sampled span, with a collection between; what is collected must be equal but for the times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Meter, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics._internal.sdk_configuration import SdkConfiguration
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from flx_otel_distro.recording.routes import routes_of

Method = Callable[..., Any]

_SAMPLED = set_span_in_context(NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(1))), Context())
_UNSAMPLED = Context()
_ATTRIBUTES: tuple[dict[str, Any], ...] = ({"flx.a": "x", "flx.b": 1}, {"flx.a": "x", "flx.b": True})
_ROUNDS = ((_UNSAMPLED, (1, 2.5)), (_SAMPLED, (7,)))
"""Only one sampled amount an attribute set: the SDK's simple reservoir chooses among several by chance."""


def difference(stock: Mapping[str, Method], fast: Mapping[str, Method]) -> str | None:
    """Return in a few words where the two ways differ, or None.

    Both map the kinds counter, up_down_counter, histogram and gauge to a recording method. Costs about
    a millisecond; touches no global provider and logs nothing.
    """
    as_stock, _ = _run(stock)
    as_fast, known = _run(fast)
    if as_stock != as_fast:
        return "it does not record what the SDK records"
    if known != len(_ATTRIBUTES) * len(fast):
        return "it does not find the SDK's aggregations"
    return None


def _run(methods: Mapping[str, Method]) -> tuple[list[Any], int]:
    reader = InMemoryMetricReader()
    configuration = SdkConfiguration(TraceBasedExemplarFilter(), Resource({}), ())
    consumer: Any = SynchronousMeasurementConsumer(configuration, [reader])
    reader._set_collect_callback(consumer.collect)
    meter: Any = Meter(InstrumentationScope("flx.rehearsal"), consumer)
    instruments: dict[str, Any] = {kind: getattr(meter, f"create_{kind}")(f"flx.{kind}") for kind in methods}
    seen: list[Any] = []
    for context, amounts in _ROUNDS:
        for kind, method in methods.items():
            for amount in amounts:
                for attributes in _ATTRIBUTES:
                    method(instruments[kind], amount, attributes, context)
        seen.append(_collected(reader))
    return seen, sum(len(routes_of(each).known) for each in instruments.values())


def _collected(reader: InMemoryMetricReader) -> Any:
    data = reader.get_metrics_data()
    return [
        (metric.name, [_timeless(point) for point in metric.data.data_points])
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


_TIMES: dict[str, Any] = {"start_time_unix_nano": 0, "time_unix_nano": 0}


def _timeless(point: Any) -> dict[str, Any]:
    return {**vars(point), **_TIMES, "exemplars": [{**vars(each), **_TIMES} for each in point.exemplars]}
