"""What a collector reads of our bytes is what it would read of upstream's."""

from __future__ import annotations

import enum
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encoded_by_upstream
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from flx_otel_distro.otlp import span_encoding
from flx_otel_distro.otlp.span_encoding import encode_spans, rejected


class Shade(enum.StrEnum):
    """A str that is not exactly one."""

    DARK = "dark"


class Level(enum.IntEnum):
    """An int that is not exactly one."""

    HIGH = 3


text = st.text(st.characters(codec="utf-8"), max_size=200)
keys = st.one_of(st.sampled_from(["http.route", "n", "größe", "k" * 200]), text.filter(bool))
scalars = st.one_of(
    text,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 300),
    st.floats(),
    st.binary(max_size=300),
    st.none(),
    st.sampled_from([1, True, 1.0, 0, False, 0.0, -0.0, "", b"", Shade.DARK, Level.HIGH]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)
attributes = st.dictionaries(keys, values, max_size=8)


@st.composite
def bounded(draw: st.DrawFn) -> Any:
    most = draw(st.sampled_from([None, 2, 128]))
    return (
        draw(st.one_of(st.none(), attributes, st.just({})))
        if draw(st.booleans())
        else BoundedAttributes(most, draw(attributes), draw(st.booleans()))
    )


@st.composite
def contexts(draw: st.DrawFn) -> SpanContext:
    state = draw(st.sampled_from([None, TraceState(), TraceState([("a", "1"), ("vendor@x", "z y")])]))
    trace_id, span_id = draw(st.integers(0, 2**128 - 1)), draw(st.integers(0, 2**64 - 1))
    return SpanContext(trace_id, span_id, draw(st.booleans()), TraceFlags(draw(st.integers(0, 3))), state)


@st.composite
def events(draw: st.DrawFn) -> Event:
    return Event(draw(text), draw(bounded()), draw(st.integers(0, 2**64 - 1)))


@st.composite
def links(draw: st.DrawFn) -> Link:
    return Link(draw(contexts()), draw(bounded()))


RESOURCES = [
    Resource({}),
    Resource({"service.name": "orders", "n": 1}, "https://schema/1"),
    Resource({"service.name": "orders", "n": 1}, "https://schema/1"),  # another object, equal
    Resource({"service.name": "orders", "n": 1}),
]
SCOPES = [
    None,
    InstrumentationScope("app"),
    InstrumentationScope("app", "1.0", "https://schema/2", {"a": 1, "b": ("x", "y")}),
    InstrumentationScope("app", "1.0", "https://schema/2", {"a": 1, "b": ("x", "y")}),
    InstrumentationScope("app", "", ""),
]


def limited(draw: st.DrawFn, items: st.SearchStrategy[Any]) -> Any:
    found = draw(st.lists(items, max_size=3))
    if draw(st.booleans()):
        return found
    bounded_list: BoundedList = BoundedList(2)
    bounded_list.extend(found)
    return bounded_list


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    status = st.builds(Status, st.just(StatusCode.ERROR), st.one_of(st.none(), text)) | st.sampled_from(
        [Status(StatusCode.UNSET), Status(StatusCode.OK), None]
    )
    return ReadableSpan(
        draw(text),
        draw(contexts()),
        draw(st.none() | contexts()),
        draw(st.sampled_from(RESOURCES)),
        draw(bounded()),
        limited(draw, events()),
        limited(draw, links()),
        draw(st.sampled_from(list(SpanKind))),
        status=draw(status),
        start_time=draw(st.none() | st.integers(0, 2**64 - 1)),
        end_time=draw(st.none() | st.integers(0, 2**64 - 1)),
        instrumentation_scope=draw(st.sampled_from(SCOPES)),
    )


@settings(max_examples=400, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(spans(), max_size=6))
def test_any_spans_read_as_upstream_would_write_them(given_spans: list[ReadableSpan]) -> None:
    expected: Any = encoded_by_upstream(given_spans)
    for _ in range(2):  # the second time from what was kept
        assert ExportTraceServiceRequest.FromString(encode_spans(given_spans)).SerializeToString(
            deterministic=True
        ) == expected.SerializeToString(deterministic=True)


