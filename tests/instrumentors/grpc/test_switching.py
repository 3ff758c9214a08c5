"""Instrumenting: when grpc is imported, however it is imported, and undone without a trace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from typing import Any

import grpc
import grpc.aio
import pytest
from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor
from grpc import insecure_channel, server
from grpc.aio import server as aio_server
from opentelemetry.instrumentation.utils import suppress_instrumentation

from flx_otel_distro.prometheus import activity
from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import SERVICE, AioServer, AioService, SyncServer, SyncService, handlers_of
from tests.support.process import clean_environment
from tests.support.waiting import eventually


def one_call(port: int, path: str = f"/{SERVICE}/unary_unary") -> bytes:
    with insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary(path)(b"ok", timeout=20)


def test_what_the_app_imported_before_is_reached(instrumented: Capture) -> None:
    assert (server, aio_server) == (grpc.server, grpc.aio.server)
    with SyncServer(handlers_of(SyncService())) as running:
        assert one_call(running.port) == b"done"
    eventually("both sides", lambda: len(instrumented.spans()) == 2)


def test_secure_channels_are_observed_as_well(instrumented: Capture) -> None:
    running = grpc.server(ThreadPoolExecutor(1), handlers=(handlers_of(SyncService()),))
    port = running.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    running.start()

    async def call_aio() -> bytes:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.local_channel_credentials()) as channel:
            return await channel.unary_unary(f"/{SERVICE}/unary_unary")(b"ok", timeout=20)

    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.local_channel_credentials()) as channel:
        assert channel.unary_unary(f"/{SERVICE}/unary_unary")(b"ok", timeout=20) == b"done"
    assert asyncio.run(call_aio()) == b"done"
    running.stop(None).wait()
    eventually("both sides of both", lambda: len(instrumented.spans()) == 4)


def run(program: str) -> str:
    """Run a program in a fresh interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_instrumenting_does_not_import_grpc() -> None:
    assert (
        run("""
        import sys
        from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor
        FlxGrpcServerInstrumentor().instrument()
        FlxGrpcClientInstrumentor().instrument()
        print("grpc" in sys.modules)
    """)
        == "False"
    )


@pytest.mark.parametrize("statement", ["import grpc.aio", "from grpc.aio import server", "from grpc import server"])
def test_an_import_after_instrumenting_is_reached(statement: str) -> None:
    assert (
        run(f"""
        from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor
        sides = FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor()
        [each.instrument() for each in sides]
        {statement}
        import grpc._channel, grpc._server
        def state():
            places = grpc._server.create_server, grpc.aio._server.Server.__init__, grpc._channel.Channel.unary_unary
            return [hasattr(each, "__wrapped__") for each in places]
        print(state())
        [each.uninstrument() for each in sides]
        print(state())
    """)
        == "[True, True, True]\n[False, False, False]"
    )


def test_uninstrumenting_before_the_import_leaves_grpc_alone() -> None:
    assert (
        run("""
        from flx_otel_instrumentors.grpc import FlxGrpcServerInstrumentor
        FlxGrpcServerInstrumentor().instrument()
        FlxGrpcServerInstrumentor().uninstrument()
        import grpc._server
        print(hasattr(grpc._server.create_server, "__wrapped__"))
    """)
        == "False"
    )


def places() -> list[Any]:
    from grpc import _channel, _server

    arities = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    made = [getattr(grpc.aio._channel.Channel, each) for each in arities]
    return [
        _server.create_server,
        grpc.aio._server.Server.__init__,
        grpc.aio._channel.Channel.__init__,
        *(getattr(_channel.Channel, each) for each in arities),
        *made,
    ]


def test_uninstrumenting_puts_everything_back_and_quiets_what_runs(seen: Capture) -> None:
    before = places()
    sides = (FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor())
    for each in sides:
        each.instrument()
    assert all(now is not then for now, then in zip(places(), before, strict=True))
    with (
        AioServer(handlers_of(AioService())) as aio,
        SyncServer(handlers_of(SyncService())) as sync,
        insecure_channel(f"127.0.0.1:{aio.port}") as one,
        insecure_channel(f"127.0.0.1:{sync.port}") as other,
    ):
        methods = [each.unary_unary(f"/{SERVICE}/unary_unary") for each in (one, other)]
        for each in sides:
            each.uninstrument()
        assert all(now is then for now, then in zip(places(), before, strict=True))
        assert [each(b"ok", timeout=20) for each in methods] == [b"done", b"done"]
    assert (seen.spans(), seen.metrics()) == ([], {})


def test_services_that_are_excluded_leave_nothing(seen: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", "test.Quiet, other.Quiet")
    sides = (FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor())
    for each in sides:
        each.instrument()
    try:
        names = ("test.Quiet", "grpc.health.v1.Health", "test.Loud")
        with SyncServer(*(handlers_of(SyncService(), name) for name in names)) as running:
            for name in names:
                assert one_call(running.port, f"/{name}/unary_unary") == b"done"
            eventually("both sides", lambda: len(seen.spans()) == 2)
    finally:
        for each in sides:
            each.uninstrument()
    assert {each.name for each in seen.spans()} == {"test.Loud/unary_unary"}
    assert [dict(key)["rpc.method"] for key in seen.points("rpc.server.call.duration")] == ["test.Loud/unary_unary"]


def test_making_a_server_says_that_this_process_serves(instrumented: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(activity, "_listeners", [lambda: told.append(1)])
    with SyncServer(), AioServer():
        assert len(told) == 2


def test_providers_that_are_given_are_used(seen: Capture) -> None:
    given = Capture()
    side = FlxGrpcServerInstrumentor()
    side.instrument(tracer_provider=given.tracer_provider, meter_provider=given.meter_provider)
    try:
        with SyncServer(handlers_of(SyncService())) as running, suppress_instrumentation():
            assert one_call(running.port) == b"done"
            eventually("the span", given.spans)
    finally:
        side.uninstrument()
    assert [each.name for each in given.spans()] == [f"{SERVICE}/unary_unary"]
    assert list(given.metrics()) == ["rpc.server.call.duration"]
    assert (seen.spans(), seen.metrics()) == ([], {})


def test_upstreams_instrumentors_are_superseded() -> None:
    found = {
        each.name: each.load()({}).superseded_by
        for each in entry_points(group="flx_otel_enricher")
        if each.name.startswith("grpc")
    }
    assert found == {
        "grpc_server": "flx_grpc_server",
        "grpc_aio_server": "flx_grpc_server",
        "grpc_client": "flx_grpc_client",
        "grpc_aio_client": "flx_grpc_client",
    }
