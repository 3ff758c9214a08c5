"""Websockets on a real uvicorn, the lifespan, and sync endpoints on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket
from flx_otel_instrumentors.fastapi import layer
from flx_otel_instrumentors.fastapi.websocket import CLOSE_CODE
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from flx_otel_distro.prometheus import activity
from flx_otel_distro.testing import Capture
from tests.support.waiting import eventually, free_port


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve `app` on a real uvicorn in a thread; give its address as host and port."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", ws="websockets-sansio")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually("uvicorn", lambda: server.started)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def chat() -> FastAPI:
    app = FastAPI()

    @app.websocket("/rooms/{room}")
    async def room(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()
            current = trace.get_current_span().get_span_context()
            await websocket.send_text(trace.format_trace_id(current.trace_id))

    @app.websocket("/refused")
    async def refused(websocket: WebSocket) -> None:
        await websocket.close(4001)

    @app.websocket("/broken")
    async def broken(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ValueError("broken")

    @app.get("/sync")
    def sync() -> str:
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    return app


def told(span: Any) -> dict[str, Any]:
    """Return the attributes that do not depend on ports and libraries."""
    changing = ("network.peer.port", "server.port", "user_agent.original")
    return {key: value for key, value in span.attributes.items() if key not in changing}


def expected(path: str, **more: Any) -> dict[str, Any]:
    return {
        "http.request.method": "GET", "url.scheme": "ws", "url.path": path, "network.protocol.name": "websocket",
        "client.address": "127.0.0.1", "network.peer.address": "127.0.0.1", "server.address": "127.0.0.1", **more,
    }  # fmt: skip


async def test_one_span_a_connection_named_by_its_route_and_no_metric(seen: Capture) -> None:
    with served(chat()) as address:
        async with websockets.connect(f"ws://{address}/rooms/blue") as connection:
            await connection.send("one")
            first = await connection.recv()
            await connection.send("two")
            second = await connection.recv()
        await asyncio.to_thread(eventually, "the span", seen.spans)
    [span] = seen.spans()
    assert first == second == trace.format_trace_id(span.context.trace_id)
    assert (span.name, span.kind, span.status.status_code) == ("/rooms/{room}", SpanKind.SERVER, StatusCode.UNSET)
    assert told(span) == expected(
        "/rooms/blue", **{"http.route": "/rooms/{room}", "http.response.status_code": 101, CLOSE_CODE: 1000}
    )
    assert span.events == ()
    assert seen.metrics() == {}


async def test_a_refused_handshake_and_an_unknown_path_are_403(seen: Capture) -> None:
    with served(chat()) as address:
        for path in ("/refused", "/unknown"):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"ws://{address}{path}")
        await asyncio.to_thread(eventually, "the spans", lambda: len(seen.spans()) == 2)
    assert [(span.name, told(span)) for span in seen.spans()] == [
        ("/refused", expected("/refused", **{"http.route": "/refused", "http.response.status_code": 403})),
        ("websocket", expected("/unknown", **{"http.response.status_code": 403})),
    ]


async def test_an_exception_in_a_websocket_is_recorded_once(seen: Capture) -> None:
    with served(chat()) as address:
        async with websockets.connect(f"ws://{address}/broken") as connection:
            with pytest.raises(websockets.ConnectionClosed):
                await connection.recv()
        await asyncio.to_thread(eventually, "the span", seen.spans)
    [span] = seen.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert dict(span.attributes or {})["error.type"] == "ValueError"


async def test_a_sync_endpoint_in_the_thread_pool_sees_the_callers_trace(seen: Capture) -> None:
    parent = "0af7651916cd43dd8448eb211c80319c"
    with served(chat()) as address:
        async with httpx.AsyncClient() as client:
            headers = {"traceparent": f"00-{parent}-b7ad6b7169203331-01"}
            answer = await client.get(f"http://{address}/sync", headers=headers)
    assert answer.json() == parent


async def test_the_lifespan_passes_untouched_and_tells_the_endpoint_once(
    seen: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(layer, "_announced", False)
    monkeypatch.setattr(activity, "_listeners", [lambda: told.append("serving")])
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append(f"up after {told}")
        yield
        events.append("down")

    app = FastAPI(lifespan=lifespan)
    with served(app) as address:
        async with httpx.AsyncClient() as client:
            await client.get(f"http://{address}/")
    assert events == ["up after ['serving']", "down"]
    assert told == ["serving"]
    assert [span.name for span in seen.spans()] == ["GET"]
