"""Sequences of what an app and its readers may do to a meter provider, as data.

A scenario can be played twice, once the SDK's way and once the fast way.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
)
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context


class Colour(enum.StrEnum):
    """A str that is not exactly one."""

    RED = "red"


class Shown:
    """An object that says something of itself, equal to every other."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("a")


class Named:
    """An object that says something of itself, and is equal to itself alone."""

    def __str__(self) -> str:
        return "a"


class Unhashable:
    """An object whose hash fails in a way of its own."""

    def __hash__(self) -> int:
        raise ZeroDivisionError("no hash")


class CustomFilter(TraceBasedExemplarFilter):
    """A filter that is not exactly the SDK's."""

    def should_sample(self, value: float, time_unix_nano: int, attributes: Any, context: Context) -> bool:
        return bool(value == 5)


KINDS = ("counter", "up_down_counter", "histogram", "gauge")
METHODS = {"counter": "add", "up_down_counter": "add", "histogram": "record", "gauge": "set"}
NAN = math.nan
KEYS: list[Any] = ["a", "b", "c", "otel.metric.overflow"]
ODD_KEYS: list[Any] = ["", 1, True, None, Colour.RED, b"a", (1, 2), Named()]
VALUES: list[Any] = ["x", "y", "", True, False, 1, 0, 1.0, 0.0, -0.0, NAN, math.inf, 2**70, "l" * 3000]
ODD_VALUES: list[Any] = [
    *(None, b"x", ["x"], ["x", 1], ("x",), {"n": 1}, {"n": ["x"]}, [None], object()),
    *(Colour.RED, Shown("x"), Unhashable(), Decimal(1), {1, 2}),
]
AMOUNTS: list[Any] = [0, 1, 2, 5, 7, 0.0, -0.0, 0.5, 3.25, 30, 1e300, 2**40]
ODD_AMOUNTS: list[Any] = [
    -1,
    -2.5,
    NAN,
    math.inf,
    -math.inf,
    True,
    Decimal(2),
    Fraction(1, 2),
    "1",
    None,
    10**400,
    2**1023,
]


def _span(flags: int, trace: int = 5) -> Context:
    return set_span_in_context(NonRecordingSpan(SpanContext(trace, 6, False, TraceFlags(flags))), Context())


CONTEXTS: list[Context | None] = [
    *(None, Context(), Context({"other": 1}), _span(0), _span(1), _span(3, 9), _span(1, 0)),
    set_span_in_context(INVALID_SPAN, Context()),
    set_span_in_context("not a span", Context()),  # type: ignore[arg-type]
]


def _sets(keys: list[Any], values: list[Any], most: int = 3) -> st.SearchStrategy[dict[Any, Any]]:
    """Return dictionaries by index, since some of these keys are equal to others."""
    pair = st.tuples(st.integers(0, len(keys) - 1), st.integers(0, len(values) - 1))
    return st.lists(pair, max_size=most).map(lambda pairs: {keys[k]: values[v] for k, v in pairs})


attribute_sets = st.one_of(
    st.none(),
    *[_sets(KEYS, VALUES)] * 3,
    _sets(KEYS[:2], VALUES[:4], 2),
    _sets(KEYS[:3] + ODD_KEYS, VALUES[:7] + ODD_VALUES),
    _sets(KEYS, VALUES[:4], 2).map(OrderedDict),
    st.integers(0, 4).map(lambda index: ["text", 5, [("a", 1)], [], ()][index]),
)
records = st.fixed_dictionaries(
    {
        "do": st.just("record"),
        "kind": st.sampled_from(KINDS),
        "amount": st.one_of(*[st.sampled_from(AMOUNTS)] * 3, st.sampled_from(AMOUNTS + ODD_AMOUNTS)),
        "attributes": st.integers(0, 3),
        "context": st.integers(0, len(CONTEXTS) - 1),
        "current": st.integers(0, len(CONTEXTS) - 1),
        "how": st.sampled_from(["positional", "keywords", "mutated", "bound"]),
        "times": st.integers(1, 4),
    }
)
others = st.fixed_dictionaries(
    {
        "do": st.sampled_from(
            ["collect", "collect", "flush", "toggle", "toggle", "add_reader", "remove_reader", "forget", "shutdown"]
        ),
        "reader": st.integers(0, 3),
    }
)
AGGREGATIONS: list[Any] = [
    None,
    SumAggregation(),
    LastValueAggregation(),
    DropAggregation(),
    ExplicitBucketHistogramAggregation(boundaries=[1, 3.0, 10], record_min_max=False),
    ExplicitBucketHistogramAggregation(boundaries=[0, 2, 5]),
    ExponentialBucketHistogramAggregation(max_size=4),
]
views = st.fixed_dictionaries(
    {
        "instrument_name": st.sampled_from(KINDS),
        "name": st.sampled_from([None, "renamed"]),
        "attribute_keys": st.sampled_from([None, None, {"a"}, {"b", "c"}, set()]),
        "aggregation": st.sampled_from(AGGREGATIONS),
        "aggregation_cardinality_limit": st.sampled_from([None, 1, 2, 5]),
        "exemplar_reservoir_factory": st.sampled_from([None] * 9 + ["custom"]),
    }
)
scenarios = st.fixed_dictionaries(
    {
        "filter": st.sampled_from(
            [TraceBasedExemplarFilter] * 5 + [AlwaysOnExemplarFilter, AlwaysOffExemplarFilter, CustomFilter]
        ),
        "views": st.one_of(st.just([]), st.lists(views, max_size=2)),
        "readers": st.lists(st.sampled_from(["cumulative"] * 5 + ["small", "delta"]), max_size=2),
        "attributes": st.lists(attribute_sets, min_size=4, max_size=4),
        "steps": st.lists(st.one_of(records, records, records, others), min_size=15, max_size=50),
    }
)


def thorough(aggregation: Any, context: int) -> dict[str, Any]:
    """Return a scenario that records every amount twice, in every kind, unbound and bound, under one aggregation."""
    view = {"aggregation": aggregation, "attribute_keys": None, "name": None, "aggregation_cardinality_limit": None}
    how = [(amount, how) for amount in (7, *AMOUNTS, *ODD_AMOUNTS) for how in ("positional", "bound")]
    record = {"do": "record", "attributes": 0, "context": context, "current": 0, "times": 2}
    return {
        "filter": TraceBasedExemplarFilter,
        "views": [{**view, "instrument_name": kind, "exemplar_reservoir_factory": None} for kind in KINDS],
        "readers": ["cumulative"],
        "attributes": [{"a": 1}],
        "steps": [
            each
            for amount, way in how
            for each in (
                *({**record, "kind": kind, "amount": amount, "how": way} for kind in KINDS),
                {"do": "collect", "reader": 0},
            )
        ],
    }
