"""What is decided before a span is made is what the SDK decides, and ids nobody asks for are not drawn."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from flx_otel_distro.contexts import attach, detach, with_span
from flx_otel_distro.ids import FlxIdGenerator
from flx_otel_distro.spans import Starter
from flx_otel_distro.unsampled import Unsampled

NOTHING = Context()
LOW = (1 << 64) - 1


def starter(sampler: Any = ALWAYS_OFF, ids: Any = None) -> Starter:
    provider = TracerProvider(sampler=sampler, id_generator=ids or FlxIdGenerator(), shutdown_on_exit=False)
    return Starter(provider.get_tracer("test"))


def context_of(decision: SpanContext | NonRecordingSpan | None) -> SpanContext:
    assert decision is not None
    return decision if isinstance(decision, SpanContext) else decision.get_span_context()


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_roots_are_new_each_time_and_sampled_as_often_as_asked(ratio: float) -> None:
    spans = starter(ParentBased(TraceIdRatioBased(ratio)))
    decisions = [spans.decide(NOTHING) for _ in range(1000)]
    found = [context_of(each) for each in decisions]
    assert len({each.trace_id for each in found}) == len({each.span_id for each in found}) == 1000
    bound = TraceIdRatioBased.get_bound_for_rate(ratio)
    for decision, context in zip(decisions, found, strict=True):
        assert isinstance(decision, SpanContext) == context.trace_flags.sampled == (context.trace_id & LOW < bound)
        assert context.is_valid and not context.is_remote and context.trace_flags.random_trace_id
        assert context == SpanContext(*tuple(context)[:5])  # type: ignore[misc]


@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), TraceIdRatioBased(0.5)])
def test_a_child_is_what_the_tracer_would_start(sampler: Any, remote: bool, flags: int) -> None:
    spans = starter(sampler)
    for trace_id in (1, LOW, (1 << 63) - 1, 1 << 63, (7 << 64) + 5):
        above = SpanContext(trace_id, 9, remote, TraceFlags(flags), TraceState([("vendor", "x")]))
        parent = with_span(NOTHING, NonRecordingSpan(above))
        expected = spans.tracer.start_span("stock", parent).get_span_context()
        found = context_of(spans.decide(parent))
        assert (found.trace_id, found.trace_flags, found.is_remote, found.trace_state) == (
            expected.trace_id,
            expected.trace_flags,
            expected.is_remote,
            expected.trace_state,
        )
        assert found.span_id not in (0, above.span_id)


def test_another_sampler_is_asked_from_then_on() -> None:
    spans = starter(ALWAYS_OFF)
    assert type(spans.decide(NOTHING)) is Unsampled
    spans.tracer.sampler = ALWAYS_ON
    assert all(isinstance(spans.decide(NOTHING), SpanContext) for _ in range(3))


def test_an_id_generator_of_the_app_is_asked_when_an_id_is_needed() -> None:
    asked: list[str] = []

    class Counting(FlxIdGenerator):
        def generate_trace_id(self) -> int:
            asked.append("trace")
            return super().generate_trace_id()

    spans = starter(ALWAYS_OFF, Counting())
    for count in range(1, 4):
        assert type(spans.decide(NOTHING)) is NonRecordingSpan
        assert len(asked) == count


def test_another_id_generator_is_asked_from_then_on() -> None:
    class Fixed(FlxIdGenerator):
        def generate_trace_id(self) -> int:
            return 42

    spans = starter(ALWAYS_ON)
    assert context_of(spans.decide(NOTHING)).trace_id != 42
    spans.tracer.id_generator = Fixed()
    assert context_of(spans.decide(NOTHING)).trace_id == 42


def test_threads_that_ask_at_once_see_the_same_ids() -> None:
    spans = starter()
    for _ in range(50):
        span: Any = spans.decide(NOTHING)
        found: list[SpanContext] = []
        together = threading.Barrier(4)

        def ask(span: Any = span, found: list[SpanContext] = found, together: threading.Barrier = together) -> None:
            together.wait()
            found.append(span.get_span_context())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len({id(each) for each in found}) == 1


def test_a_copy_has_the_same_ids() -> None:
    span: Any = starter().decide(NOTHING)
    for copied in (copy.deepcopy(span), pickle.loads(pickle.dumps(span))):
        assert copied.get_span_context() == span.get_span_context()
    assert not span.is_recording()
    assert str(span.get_span_context()) in repr(span)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_agrees_about_what_is_current_and_draws_its_own_beyond() -> None:
    spans = starter()
    span: Any = spans.decide(NOTHING)
    token = attach(with_span(NOTHING, span))
    try:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                told = [trace.get_current_span().get_span_context()]
                told += [context_of(spans.decide(NOTHING)) for _ in range(40)]
                os.write(writing, " ".join(f"{each.trace_id:x}" for each in told).encode())
            finally:
                os._exit(0)
    finally:
        detach(token)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        current, *theirs = (int(each, 16) for each in answer.read().split())
    os.waitpid(child, 0)
    assert current == span.get_span_context().trace_id
    assert len(set(theirs)) == 40
    assert set(theirs).isdisjoint(context_of(spans.decide(NOTHING)).trace_id for _ in range(40))
