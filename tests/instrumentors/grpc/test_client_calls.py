"""Callers find grpc's own call objects, exceptions and metadata, and each call of theirs is observed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.experimental
import pytest
from flx_otel_instrumentors.grpc.client import target_attributes
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import SERVICE, AioServer, AioService, SyncServer, SyncService, handlers_of
from tests.support.waiting import eventually


class Echo(SyncService):
    """Answers with what it was told."""

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("last", "word"),))
        return repr([tuple(each) for each in context.invocation_metadata()]).encode()

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.entered.set()
        for number in range(1_000_000):
            if not context.is_active():
                return
            yield b"%d" % number


@pytest.fixture
def service() -> Echo:
    return Echo()


@pytest.fixture
def channel(instrumented: Capture, service: Echo) -> Iterator[grpc.Channel]:
    server = SyncServer(handlers_of(service))
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def client_spans(seen: Capture, number: int = 1) -> list[ReadableSpan]:
    def ask() -> list[ReadableSpan]:
        found = [each for each in seen.spans() if each.kind is SpanKind.CLIENT]
        return found if len(found) >= number else []

    found = eventually("the client spans", ask)
    assert len(found) == number
    return found


def statuses(seen: Capture) -> dict[Any, int]:
    return {
        dict(key)["rpc.response.status_code"]: each.count
        for key, each in seen.points("rpc.client.call.duration").items()
    }


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        (("own", "value"), ("own", "again"), ("some-bin", b"\x00\xff")),
        [("own", "value")],
        grpc.aio.Metadata(("own", "value")),
    ],
)
def test_metadata_of_the_app_arrives_beside_ours_and_is_not_written_to(
    channel: grpc.Channel, instrumented: Capture, metadata: Any
) -> None:
    before = None if metadata is None else list(metadata)
    received = eval(channel.unary_unary(f"/{SERVICE}/unary_unary")(b"x", 20, metadata))
    assert (None if metadata is None else list(metadata)) == before
    own = [each for each in received if each[0] not in ("user-agent", "traceparent")]
    assert own == (before or [])
    (span,) = client_spans(instrumented)
    parents = [each[1][:52] for each in received if each[0] == "traceparent"]
    assert parents == [f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"]


def test_a_traceparent_of_the_app_is_replaced(channel: grpc.Channel, instrumented: Capture) -> None:
    stale = (("traceparent", f"00-{1:032x}-{2:016x}-01"),)
    received = eval(channel.unary_unary(f"/{SERVICE}/unary_unary")(b"x", metadata=stale))
    (span,) = client_spans(instrumented)
    assert [each[1][36:52] for each in received if each[0] == "traceparent"] == [f"{span.context.span_id:016x}"]


def test_with_call_and_future_give_grpcs_own_objects(channel: grpc.Channel, instrumented: Capture) -> None:
    method = channel.unary_unary(f"/{SERVICE}/unary_unary")
    assert isinstance(method, grpc.UnaryUnaryMultiCallable)
    _, call = method.with_call(b"x", timeout=20)
    assert (call.code(), list(call.trailing_metadata())) == (grpc.StatusCode.OK, [("last", "word")])
    future = method.future(b"x", timeout=20)
    done: list[Any] = []
    future.add_done_callback(done.append)
    assert isinstance(future, grpc.Future) and isinstance(future, grpc.Call)
    future.result(20)
    assert (future.code(), future.done(), future.cancelled()) == (grpc.StatusCode.OK, True, False)
    eventually("the callback", lambda: done == [future])
    client_spans(instrumented, 2)
    eventually("both", lambda: statuses(instrumented) == {"OK": 2})


def test_the_error_is_grpcs_own(channel: grpc.Channel, instrumented: Capture) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(f"/{SERVICE}/Missing")(b"x", timeout=20)
    assert isinstance(failed.value, grpc.Call)
    assert type(failed.value).__name__ == "_InactiveRpcError"
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    (span,) = client_spans(instrumented)
    assert span.status.description == "Method not found!"


def test_the_error_of_a_stream_is_the_call_itself(channel: grpc.Channel, instrumented: Capture) -> None:
    call = channel.unary_stream(f"/{SERVICE}/Missing")(b"x", timeout=20)
    with pytest.raises(grpc.RpcError) as failed:
        next(call)
    assert failed.value is call
    client_spans(instrumented)


@pytest.mark.parametrize("options", [None, [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]])
def test_a_stream_that_is_dropped_is_cancelled_and_ends_once(
    instrumented: Capture, service: Echo, options: Any
) -> None:
    server = SyncServer(handlers_of(service))
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        call = channel.unary_stream(f"/{SERVICE}/unary_stream")(b"x", timeout=20)
        assert [next(call), next(call)] == [b"0", b"1"]
        del call
        gc.collect()
        eventually("both sides", lambda: len(instrumented.spans()) == 2)
    assert {(each.attributes or {})["rpc.response.status_code"] for each in instrumented.spans()} == {"CANCELLED"}
    assert statuses(instrumented) == {"CANCELLED": 1}


def test_a_call_that_cannot_be_made_has_no_status(channel: grpc.Channel, instrumented: Capture) -> None:
    method = channel.unary_unary(f"/{SERVICE}/unary_unary")
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        method(b"x")
    (span,) = client_spans(instrumented)
    attributes = dict(span.attributes or {})
    assert (attributes.get("rpc.response.status_code"), attributes["error.type"]) == (None, "ValueError")


def test_interceptors_of_the_app_keep_working(channel: grpc.Channel, instrumented: Capture) -> None:
    class Retrying(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: bytes) -> Any:
            continuation(client_call_details, request).result()
            return continuation(client_call_details, request)

    twice = grpc.intercept_channel(channel, Retrying())
    assert b"traceparent" in twice.unary_unary(f"/{SERVICE}/unary_unary")(b"x", timeout=20)
    client_spans(instrumented, 2)


@pytest.mark.parametrize(
    "path",
    [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_exporters_and_probes_leave_nothing(channel: grpc.Channel, instrumented: Capture, path: str) -> None:
    with pytest.raises(grpc.RpcError, match="Method not found"):
        channel.unary_unary(path)(b"x", timeout=20)
    assert (instrumented.spans(), instrumented.metrics()) == ([], {})


def test_a_suppressed_call_leaves_nothing_on_the_client(channel: grpc.Channel, instrumented: Capture) -> None:
    with suppress_instrumentation():
        received = channel.unary_unary(f"/{SERVICE}/unary_unary")(b"x", timeout=20)
    assert b"traceparent" not in received
    eventually("the server", lambda: [each.kind for each in instrumented.spans()] == [SpanKind.SERVER])


class AioEcho(AioService):
    """Answers with the trace parents it was told."""

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.note()
        return repr([tuple(each) for each in context.invocation_metadata()]).encode()


def test_an_asyncio_call_is_grpcs_own(instrumented: Capture) -> None:
    async def use(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_unary(f"/{SERVICE}/unary_unary")
            assert isinstance(method, grpc.aio.UnaryUnaryMultiCallable)
            mine = grpc.aio.Metadata(("own", "value"))
            call = method(b"x", timeout=20, metadata=mine)
            assert isinstance(call, grpc.aio.UnaryUnaryCall)
            assert 0 < call.time_remaining() <= 20
            done: list[Any] = []
            call.add_done_callback(done.append)
            received = eval(await call)
            assert ("own", "value") in received and list(mine) == [("own", "value")]
            assert (await call.code(), await call.details(), call.done()) == (grpc.StatusCode.OK, "", True)
            assert done == [call]
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(f"/{SERVICE}/Missing")(b"x", timeout=20)
            assert failed.value.details() == "Method not found!"

    with AioServer(handlers_of(AioEcho())) as server:
        asyncio.run(use(server.port))
    assert statuses(instrumented) == {"OK": 1, "UNIMPLEMENTED": 1}
    client_spans(instrumented, 2)


def test_an_asyncio_stream_in_reader_writer_style_is_counted(instrumented: Capture) -> None:
    async def use(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(f"/{SERVICE}/stream_stream")(timeout=20)
            for _ in range(2):
                await call.write(b"ok")
            await call.done_writing()
            received = []
            while (message := await call.read()) is not grpc.aio.EOF:
                received.append(message)
            assert received == [b"1", b"2", b"3"]

    with AioServer(handlers_of(AioService())) as server:
        asyncio.run(use(server.port))
    client_spans(instrumented)
    for side in ("client", "server"):
        for what, number in (("requests", 2), ("responses", 3)):
            (point,) = instrumented.points(f"rpc.{side}.{what}_per_rpc").values()
            assert (side, what, point.sum) == (side, what, number)


def test_an_asyncio_stream_that_is_dropped_is_cancelled_and_ends_once(instrumented: Capture) -> None:
    async def use(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream(f"/{SERVICE}/unary_stream")(b"hang", timeout=20)
            assert await call.read() == b"1"
            del call
            gc.collect()

    with AioServer(handlers_of(AioService())) as server:
        asyncio.run(use(server.port))
        eventually("both sides", lambda: len(instrumented.spans()) == 2)
    assert {(each.attributes or {})["rpc.response.status_code"] for each in instrumented.spans()} == {"CANCELLED"}
    assert statuses(instrumented) == {"CANCELLED": 1}


@pytest.mark.parametrize("fails", [False, True])
def test_asyncio_interceptors_of_the_app_keep_working(instrumented: Capture, fails: bool) -> None:
    if fails and tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 83):
        pytest.skip("this grpcio never tells that a call ended whose interceptor raised")

    class Tagging(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: bytes) -> Any:
            if fails:
                raise LookupError("not today")
            client_call_details.metadata.add("tagged", "yes")
            return await continuation(client_call_details, request)

    async def use(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=[Tagging()]) as channel:
            call = channel.unary_unary(f"/{SERVICE}/unary_unary")(b"x", timeout=20)
            if fails:
                with pytest.raises(LookupError, match="not today"):
                    await call
            else:
                assert {"tagged", "traceparent"} <= {each[0] for each in eval(await call)}

    with AioServer(handlers_of(AioEcho())) as server:
        asyncio.run(use(server.port))
    (span,) = client_spans(instrumented)
    assert (span.attributes or {}).get("error.type") == ("LookupError" if fails else None)


def test_a_task_that_is_cancelled_cancels_its_call(instrumented: Capture) -> None:
    service = AioService()

    async def use(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_unary(f"/{SERVICE}/unary_unary")

            async def wait() -> None:
                await method(b"hang", timeout=20)

            task = asyncio.create_task(wait())
            assert await asyncio.to_thread(service.entered.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with AioServer(handlers_of(service)) as server:
        asyncio.run(use(server.port))
        eventually("both sides", lambda: len(instrumented.spans()) == 2)
    assert statuses(instrumented) == {"CANCELLED": 1}


def test_nothing_of_a_call_is_current_for_the_caller(channel: grpc.Channel, instrumented: Capture) -> None:
    seen_by_requests: list[Any] = []

    def requests() -> Iterator[bytes]:
        seen_by_requests.append(trace.get_current_span())
        yield b"ok"

    channel.stream_unary(f"/{SERVICE}/stream_unary")(requests(), timeout=20)
    assert [each.is_recording() for each in (*seen_by_requests, trace.get_current_span())] == [False, False]


@pytest.mark.parametrize(
    ("target", "address", "port"),
    [
        ("localhost:50051", "localhost", 50051),
        ("orders", "orders", None),
        ("dns:///orders.example:443", "orders.example", 443),
        ("dns://8.8.8.8/orders.example:443", "orders.example", 443),
        ("dns:orders.example:443", "orders.example", 443),
        ("dns:50051", "dns", 50051),
        ("ipv4:10.0.0.1:50051", "10.0.0.1", 50051),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", "10.0.0.1", 50051),
        ("ipv6:[::1]:50051", "::1", 50051),
        ("[::1]:50051", "::1", 50051),
        ("unix:/tmp/orders.sock", "/tmp/orders.sock", None),
        ("unix:///tmp/orders.sock", "/tmp/orders.sock", None),
        ("xds:///orders", "orders", None),
        ("host:notaport", "host:notaport", None),
        ("", None, None),
    ],
)
def test_a_target_names_its_server(target: str, address: str | None, port: int | None) -> None:
    expected = {"server.address": address, "server.port": port}
    assert target_attributes(target) == {key: value for key, value in expected.items() if value is not None}
