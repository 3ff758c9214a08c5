"""What a call that is not sampled leaves behind: ids for the app and for the calls it makes, measurements, no span."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest
from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor
from flx_otel_instrumentors.grpc.server import ServerCall
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current, get_value, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flx_otel_distro import recording
from flx_otel_distro.testing import Capture, capture
from tests.instrumentors.grpc.service import ARITIES, SERVICE, AioServer, SyncServer, handlers_of
from tests.support.waiting import eventually

KINDS = ("sync", "aio")
REMOTE = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-0"
"""The start of a `traceparent`; what is missing says whether it is sampled."""


class Noted:
    """What the handlers see: the span current in each step, and the metadata of the calls they make."""

    def __init__(self) -> None:
        self.seen: list[SpanContext] = []
        self.marks: list[Any] = []
        self.onward: list[dict[str, str]] = []

    def note(self) -> None:
        self.seen.append(trace.get_current_span().get_span_context())
        self.marks.append(get_value("mark"))
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        self.onward.append(carrier)


class SyncHandlers(Noted):
    def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.note()
        return b"done"

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.note()
        yield b"done"

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        list(requests)
        return self.unary_unary(b"", context)

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        list(requests)
        yield from self.unary_stream(b"", context)


class AioHandlers(Noted):
    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.note()
        return b"done"

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.note()
        yield b"done"

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self.unary_unary(b"".join([each async for each in requests]), context)

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        [each async for each in requests]
        self.note()
        yield b"done"


def served(kind: str, arity: str, metadata: Any = None) -> Noted:
    """Make one call and return what its handler saw. Servers and channels are those in force."""
    handlers = SyncHandlers() if kind == "sync" else AioHandlers()
    server = SyncServer(handlers_of(handlers)) if kind == "sync" else AioServer(handlers_of(handlers))
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        argument: Any = iter([b"1", b"2"]) if arity.startswith("stream") else b"1"
        answer = getattr(channel, arity)(f"/{SERVICE}/{arity}")(argument, timeout=20, metadata=metadata)
        assert (list(answer) if arity.endswith("stream") else [answer]) == [b"done"]
    return handlers


@pytest.fixture
def instrument() -> Iterator[Any]:
    """A function that instruments one side, with the providers given; undone afterwards."""
    used: list[Any] = []

    def start(*sides: Any, **providers: Any) -> None:
        for side in sides:
            side.instrument(**providers)
            used.append(side)

    yield start
    for side in reversed(used):
        side.uninstrument()


@pytest.fixture
def textmap() -> Iterator[Any]:
    """A function that sets the global propagator; put back afterwards."""
    before = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(before)


@pytest.fixture(params=[False, True], ids=["stock", "fast"])
def recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the SDK's own recording and with ours."""
    if request.param:
        recording.install()
    yield
    if request.param:
        recording.uninstall()


