"""Method names an outsider chooses are no labels, and texts that UTF-8 cannot carry reach no exporter."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import grpc
import pytest
from flx_otel_instrumentors.grpc import FlxGrpcServerInstrumentor, registration
from flx_otel_instrumentors.grpc.client import target_attributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import SpanKind

from flx_observability.grpc_interceptors import MetricsServerInterceptor, TracingServerInterceptor
from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import AioServer, SyncServer
from tests.support.waiting import eventually

SERVERS = {"sync": SyncServer, "aio": AioServer}


class CatchAll(grpc.GenericRpcHandler):
    """Answers every name."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"done")


def registered(service: str, behavior: Any = None) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        service, {"Do": grpc.unary_unary_rpc_method_handler(behavior or (lambda request, context: b"done"))}
    )


@pytest.fixture(params=["zero code", "by hand"])
def way(request: pytest.FixtureRequest, seen: Capture) -> Iterator[dict[str, Any]]:
    """The options with which a server is observed."""
    if request.param == "by hand":
        yield {"interceptors": (MetricsServerInterceptor(), TracingServerInterceptor())}
        return
    FlxGrpcServerInstrumentor().instrument()
    yield {}
    FlxGrpcServerInstrumentor().uninstrument()


def labels(seen: Capture) -> list[str]:
    return sorted(dict(each)["rpc.method"] for each in seen.points("rpc.server.call.duration"))


def call(port: int, *paths: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for path in paths:
            channel.unary_unary(path)(b"", timeout=20)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_name_that_only_a_catch_all_handler_answers_is_no_label(
    seen: Capture, way: dict[str, Any], kind: str
) -> None:
    service = f"known.{kind}"
    names = [f"/evil.Service{number}/Do" for number in range(20)]
    with SERVERS[kind](registered(service), CatchAll(), **way) as server:
        call(server.port, *names, f"/{service}/Do")
        eventually("the spans", lambda: len(seen.spans()) == 21)
    assert labels(seen) == ["_OTHER", f"{service}/Do"]
    others = [each for each in seen.spans() if each.name == "_OTHER"]
    assert sorted(str((each.attributes or {})["rpc.method_original"]) for each in others) == sorted(
        name[1:] for name in names
    )
    assert {each.kind for each in seen.spans()} == {SpanKind.SERVER}


@pytest.mark.parametrize("add", ["add_generic_rpc_handlers", "add_registered_method_handlers"])
def test_handlers_added_later_name_their_methods(seen: Capture, way: dict[str, Any], add: str) -> None:
    service = f"later.{add}"
    running = SyncServer(**way)
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(lambda request, context: b"done")}
    if add == "add_generic_rpc_handlers":
        running._server.add_generic_rpc_handlers((registered(service),))
    else:
        running._server.add_registered_method_handlers(service, handlers)
    with running:
        call(running.port, f"/{service}/Do")
        eventually("the span", lambda: len(seen.spans()) == 1)
    assert labels(seen) == [f"{service}/Do"]


def test_what_is_watched_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_kept", False)
    registration.remove()
    server: Any = import_module("grpc.aio._server").Server
    before = (server.__init__, server.add_generic_rpc_handlers, server.add_registered_method_handlers)
    registration.watch()
    registration.watch()
    assert server.__init__ is not before[0]
    registration.remove()
    assert (server.__init__, server.add_generic_rpc_handlers, server.add_registered_method_handlers) == before


def test_a_long_name_is_cut_on_the_span(seen: Capture, way: dict[str, Any]) -> None:
    with SyncServer(CatchAll(), **way) as server:
        call(server.port, "/evil/" + "x" * 5000)
        eventually("the span", lambda: len(seen.spans()) == 1)
    assert len(str((seen.spans()[0].attributes or {})["rpc.method_original"])) == 2048


async def test_texts_that_utf_8_cannot_carry_do_not_spoil_the_batch(seen: Capture, way: dict[str, Any]) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise ValueError("no \ud800 here")

    class Quiet(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return False

    quiet = Quiet()  # what grpc logs of it cannot be reported by the test runner
    logging.getLogger("grpc._cython.cygrpc").addFilter(quiet)
    running = grpc.aio.server(handlers=(registered("broken", fail),), **way)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary("/broken/Do")(b"", timeout=1)
    await running.stop(None)
    logging.getLogger("grpc._cython.cygrpc").removeFilter(quiet)
    eventually("the span", lambda: len(seen.spans()) == 1)
    assert encode_spans(seen.spans()).SerializeToString()
    (span,) = seen.spans()
    assert span.status.description == "ValueError: no \N{REPLACEMENT CHARACTER} here"
    assert (span.events[0].attributes or {})["exception.message"] == "no \N{REPLACEMENT CHARACTER} here"


def test_a_target_that_utf_8_cannot_carry() -> None:
    assert target_attributes("unix:/tmp/\udcff") == {"server.address": "/tmp/\N{REPLACEMENT CHARACTER}"}