def span(name: str = "GET", **given_attributes: Any) -> ReadableSpan:
    context = SpanContext(1, 2, False)
    return ReadableSpan(name, context, attributes=given_attributes, resource=RESOURCES[0], start_time=1, end_time=2)


def read(*given_spans: ReadableSpan) -> list[Any]:
    request: Any = ExportTraceServiceRequest.FromString(encode_spans(given_spans))
    return [each for group in request.resource_spans for scope in group.scope_spans for each in scope.spans]


def test_what_utf8_cannot_carry_is_replaced_and_costs_nothing_else() -> None:
    broken = span("GET \ud800", key="a\udfffb", **{"k\ud800": "v"})
    broken._status = Status(StatusCode.ERROR, "no \ud800")
    [found] = read(broken)
    assert found.name == "GET \ufffd"
    assert found.status.message == "no \ufffd"
    assert {each.key: each.value.string_value for each in found.attributes} == {"key": "a\ufffdb", "k\ufffd": "v"}


def test_a_value_that_otlp_cannot_carry_costs_only_its_attribute() -> None:
    endless: list[Any] = []
    endless.append(endless)
    [found] = read(span(big=2**63, nested=[1, object()], endless=endless, kept="x"))
    assert [each.key for each in found.attributes] == ["kept"]


def test_a_span_that_cannot_be_encoded_costs_no_other(faults_fail_tests: list[Any]) -> None:
    broken = span("broken")
    broken._start_time = -1
    assert [each.name for each in read(span("a"), broken, span("b"))] == ["a", "b"]
    assert [place for place, _ in faults_fail_tests] == ["encoding a span"]
    faults_fail_tests.clear()


def test_scopes_that_differ_in_the_type_of_an_attribute_stay_apart() -> None:
    batch = [span("a"), span("b"), span("c")]
    for each, value in zip(batch, (1, True, 1.0), strict=True):
        each._instrumentation_scope = InstrumentationScope("app", attributes={"flag": value})
    request: Any = ExportTraceServiceRequest.FromString(encode_spans(batch))
    found = [each.scope.attributes[0].value for group in request.resource_spans for each in group.scope_spans]
    assert [each.WhichOneof("value") for each in found] == ["int_value", "bool_value", "double_value"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_encoding, "_kept", {})
    monkeypatch.setattr(span_encoding, "_of_a_key", {})
    for index in range(20_000):
        encode_spans([span(path=f"/{index}", port=index, **{f"key{index}": "v"}, long="x" * 500)])
    kept = span_encoding._kept[span_encoding._ATTRIBUTES]
    assert len(kept[str]) <= span_encoding._MOST_KEPT
    assert len([key for key, _ in kept[str] if key == "path"]) == span_encoding._MOST_OF_A_KEY
    assert len(kept[int]) == span_encoding._MOST_OF_A_KEY
    assert not [key for key, _ in kept[str] if key == "long"]


def test_threads_that_encode_the_same_get_the_same() -> None:
    batch = [span(f"GET {index}", route=f"/{index % 7}", n=index % 5, flag=True) for index in range(200)]
    expected = encode_spans(batch)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(encode_spans(batch))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


@given(st.integers(-(2**63), 2**63 - 1), text, st.booleans())
def test_what_a_collector_took_apart_is_read(count: int, said: str, present: bool) -> None:
    answer: Any = ExportTraceServiceResponse()
    if present:
        answer.partial_success.rejected_spans = count
        answer.partial_success.error_message = said
    assert rejected(answer.SerializeToString()) == ((count, said) if present and count else None)


@given(st.binary(max_size=60))
def test_any_answer_of_a_collector_is_read_or_refused(body: bytes) -> None:
    try:
        found = rejected(body)
    except ValueError:
        return
    assert found is None or isinstance(found[0], int)