class Unsampled(Sampler):
    """Drops everything, in a way that nobody can foresee."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        assert dict(attributes or {})["rpc.method"] == name
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "Unsampled"


@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sampler", [ParentBased(ALWAYS_OFF), ALWAYS_OFF, Unsampled()], ids=lambda each: type(each).__name__
)
def test_an_unsampled_call_gives_the_app_ids_and_leaves_no_span(
    recorded: None, instrument: Any, sampler: Sampler, kind: str, arity: str
) -> None:
    with capture(sampler) as seen:
        instrument(FlxGrpcServerInstrumentor())
        first, second = (served(kind, arity).seen for _ in range(2))
        eventually("the measurement", lambda: points(seen, "rpc.server.call.duration") == {f"{SERVICE}/{arity}": 2})
        assert seen.spans() == []
    assert len(first) == len(second) == 1
    one, two = first[0], second[0]
    for each in (one, two):
        assert each.is_valid and not each.trace_flags.sampled and not each.is_remote
    assert one.trace_id != two.trace_id


def points(seen: Capture, name: str) -> dict[str, int]:
    """Return the count of each method."""
    return {dict(key)["rpc.method"]: each.count for key, each in seen.points(name).items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag", ["0", "1"])
def test_the_callers_decision_and_ids_go_on_to_the_calls_of_the_app(instrument: Any, kind: str, flag: str) -> None:
    with capture(ParentBased(ALWAYS_OFF)) as seen:
        instrument(FlxGrpcServerInstrumentor())
        noted = served(kind, "unary_unary", (("traceparent", REMOTE + flag), ("tracestate", "a=b"), ("other", "1")))
        (context,) = noted.seen
        assert context.trace_id == int("a1" * 16, 16)
        assert context.span_id != int("b2" * 8, 16)
        assert (int(context.trace_flags), dict(context.trace_state)) == (int(flag), {"a": "b"})
        assert noted.onward == [
            {"traceparent": f"00-{'a1' * 16}-{context.span_id:016x}-0{flag}", "tracestate": "a=b"},
        ]
        eventually("its span", lambda: len(seen.spans()) == int(flag))
        for span in seen.spans():
            assert span.context == context
            assert span.parent is not None and span.parent.span_id == int("b2" * 8, 16) and span.parent.is_remote


@pytest.mark.parametrize("server_kind", KINDS)
@pytest.mark.parametrize("client_kind", KINDS)
@pytest.mark.parametrize("sampled", [False, True])
def test_a_client_passes_on_what_was_decided(
    instrument: Any, client_kind: str, server_kind: str, sampled: bool
) -> None:
    async def call_aio(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(f"/{SERVICE}/unary_unary")(b"1", timeout=20) == b"done"

    above = SpanContext(7, 8, False, TraceFlags(int(sampled)))
    with capture(ParentBased(ALWAYS_OFF)) as seen:
        instrument(FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor())
        handlers = SyncHandlers() if server_kind == "sync" else AioHandlers()
        server = SyncServer(handlers_of(handlers)) if server_kind == "sync" else AioServer(handlers_of(handlers))
        with server, trace.use_span(NonRecordingSpan(above)):
            if client_kind == "sync":
                with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                    assert channel.unary_unary(f"/{SERVICE}/unary_unary")(b"1", timeout=20) == b"done"
            else:
                asyncio.run(call_aio(server.port))
        (context,) = handlers.seen
        assert (context.trace_id, context.trace_flags.sampled) == (7, sampled)
        assert context.span_id != 8
        eventually("the spans", lambda: len(seen.spans()) == 2 * int(sampled))
        spans = {each.kind: each for each in seen.spans()}
        if sampled:
            client, inbound = spans[SpanKind.CLIENT], spans[SpanKind.SERVER]
            assert client.parent == above
            assert inbound.parent is not None and inbound.parent.span_id == client.context.span_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_that_nobody_can_foresee_is_asked_and_its_attributes_are_kept(instrument: Any, kind: str) -> None:
    class Marking(Unsampled):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            super().should_sample(*args, **kwargs)
            attributes = kwargs["attributes"] if "attributes" in kwargs else args[4]
            return SamplingResult(Decision.RECORD_AND_SAMPLE, {**attributes, "why": "because"})

    with capture(Marking()) as seen:
        instrument(FlxGrpcServerInstrumentor())
        served(kind, "unary_unary")
        eventually("its span", lambda: len(seen.spans()) == 1)
        found = dict(seen.spans()[0].attributes or {})
    port = found.pop("network.peer.port")
    assert found == {
        "why": "because",
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/unary_unary",
        "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
        "client.port": port,
    }


class Ticket(TextMapPropagator):
    """A propagator of the app's own: one header of its own, and a mark where there is none at all."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        found: Sequence[str] | None = getter.get(carrier, "x-ticket")
        assert "user-agent" in getter.keys(carrier)
        return set_value("mark", found[0] if found else "none", context)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        setter.set(carrier, "X-Ticket", str(get_value("ticket", context)))

    @property
    def fields(self) -> set[str]:
        return {"x-ticket"}


