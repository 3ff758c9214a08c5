"""Whatever an outsider puts into metadata, the call is served and observed, and no label is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from flx_otel_instrumentors.grpc.propagation import parent
from flx_otel_instrumentors.grpc.telemetry import MOST_METHODS, Catalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import SERVICE, SyncServer, SyncService, handlers_of
from tests.support.waiting import eventually

KEYS = (
    "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags",
    "traceparent-bin", "baggage-bin",
)  # fmt: skip
HEX = st.text("0123456789abcdefg-", max_size=60)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
PAIRS = st.lists(
    st.sampled_from(KEYS).flatmap(
        lambda key: st.tuples(st.just(key), st.binary(max_size=40) if key.endswith("-bin") else HEX | TEXT)
    ),
    max_size=8,
)


@pytest.fixture(autouse=True)
def all_formats() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(
        CompositePropagator(
            [B3MultiFormat(), B3SingleFormat(), TraceContextTextMapPropagator(), W3CBaggagePropagator()]
        )
    )
    yield
    propagate.set_global_textmap(before)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=10), st.binary() | st.text()), max_size=8))
def test_no_value_makes_reading_fail(metadata: Any) -> None:
    parent(metadata)


def test_a_call_with_any_metadata_is_served_and_observed_once(seen: Capture) -> None:
    from flx_otel_instrumentors.grpc import FlxGrpcServerInstrumentor

    FlxGrpcServerInstrumentor().instrument()
    made = 0

    @settings(max_examples=60, deadline=None)
    @given(PAIRS)
    def call(metadata: Any) -> None:
        nonlocal made
        made += 1
        assert method(b"ok", timeout=20, metadata=tuple(metadata)) == b"done"

    try:
        service = SyncService()
        service.settle = lambda wish, context: None  # type: ignore[method-assign]
        with SyncServer(handlers_of(service)) as server:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                method = channel.unary_unary(f"/{SERVICE}/unary_unary")
                call()
            eventually("the spans", lambda: len(seen.spans()) == made)
    finally:
        FlxGrpcServerInstrumentor().uninstrument()
    assert {each.kind for each in seen.spans()} == {SpanKind.SERVER}
    assert [each.count for each in seen.points("rpc.server.call.duration").values()] == [made]


def test_a_catch_all_handler_does_not_make_labels_without_end() -> None:
    catalog = Catalog()
    names = {catalog.learn(f"/any.Service/{number}").name for number in range(3 * MOST_METHODS)}
    assert len(names) == MOST_METHODS + 1
    assert "_OTHER" in names
