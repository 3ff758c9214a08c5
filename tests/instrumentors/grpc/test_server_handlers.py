"""Every style of handler behaves as under grpc alone, and its call is observed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import AioServer, SyncServer
from tests.support.waiting import eventually


def handler(arity: str, behavior: Any, *serializers: Any) -> grpc.GenericRpcHandler:
    method = getattr(grpc, f"{arity}_rpc_method_handler")(behavior, *serializers)
    return grpc.method_handlers_generic_handler("test.Style", {"Call": method})


def call(port: int, arity: str, requests: list[bytes], timeout: float = 20) -> list[bytes] | str:
    """Call the method; return its responses, or status and details in one text."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = getattr(channel, arity)("/test.Style/Call")
        argument: Any = iter(requests) if arity.startswith("stream") else requests[0]
        try:
            answer = method(argument, timeout=timeout)
            return list(answer) if arity.endswith("stream") else [answer]
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"


def server_span(seen: Capture) -> ReadableSpan:
    def ask() -> list[ReadableSpan]:
        return [each for each in seen.spans() if each.kind is SpanKind.SERVER]

    found = eventually("the server span", ask)
    assert len(found) == 1
    return found[0]


def outcome(seen: Capture) -> tuple[Any, Any]:
    attributes = server_span(seen).attributes or {}
    points = seen.points("rpc.server.call.duration")
    assert [each.count for each in points.values()] == [1]
    labels = dict(next(iter(points)))
    assert labels["rpc.response.status_code"] == attributes["rpc.response.status_code"]
    return attributes["rpc.response.status_code"], attributes.get("error.type")


def current_id() -> bytes:
    return b"%x" % trace.get_current_span().get_span_context().span_id


async def writer(request: bytes, context: Any) -> None:
    await context.write(current_id())
    await context.write(current_id())


async def reader(_: Any, context: Any) -> bytes:
    received = b""
    while (message := await context.read()) is not grpc.aio.EOF:
        received += message
    return received


