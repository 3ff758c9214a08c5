"""When our own code fails, the app's calls go on as if we were not there, and it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider

from tests.instrumentors.grpc.service import (
    ARITIES,
    SERVICE,
    AioServer,
    AioService,
    SyncServer,
    SyncService,
    handlers_of,
)

Faults = list[tuple[str, BaseException]]


class BrokenTracer(NoOpTracer):
    def start_span(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no spans today")


class BrokenTracers(NoOpTracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        return BrokenTracer()


class BrokenMeter(NoOpMeter):
    def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no metrics today")


class BrokenMeters(NoOpMeterProvider):
    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        return BrokenMeter("broken")


@pytest.mark.parametrize(
    "providers",
    [{"tracer_provider": BrokenTracers()}, {"meter_provider": BrokenMeters()}],
    ids=["tracer", "meter"],
)
@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_broken_provider_costs_the_app_nothing(
    faults_fail_tests: Faults, kind: str, arity: str, providers: dict[str, Any]
) -> None:
    async def use(port: int) -> Any:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = getattr(channel, arity)(f"/{SERVICE}/{arity}")(argument, timeout=20)
            return [each async for each in call] if arity.endswith("stream") else await call

    sides = (FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor())
    for each in sides:
        each.instrument(**providers)
    argument: Any = [b"ok"] * 2 if arity.startswith("stream") else b"ok"
    expected: Any = [b"1", b"2", b"3"] if arity.endswith("stream") else b"done"
    try:
        if kind == "aio":
            with AioServer(handlers_of(AioService())) as server:
                assert asyncio.run(use(server.port)) == expected
        else:
            sync_server = SyncServer(handlers_of(SyncService()))
            with sync_server, grpc.insecure_channel(f"127.0.0.1:{sync_server.port}") as channel:
                sent = iter(argument) if arity.startswith("stream") else argument
                answer = getattr(channel, arity)(f"/{SERVICE}/{arity}")(sent, timeout=20)
                assert (list(answer) if arity.endswith("stream") else answer) == expected
    finally:
        for each in sides:
            each.uninstrument()
    assert {type(error) for _, error in faults_fail_tests} == {RuntimeError}
    faults_fail_tests.clear()


def test_a_server_we_cannot_prepare_is_made_all_the_same(
    faults_fail_tests: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flx_otel_distro.prometheus import activity

    def fail() -> None:
        raise RuntimeError("a listener broke its promise")

    monkeypatch.setattr(activity, "_listeners", [fail])
    FlxGrpcServerInstrumentor().instrument()
    try:
        server = SyncServer(handlers_of(SyncService()))
        with server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            assert channel.unary_unary(f"/{SERVICE}/unary_unary")(b"ok", timeout=20) == b"done"
    finally:
        FlxGrpcServerInstrumentor().uninstrument()
    assert [place for place, _ in faults_fail_tests] == ["instrumenting a gRPC server"]
    faults_fail_tests.clear()
