"""Whether the installed SDK is one whose aggregations we know.

The version alone says little of internals, and a vendor may ship its own. So the functions whose work is
taken over, and those that decide where a measurement goes, are asked for what they read: their parameters
and the names in their code. A release that adds a step to one of them changes its names.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from opentelemetry.sdk.metrics._internal import _view_instrument_match as view_match
from opentelemetry.sdk.metrics._internal import aggregation as aggregations
from opentelemetry.sdk.metrics._internal import instrument, measurement_consumer, metric_reader_storage
from opentelemetry.sdk.metrics._internal.exemplar import exemplar_filter, exemplar_reservoir
from opentelemetry.sdk.version import __version__
from opentelemetry.trace import SpanContext

LOWEST, BELOW = (1, 45), (2, 0)

_RECORDED = (
    "_is_enabled _logger _measurement_consumer Measurement consume_measurement get_current isfinite math name super"
    " time_ns warning"
)
_SIMPLE = "_lock _sample_exemplar _value value"

_EXPECTED: tuple[tuple[type, str, str, str], ...] = (
    (instrument._Synchronous, "_is_enabled", "self", "_meter_config is_enabled"),
    (instrument.Counter, "add", "self amount attributes context", f"{_RECORDED} add"),
    (instrument.UpDownCounter, "add", "self amount attributes context", f"{_RECORDED} add"),
    (instrument.Histogram, "record", "self amount attributes context", f"{_RECORDED} record"),
    (instrument.Gauge, "set", "self amount attributes context", f"{_RECORDED} set"),
    (aggregations._SumAggregation, "aggregate", "self measurement should_sample_exemplar", _SIMPLE),
    (aggregations._LastValueAggregation, "aggregate", "self measurement should_sample_exemplar", _SIMPLE),
    (
        aggregations._ExplicitBucketHistogramAggregation,
        "aggregate",
        "self measurement should_sample_exemplar",
        f"{_SIMPLE} _boundaries _get_empty_bucket_counts _max _min _record_min_max _sum bisect_left max min",
    ),
    (
        aggregations._ExplicitBucketHistogramAggregation,
        "_get_empty_bucket_counts",
        "self",
        "_boundaries len",
    ),
    (
        aggregations._Aggregation,
        "_sample_exemplar",
        "self measurement should_sample_exemplar",
        "_reservoir attributes context offer time_unix_nano value",
    ),
    (
        exemplar_reservoir.FixedSizeExemplarReservoirABC,
        "offer",
        "self value time_unix_nano attributes context",
        "BucketIndexError _find_bucket_index _lock _reservoir_storage offer",
    ),
    (
        exemplar_reservoir.SimpleFixedSizeExemplarReservoir,
        "_find_bucket_index",
        "self value time_unix_nano attributes context",
        "BucketIndexError _measurements_seen _size randrange",
    ),
    (
        exemplar_reservoir.AlignedHistogramBucketExemplarReservoir,
        "_find_bucket_index",
        "self value time_unix_nano attributes context",
        "_boundaries enumerate len",
    ),
    (
        exemplar_reservoir.ExemplarBucket,
        "offer",
        "self value time_unix_nano attributes context",
        "INVALID_SPAN _ExemplarBucket__attributes _ExemplarBucket__offered _ExemplarBucket__span_id"
        " _ExemplarBucket__time_unix_nano _ExemplarBucket__trace_id _ExemplarBucket__value get_current_span"
        " get_span_context span_id trace trace_id",
    ),
    (
        SpanContext,
        "__new__",
        "cls trace_id span_id is_remote trace_flags trace_state",
        "DEFAULT_TRACE_OPTIONS DEFAULT_TRACE_STATE INVALID_SPAN_ID INVALID_TRACE_ID _SPAN_ID_MAX_VALUE"
        " _TRACE_ID_MAX_VALUE __new__ tuple",
    ),
    (
        exemplar_filter.TraceBasedExemplarFilter,
        "should_sample",
        "self value time_unix_nano attributes context",
        "INVALID_SPAN get_current_span get_span_context sampled trace trace_flags",
    ),
    (
        measurement_consumer.SynchronousMeasurementConsumer,
        "consume_measurement",
        "self measurement",
        "_reader_storages _sdk_config attributes consume_measurement context exemplar_filter should_sample"
        " time_unix_nano value values",
    ),
    (
        measurement_consumer.SynchronousMeasurementConsumer,
        "remove_metric_reader",
        "self metric_reader",
        "_lock _reader_storages dict pop",
    ),
    (
        metric_reader_storage.MetricReaderStorage,
        "consume_measurement",
        "self measurement should_sample_exemplar",
        "_get_or_init_view_instrument_match consume_measurement instrument",
    ),
    (
        view_match._ViewInstrumentMatch,
        "consume_measurement",
        "self measurement should_sample_exemplar",
        "_attribute_keys _attributes_aggregation _get_or_create_aggregation _hash_attributes _lock _reset_on_collect"
        " _view aggregate attributes dict get items"
        # before 1.45.2, without cardinality limits
        " | DefaultAggregation __class__ _aggregation _attribute_keys _attributes_aggregation _create_aggregation"
        " _exemplar_reservoir_factory _hash_attributes _instrument _instrument_class_aggregation _lock _view aggregate"
        " attributes dict isinstance items time_ns",
    ),
    (
        view_match._ViewInstrumentMatch,
        "collect",
        "self collection_aggregation_temporality collection_start_nanos",
        "AggregationTemporality DELTA _attributes_aggregation _lock _previous_collection_start_nanos"
        " _reset_on_collect append collect values"
        " | _attributes_aggregation _lock append collect values",
    ),
)


def mismatch(version: str = __version__) -> str | None:
    """Return in a few words what is not as expected of the SDK, or None. Takes some 20 µs."""
    if not LOWEST <= _numbers(version) < BELOW:
        return f"opentelemetry-sdk {version} is not a version we know"
    for owner, name, parameters, names in _EXPECTED:
        function: Any = vars(owner).get(name)
        function = getattr(function, "__func__", function)  # __new__ is a static method
        if not isinstance(function, FunctionType) or function.__module__ != owner.__module__:
            return f"{owner.__name__}.{name} is not the SDK's own"
        code = function.__code__
        if code.co_varnames[: code.co_argcount] != tuple(parameters.split()) or code.co_kwonlyargcount:
            return f"{owner.__name__}.{name} has other parameters in opentelemetry-sdk {version}"
        if set(code.co_names) not in [set(each.split()) for each in names.split("|")]:
            return f"{owner.__name__}.{name} does something else in opentelemetry-sdk {version}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return (0,)
