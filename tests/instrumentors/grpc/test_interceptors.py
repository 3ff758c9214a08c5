"""The interceptors by hand: as the README shows, alone, twice, with others between, and beside zero code."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flx_otel_instrumentors.grpc import FlxGrpcServerInstrumentor
from opentelemetry.trace import SpanKind

from flx_observability.grpc_interceptors import MetricsServerInterceptor, TracingServerInterceptor
from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import SERVICE, AioServer, AioService, SyncServer, SyncService, handlers_of
from tests.support.waiting import eventually


class PassingInterceptor(grpc.ServerInterceptor):
    """An interceptor of the app that makes a handler of its own."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return rewrapped(continuation(handler_call_details))


class AioPassingInterceptor(grpc.aio.ServerInterceptor):
    """The same for an asyncio server."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)

        async def behavior(request: bytes, context: Any) -> bytes:
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(behavior, handler.request_deserializer, handler.response_serializer)


def rewrapped(handler: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        lambda request, context: handler.unary_unary(request, context),
        handler.request_deserializer,
        handler.response_serializer,
    )


class RefusingInterceptor(grpc.ServerInterceptor):
    """Refuses every call, whatever its name."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        def refuse(request: bytes, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

        return grpc.unary_unary_rpc_method_handler(refuse)


def serve_one(kind: str, *interceptors: Any, method: str = "unary_unary") -> str:
    """Serve one call and return its status."""
    handlers = handlers_of(SyncService() if kind == "sync" else AioService())
    make = SyncServer if kind == "sync" else AioServer
    server = make(handlers, interceptors=interceptors) if interceptors else make(handlers)
    with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/{method}")(b"ok", timeout=20)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def counts(seen: Capture) -> tuple[int, int]:
    """Return the number of server spans and of measurements."""
    points = seen.points("rpc.server.call.duration").values()
    return len([each for each in seen.spans() if each.kind is SpanKind.SERVER]), sum(each.count for each in points)


M, T = MetricsServerInterceptor, TracingServerInterceptor


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ((M, T), (1, 1)),
        ((T, M), (1, 1)),
        ((M, T, M, T), (1, 1)),
        ((T, T), (1, 0)),
        ((M, M), (0, 1)),
        ((M,), (0, 1)),
        ((T,), (1, 0)),
    ],
)
def test_interceptors_by_hand_do_not_double(
    seen: Capture, kind: str, classes: tuple[type, ...], expected: tuple[int, int]
) -> None:
    assert serve_one(kind, *(each() for each in classes)) == "OK"
    eventually("the data", lambda: counts(seen) == expected)


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize("classes", [(), (M,), (T,), (M, T), (T, M, T, M)])
def test_interceptors_beside_zero_code_do_not_double(
    instrumented: Capture, kind: str, classes: tuple[type, ...]
) -> None:
    assert serve_one(kind, *(each() for each in classes)) == "OK"
    eventually("the data", lambda: counts(instrumented) == (1, 1))


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize("zero_code", [False, True])
def test_interceptors_of_the_app_between_ours_change_nothing(seen: Capture, kind: str, zero_code: bool) -> None:
    between = PassingInterceptor() if kind == "sync" else AioPassingInterceptor()
    if zero_code:
        FlxGrpcServerInstrumentor().instrument()
    try:
        assert serve_one(kind, M(), between, T(), between) == "OK"
    finally:
        if zero_code:
            FlxGrpcServerInstrumentor().uninstrument()
    eventually("the data", lambda: counts(seen) == (1, 1))
    assert [each.name for each in seen.spans() if each.kind is SpanKind.SERVER] == [f"{SERVICE}/unary_unary"]


def test_a_name_that_only_an_interceptor_answers_is_no_label(instrumented: Capture) -> None:
    assert serve_one("sync", RefusingInterceptor(), method="cGFzc3dvcmQ") == "UNAUTHENTICATED"
    eventually("the data", lambda: counts(instrumented) == (1, 1))
    (span,) = [each for each in instrumented.spans() if each.kind is SpanKind.SERVER]
    assert (span.name, (span.attributes or {})["rpc.method_original"]) == ("_OTHER", f"{SERVICE}/cGFzc3dvcmQ")
    (labels,) = instrumented.points("rpc.server.call.duration")
    assert dict(labels) == {
        "rpc.system.name": "grpc",
        "rpc.method": "_OTHER",
        "rpc.response.status_code": "UNAUTHENTICATED",
    }


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_one_pair_of_interceptors_serves_both_kinds_of_server(seen: Capture, kind: str) -> None:
    pair = (M(), T())
    assert serve_one("sync", *pair) == serve_one("aio", *pair) == serve_one(kind, *pair) == "OK"
    eventually("the data", lambda: counts(seen) == (3, 3))


def test_an_interceptor_that_raises_is_a_failed_call(instrumented: Capture) -> None:
    class Broken(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            raise LookupError("broken interceptor")

    assert serve_one("sync", Broken()) == "UNKNOWN"
    (span,) = [each for each in instrumented.spans() if each.kind is SpanKind.SERVER]
    assert (span.attributes or {})["error.type"] == "LookupError"
    assert counts(instrumented) == (1, 1)