async def talker(_: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


def plain(request: bytes, context: Any) -> bytes:
    return current_id()


def plain_generator(request: bytes, context: Any) -> Iterator[bytes]:
    yield current_id()
    yield current_id()


def plain_list(request: bytes, context: Any) -> list[bytes]:
    return [current_id(), current_id()]


def plain_consumer(requests: Iterator[bytes], context: Any) -> bytes:
    return b"".join(requests)


def plain_echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


@pytest.mark.parametrize(
    ("arity", "behavior", "sent", "received"),
    [
        ("unary_stream", writer, None, 2),
        ("stream_unary", reader, 3, None),
        ("stream_stream", talker, 3, 3),
        ("unary_unary", plain, None, None),
        ("unary_stream", plain_generator, None, 2),
        ("unary_stream", plain_list, None, 2),
        ("stream_unary", plain_consumer, 3, None),
        ("stream_stream", plain_echo, 3, 3),
    ],
)
def test_each_style_of_an_asyncio_server_is_observed(
    instrumented: Capture, arity: str, behavior: Any, sent: int | None, received: int | None
) -> None:
    with ThreadPoolExecutor(2) as pool, AioServer(handler(arity, behavior), pool=pool) as server:
        answer = call(server.port, arity, [b"a", b"b", b"c"])
        span = server_span(instrumented)
        own = b"%x" % span.context.span_id
        expected = [b"abc"] if arity == "stream_unary" else [b"a", b"b", b"c"] if sent else [own] * (received or 1)
        assert answer == expected
        assert [pool.submit(get_current).result() for _ in range(4)] == [Context()] * 4
    assert outcome(instrumented) == ("OK", None)
    for what, count in (("requests", sent), ("responses", received)):
        sums = [each.sum for each in instrumented.points(f"rpc.server.{what}_per_rpc").values()]
        assert sums == ([] if count is None else [count])


def sets_code(request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.DATA_LOSS)
    context.set_details("half of it")
    return b""


async def sets_code_aio(request: bytes, context: Any) -> bytes:
    return sets_code(request, context)


def sets_and_raises(request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
    raise LookupError("not yet")


async def sets_and_raises_aio(request: bytes, context: Any) -> bytes:
    return sets_and_raises(request, context)


def aborts(request: bytes, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "gone fishing")


def unserializable(request: bytes, context: Any) -> object:
    return object()


async def unserializable_aio(request: bytes, context: Any) -> object:
    return object()


@pytest.mark.parametrize(
    ("kind", "behavior", "status", "error"),
    [
        ("sync", sets_code, "DATA_LOSS", "DATA_LOSS"),
        ("aio", sets_code_aio, "DATA_LOSS", "DATA_LOSS"),
        ("aio", sets_code, "DATA_LOSS", "DATA_LOSS"),
        ("sync", sets_and_raises, "FAILED_PRECONDITION", None),
        ("aio", sets_and_raises_aio, "FAILED_PRECONDITION", None),
        ("aio", sets_and_raises, "FAILED_PRECONDITION", None),
        ("aio", aborts, "UNAVAILABLE", "UNAVAILABLE"),
        ("sync", unserializable, "INTERNAL", "AttributeError"),
        ("aio", unserializable_aio, "UNKNOWN", "AttributeError"),
    ],
)
def test_a_status_that_is_set_is_the_one_the_client_sees(
    instrumented: Capture, kind: str, behavior: Any, status: str, error: str | None
) -> None:
    def serialize(message: Any) -> bytes:
        return message if isinstance(message, bytes) else message.encode()

    one = handler("unary_unary", behavior, None, serialize)
    with ThreadPoolExecutor(2) as pool, SyncServer(one) if kind == "sync" else AioServer(one, pool=pool) as server:
        seen_by_client = call(server.port, "unary_unary", [b"x"])
    assert isinstance(seen_by_client, str) and seen_by_client.startswith(f"{status}: ")
    assert outcome(instrumented) == (status, error)


@pytest.mark.parametrize(("kind", "status"), [("sync", "INTERNAL"), ("aio", "UNKNOWN")])
def test_a_request_that_cannot_be_read_is_a_failed_call(instrumented: Capture, kind: str, status: str) -> None:
    one = handler("unary_unary", plain, lambda data: int(data))
    with SyncServer(one) if kind == "sync" else AioServer(one) as server:
        assert str(call(server.port, "unary_unary", [b"x"])).startswith(f"{status}: ")
    assert outcome(instrumented) == (status, "ValueError")


@pytest.mark.parametrize("raised", [False, True])
def test_a_sync_iterator_fails_with_grpcs_own_words(instrumented: Capture, raised: bool) -> None:
    def not_an_iterator(request: bytes, context: Any) -> list[bytes]:
        if raised:
            raise ValueError("early")
        return [b"1"]

    words = "Exception calling application: early" if raised else "'list' object is not an iterator"
    with SyncServer(handler("unary_stream", not_an_iterator)) as server:
        answer = call(server.port, "unary_stream", [b"x"])
    assert isinstance(answer, str) and answer.startswith("UNKNOWN: ") and answer.endswith(words)
    assert outcome(instrumented) == ("UNKNOWN", "ValueError" if raised else "TypeError")


def test_the_pool_of_a_handler_is_kept(instrumented: Capture) -> None:
    names: list[str] = []

    def behavior(request: bytes, context: Any) -> bytes:
        names.append(threading.current_thread().name)
        return b"done"

    with ThreadPoolExecutor(1, thread_name_prefix="own") as pool:
        behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
        with SyncServer(handler("unary_unary", behavior)) as server:
            assert call(server.port, "unary_unary", [b"x"]) == [b"done"]
    assert names == ["own_0"]
    assert outcome(instrumented) == ("OK", None)


def test_the_context_of_a_sync_handler_is_grpcs_own(instrumented: Capture) -> None:
    facts: list[Any] = []

    def behavior(request: bytes, context: Any) -> bytes:
        context.mine = 7
        facts.extend((isinstance(context, grpc.ServicerContext), context.mine, context.is_active()))
        return b""

    with SyncServer(handler("unary_unary", behavior)) as server:
        call(server.port, "unary_unary", [b"x"])
    assert facts == [True, 7, True]


def test_the_context_of_a_plain_function_on_an_asyncio_server_looks_like_grpcs_own(seen: Capture) -> None:
    def look(request: bytes, context: Any) -> bytes:
        with pytest.raises(AttributeError):
            context.mine = 7
        return repr((context.__class__, isinstance(context, grpc.ServicerContext), context.peer()[:5])).encode()

    from flx_otel_instrumentors.grpc import FlxGrpcServerInstrumentor

    answers: list[Any] = []
    for instrumented in (False, True):
        if instrumented:
            FlxGrpcServerInstrumentor().instrument()
        try:
            with ThreadPoolExecutor(1) as pool, AioServer(handler("unary_unary", look), pool=pool) as server:
                answers.append(call(server.port, "unary_unary", [b"x"]))
        finally:
            if instrumented:
                FlxGrpcServerInstrumentor().uninstrument()
    assert answers[0] == answers[1]
    assert server_span(seen).name == "test.Style/Call"


def test_what_a_generator_makes_current_stays_current_between_its_steps(instrumented: Capture) -> None:
    tracer = trace.get_tracer("app")

    def behavior(request: bytes, context: Any) -> Iterator[bytes]:
        with tracer.start_as_current_span("inner"):
            yield current_id()
            yield current_id()
        yield current_id()

    async def aio_behavior(request: bytes, context: Any) -> AsyncIterator[bytes]:
        with tracer.start_as_current_span("inner"):
            yield current_id()
            yield current_id()
        yield current_id()

    makers: list[Callable[[], Any]] = [
        lambda: SyncServer(handler("unary_stream", behavior)),
        lambda: AioServer(handler("unary_stream", aio_behavior)),
    ]
    for make in makers:
        with make() as server:
            answer = call(server.port, "unary_stream", [b"x"])
        assert isinstance(answer, list)
        assert answer[0] == answer[1] != answer[2]


def test_nothing_stays_current_on_the_threads_of_the_pool(instrumented: Capture) -> None:
    def endless(request: bytes, context: Any) -> Iterator[bytes]:
        while True:
            yield b"more"

    with SyncServer(handler("unary_stream", endless)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stream = channel.unary_stream("/test.Style/Call")(b"x")
            assert next(stream) == b"more"
            stream.cancel()
        assert outcome(instrumented) == ("CANCELLED", None)
        barrier = threading.Barrier(4)

        def look() -> Context:
            barrier.wait(20)
            return get_current()

        assert [each.result() for each in [server.pool.submit(look) for _ in range(4)]] == [Context()] * 4


def test_a_call_cancelled_before_a_thread_is_free_is_measured(instrumented: Capture) -> None:
    free = threading.Event()
    with SyncServer(handler("unary_unary", plain)) as server:
        for _ in range(4):
            server.pool.submit(free.wait, 20)
        assert str(call(server.port, "unary_unary", [b"x"], timeout=0.2)).startswith("DEADLINE_EXCEEDED")
        free.set()
        # The handler may still be called, if the server hears of the cancellation after the thread is free.
        assert outcome(instrumented) in [("CANCELLED", None), ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")]


@pytest.mark.parametrize("kind", [SyncServer, AioServer])
def test_a_call_beyond_the_maximum_is_measured(instrumented: Capture, kind: Any) -> None:
    entered, free = threading.Event(), threading.Event()

    def behavior(request: bytes, context: Any) -> bytes:
        entered.set()
        free.wait(20)
        return b""

    async def behavior_aio(request: bytes, context: Any) -> bytes:
        return await asyncio.to_thread(behavior, request, context)

    served = behavior if kind is SyncServer else behavior_aio
    server = kind(handler("unary_unary", served), maximum_concurrent_rpcs=1)
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method = channel.unary_unary("/test.Style/Call")
        first = method.future(b"x", timeout=20)
        assert entered.wait(20)
        with pytest.raises(grpc.RpcError) as refused:
            method(b"x", timeout=20)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        free.set()
        first.result()

    def statuses() -> dict[Any, int]:
        points = instrumented.points("rpc.server.call.duration")
        return {dict(key)["rpc.response.status_code"]: each.count for key, each in points.items()}

    eventually("both", lambda: statuses() == {"OK": 1, "RESOURCE_EXHAUSTED": 1})


def test_a_handler_that_goes_on_after_the_deadline_has_ended_for_us(instrumented: Capture) -> None:
    free = threading.Event()

    def behavior(request: bytes, context: Any) -> bytes:
        free.wait(20)
        return b""

    with SyncServer(handler("unary_unary", behavior)) as server:
        call(server.port, "unary_unary", [b"x"], timeout=0.3)
        assert outcome(instrumented) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        free.set()
    assert len([each for each in instrumented.spans() if each.kind is SpanKind.SERVER]) == 1


def test_a_plain_function_on_an_asyncio_server_ends_with_its_call(instrumented: Capture) -> None:
    free = threading.Event()

    def behavior(request: bytes, context: Any) -> bytes:
        free.wait(20)
        return b""

    with ThreadPoolExecutor(1) as pool, AioServer(handler("unary_unary", behavior), pool=pool) as server:
        call(server.port, "unary_unary", [b"x"], timeout=0.3)
        assert outcome(instrumented) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        free.set()


@pytest.mark.parametrize("maximum", [None, 5])
def test_a_call_cancelled_before_its_message_was_not_refused(instrumented: Capture, maximum: int | None) -> None:
    arrived, free = threading.Event(), threading.Event()

    async def behavior(request: bytes, context: Any) -> bytes:
        return request

    class Telling(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            arrived.set()
            return handler("unary_unary", behavior).service(handler_call_details)

    def requests() -> Iterator[bytes]:
        free.wait(20)
        yield b"x"

    with AioServer(Telling(), maximum_concurrent_rpcs=maximum) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            made = channel.stream_unary("/test.Style/Call").future(requests(), timeout=20)
            assert arrived.wait(20)
            made.cancel()
            free.set()
        assert outcome(instrumented) == ("CANCELLED", None)


def test_an_asyncio_answer_of_nothing_went_well(instrumented: Capture) -> None:
    async def behavior(request: bytes, context: Any) -> Any:
        return None

    with AioServer(handler("unary_unary", behavior)) as server:
        assert call(server.port, "unary_unary", [b"x"]) == [b""]
    assert outcome(instrumented) == ("OK", None)
