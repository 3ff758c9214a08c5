"""Every kind of server, client, arity and outcome: one span and one measurement a side, and both right."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from flx_otel_distro.testing import Capture
from tests.instrumentors.grpc.service import (
    ARITIES,
    SERVICE,
    WORK,
    AioServer,
    AioService,
    SyncServer,
    SyncService,
    handlers_of,
)
from tests.support.waiting import eventually

STATUS = {
    "ok": "OK",
    "abort": "NOT_FOUND",
    "abort_with_status": "INTERNAL",
    "raise": "UNKNOWN",
    "cancel": "CANCELLED",
    "deadline": "DEADLINE_EXCEEDED",
    "unimplemented": "UNIMPLEMENTED",
}
SERVER_ERRORS = {
    "abort_with_status": "INTERNAL",
    "raise": "ValueError",
    "deadline": "DEADLINE_EXCEEDED",
    "unimplemented": "UNIMPLEMENTED",
}
DEADLINE = 0.4


def sync_call(port: int, arity: str, outcome: str, entered: threading.Event) -> None:
    """Make one call as the outcome wants it, with a sync channel; nothing is raised for a call that fails."""
    wish = b"hang" if outcome in ("cancel", "deadline") else outcome.encode()
    path = f"/{SERVICE}/{'Missing' if outcome == 'unimplemented' else arity}"
    timeout = DEADLINE if outcome == "deadline" else 20
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(20)
        method = getattr(channel, arity)(path)
        argument: Any = iter([wish] * 3) if arity.startswith("stream") else wish
        try:
            if arity.endswith("stream"):
                call = method(argument, timeout=timeout)
                if outcome == "cancel":
                    assert [next(call), next(call)] == [b"1", b"2"]
                    cancel(call, entered)
                assert list(call) == [b"1", b"2", b"3"]
            elif outcome == "cancel":
                future = method.future(argument, timeout=timeout)
                cancel(future, entered)
                future.result()
            else:
                assert method(argument, timeout=timeout) == b"done"
            assert outcome == "ok"
        except grpc.RpcError as error:
            assert error.code().name == STATUS[outcome]
        except grpc.FutureCancelledError:
            assert outcome == "cancel"


def cancel(call: Any, entered: threading.Event) -> None:
    assert entered.wait(20)
    threading.Event().wait(WORK)
    assert call.cancel()


async def aio_call(port: int, arity: str, outcome: str, entered: threading.Event) -> None:
    """Make the same call with an asyncio channel."""
    wish = b"hang" if outcome in ("cancel", "deadline") else outcome.encode()
    path = f"/{SERVICE}/{'Missing' if outcome == 'unimplemented' else arity}"
    timeout = DEADLINE if outcome == "deadline" else 20
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        argument: Any = [wish] * 3 if arity.startswith("stream") else wish
        if arity.startswith("stream") and outcome == "unimplemented":
            argument = None  # grpc's own asyncio client may report INTERNAL where it is refused while it writes
        call = getattr(channel, arity)(path)(argument, timeout=timeout)
        try:
            if arity.endswith("stream"):
                if outcome == "cancel":
                    assert [await call.read(), await call.read()] == [b"1", b"2"]
                    await asyncio.to_thread(cancel, _Threadsafe(call), entered)
                    await call.read()
                else:
                    assert [each async for each in call] == [b"1", b"2", b"3"]
            else:
                if outcome == "cancel":
                    await asyncio.to_thread(cancel, _Threadsafe(call), entered)
                assert await call == b"done"
            assert outcome == "ok"
        except grpc.RpcError as error:
            assert error.code().name == STATUS[outcome]
        except asyncio.CancelledError:
            assert outcome == "cancel"


class _Threadsafe:
    """Cancel an asyncio call from another thread, on its loop."""

    def __init__(self, call: Any) -> None:
        self._call, self._loop = call, asyncio.get_running_loop()

    def cancel(self) -> bool:
        self._loop.call_soon_threadsafe(self._call.cancel)
        return True


@pytest.mark.parametrize("outcome", STATUS)
@pytest.mark.parametrize("arity", ARITIES)
@pytest.mark.parametrize(("server_kind", "client_kind"), [*itertools.product(("sync", "aio"), repeat=2)])
def test_a_call_leaves_one_right_span_and_one_right_measurement_a_side(
    instrumented: Capture, server_kind: str, client_kind: str, arity: str, outcome: str
) -> None:
    service = SyncService() if server_kind == "sync" else AioService()
    server = SyncServer(handlers_of(service)) if server_kind == "sync" else AioServer(handlers_of(service))
    with server, trace.get_tracer("test").start_as_current_span("root") as root:
        port = server.port
        if client_kind == "sync":
            sync_call(port, arity, outcome, service.entered)
        else:
            asyncio.run(aio_call(port, arity, outcome, service.entered))
        eventually("both spans", lambda: len(instrumented.spans()) >= 2, 10)

    client, inbound = (
        [each for each in instrumented.spans() if each.kind is kind] for kind in (SpanKind.CLIENT, SpanKind.SERVER)
    )
    assert (len(client), len(inbound)) == (1, 1)
    check_client(client[0], root, arity, outcome, port)
    check_server(inbound[0], client[0], arity, outcome, service.span_ids)
    check_measurements(instrumented, client[0], inbound[0], arity, outcome, port)


def check_client(span: ReadableSpan, root: Any, arity: str, outcome: str, port: int) -> None:
    name = f"{SERVICE}/{'Missing' if outcome == 'unimplemented' else arity}"
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "rpc.response.status_code": STATUS[outcome],
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    if outcome != "ok":
        expected["error.type"] = STATUS[outcome]
    assert (span.name, dict(span.attributes or {})) == (name, expected)
    assert span.parent == root.get_span_context()
    assert span.status.status_code is (StatusCode.UNSET if outcome == "ok" else StatusCode.ERROR)


def check_server(span: ReadableSpan, client: ReadableSpan, arity: str, outcome: str, span_ids: list[int]) -> None:
    missing = outcome == "unimplemented"
    attributes = dict(span.attributes or {})
    peer = {
        key: attributes.pop(key, None)
        for key in ("network.peer.address", "network.peer.port", "client.address", "client.port")
    }
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": "_OTHER" if missing else f"{SERVICE}/{arity}",
        "rpc.response.status_code": STATUS[outcome],
    }
    if missing:
        expected["rpc.method_original"] = f"{SERVICE}/Missing"
    else:
        assert peer["network.peer.address"] == peer["client.address"] == "127.0.0.1"
        assert peer["network.peer.port"] == peer["client.port"] != 0
    if outcome in SERVER_ERRORS:
        expected["error.type"] = SERVER_ERRORS[outcome]
    assert (span.name, attributes) == (expected["rpc.method"], expected)
    assert span.parent is not None and span.parent.is_remote
    assert (span.parent.trace_id, span.parent.span_id) == (client.context.trace_id, client.context.span_id)
    assert span.context.trace_id == client.context.trace_id
    assert span.status.status_code is (StatusCode.ERROR if outcome in SERVER_ERRORS else StatusCode.UNSET)
    exceptions = [(each.attributes or {}).get("exception.type") for each in span.events]
    assert exceptions == (["ValueError"] if outcome == "raise" else [])
    assert set(span_ids) == (set() if missing else {span.context.span_id})


def check_measurements(
    seen: Capture, client: ReadableSpan, inbound: ReadableSpan, arity: str, outcome: str, port: int
) -> None:
    missing = outcome == "unimplemented"
    least = {"deadline": DEADLINE * 0.8, "unimplemented": 0.0}.get(outcome, WORK * 0.95)
    labels = {"rpc.system.name": "grpc", "rpc.response.status_code": STATUS[outcome]}
    at_client = {**labels, "rpc.method": client.name, "server.address": "127.0.0.1", "server.port": port}
    at_server = {**labels, "rpc.method": inbound.name}
    if outcome != "ok":
        at_client["error.type"] = STATUS[outcome]
    if outcome in SERVER_ERRORS:
        at_server["error.type"] = SERVER_ERRORS[outcome]
    metrics = seen.metrics()  # once: the SDK hands an exemplar out once

    def points_of(name: str) -> dict[Any, Any]:
        data = metrics[name].data.data_points if name in metrics else ()
        return {tuple(sorted(dict(each.attributes or {}).items())): each for each in data}

    for side, span, expected in (("client", client, at_client), ("server", inbound, at_server)):
        key = tuple(sorted(expected.items()))
        points = points_of(f"rpc.{side}.call.duration")
        assert list(points) == [key]
        assert points[key].count == 1
        assert span.start_time is not None and span.end_time is not None
        assert points[key].sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)
        assert points[key].sum >= least
        assert [each.span_id for each in points[key].exemplars] == [span.context.span_id]
        counted = {
            what: (list(found), next(iter(found.values())).sum)
            for what in ("requests", "responses")
            if (found := points_of(f"rpc.{side}.{what}_per_rpc"))
        }
        streams: dict[str, Any] = {}
        if not (missing and side == "server"):
            if arity.startswith("stream"):
                # A call that is refused at once may have sent any of its three requests.
                sent = counted["requests"][1] if missing else 3
                assert sent <= 3
                streams["requests"] = ([key], sent)
            if arity.endswith("stream"):
                streams["responses"] = ([key], 0 if missing else 3 if outcome == "ok" else 2)
        assert counted == streams