class Renaming(TraceContextTextMapPropagator):
    """Upstream's, made to read another header as well."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        found = getter.get(carrier, "x-trace")
        if not found:
            return super().extract(carrier, context, getter)
        return super().extract({"traceparent": next(iter(found))}, context, default_getter)


@pytest.mark.parametrize("kind", KINDS)
def test_a_propagator_of_the_app_is_given_every_header_and_asked_for_every_call(
    instrument: Any, textmap: Any, kind: str
) -> None:
    textmap(CompositePropagator([TraceContextTextMapPropagator(), Ticket()]))
    with capture(ParentBased(ALWAYS_OFF)):
        instrument(FlxGrpcServerInstrumentor())
        assert served(kind, "unary_unary").marks == ["none"]
        assert served(kind, "unary_unary", (("x-ticket", "5"),)).marks == ["5"]
        instrument(FlxGrpcClientInstrumentor())
        token = attach(set_value("ticket", "6"))
        try:
            assert served(kind, "unary_unary").marks == ["6"]
        finally:
            detach(token)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subclass_of_a_known_propagator_may_read_what_it_likes(instrument: Any, textmap: Any, kind: str) -> None:
    textmap(Renaming())
    with capture(ParentBased(ALWAYS_OFF)):
        instrument(FlxGrpcServerInstrumentor())
        (context,) = served(kind, "unary_unary", (("x-trace", REMOTE + "0"),)).seen
    assert context.trace_id == int("a1" * 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_propagator_set_later_is_used_from_then_on(instrument: Any, textmap: Any, kind: str) -> None:
    with capture(ParentBased(ALWAYS_OFF)):
        instrument(FlxGrpcServerInstrumentor())
        textmap(CompositePropagator([]))
        assert served(kind, "unary_unary", (("traceparent", REMOTE + "0"),)).seen[0].trace_id != int("a1" * 16, 16)
        textmap(TraceContextTextMapPropagator())
        assert served(kind, "unary_unary", (("traceparent", REMOTE + "0"),)).seen[0].trace_id == int("a1" * 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_measurements_go_to_the_provider_in_force_and_to_no_other(recorded: None, instrument: Any, kind: str) -> None:
    name = "rpc.server.call.duration"
    own = Capture()
    for number in range(1, 3):
        with capture() as seen:
            server = FlxGrpcServerInstrumentor()
            server.instrument()
            try:
                for _ in range(number):
                    served(kind, "unary_unary")
                eventually("all of them", lambda: len(seen.spans()) == number)  # noqa: B023 - called at once
            finally:
                server.uninstrument()
            assert points(seen, name) == {f"{SERVICE}/unary_unary": number}
    with capture() as seen:
        instrument(FlxGrpcServerInstrumentor(), meter_provider=own.meter_provider, tracer_provider=own.tracer_provider)
        served(kind, "unary_unary")
        eventually("its own", lambda: len(own.spans()) == 1)
        assert (points(own, name), points(seen, name), seen.spans()) == ({f"{SERVICE}/unary_unary": 1}, {}, [])
    own.tracer_provider.shutdown()
    own.meter_provider.shutdown()


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_the_provider_hold_for_the_attributes_of_a_call(instrument: Any, kind: str) -> None:
    from opentelemetry.sdk.trace import SpanLimits
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider(
        span_limits=SpanLimits(max_span_attributes=2, max_span_attribute_length=4), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(kept))
    instrument(FlxGrpcServerInstrumentor(), tracer_provider=provider)
    served(kind, "unary_unary")
    eventually("its span", lambda: len(kept.get_finished_spans()) == 1)
    attributes: Mapping[str, Any] = kept.get_finished_spans()[0].attributes or {}
    assert len(attributes) == 2
    assert all(len(each) <= 4 for each in attributes.values() if isinstance(each, str))
    provider.shutdown()


def test_what_is_current_where_a_server_was_made_is_no_parent(instrument: Any) -> None:
    with capture(ParentBased(ALWAYS_OFF)):
        instrument(FlxGrpcServerInstrumentor())
        above = SpanContext(7, 8, False)
        with trace.use_span(NonRecordingSpan(above)):
            for kind in KINDS:
                assert get_current()
                assert served(kind, "unary_unary").seen[0].trace_id != above.trace_id


@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "unsampled"])
def test_a_call_that_is_over_leaves_nothing_to_the_garbage_collector(
    instrument: Any, sampler: Sampler, kind: str, arity: str
) -> None:
    before = [each for each in gc.get_objects() if isinstance(each, ServerCall)]  # of other tests

    def alive() -> int:
        return sum(isinstance(each, ServerCall) for each in gc.get_objects()) - len(before)

    with capture(sampler) as seen:
        instrument(FlxGrpcServerInstrumentor())
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                served(kind, arity)
            eventually("all of them", lambda: points(seen, "rpc.server.call.duration") == {f"{SERVICE}/{arity}": 3})
            eventually("none is left", lambda: alive() == 0)
        finally:
            gc.enable()
