"""What one request leaves behind: the span, the metrics, the exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from flx_otel_instrumentors.fastapi.exchange import INCOMPLETE
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from flx_otel_distro.testing import Capture
from tests.instrumentors.fastapi.requests import active, ask, client, count, labels, totals

GET_ITEM = {
    "http.request.method": "GET",
    "url.scheme": "http",
    "http.route": "/items/{item}",
    "network.protocol.version": "1.1",
    "http.response.status_code": 200,
}


def trace_id() -> str:
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)


class Strange(Exception):
    """An exception of the app."""


@pytest.fixture
def app() -> FastAPI:
    made = FastAPI()
    made.state.traces = []

    @made.get("/items/{item}")
    async def item(item: str) -> str:
        return trace_id()

    @made.get("/sync/{item}")
    def sync(item: str) -> str:
        return trace_id()

    @made.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @made.get("/boom")
    async def boom() -> None:
        raise Strange("broken")

    @made.get("/busy")
    async def busy() -> JSONResponse:
        return JSONResponse({}, status_code=503)

    @made.get("/gone")
    async def gone() -> None:
        raise HTTPException(410)

    @made.get("/handled")
    async def handled() -> None:
        raise LookupError("known")

    @made.exception_handler(LookupError)
    async def on_lookup(request: Request, error: LookupError) -> JSONResponse:
        return JSONResponse(trace_id(), status_code=404)

    @made.get("/later")
    async def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(lambda: made.state.traces.append(trace_id()))
        return trace_id()

    @made.get("/later-boom")
    async def later_boom(tasks: BackgroundTasks) -> None:
        def fail() -> None:
            raise Strange("late")

        tasks.add_task(fail)

    @made.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0.02)
                yield trace_id()

        return StreamingResponse(parts())

    @made.get("/health")
    async def health() -> str:
        return "ok"

    return made


async def test_one_server_span_named_by_method_and_route_with_stable_attributes(app: FastAPI, seen: Capture) -> None:
    await ask(app, "GET", "/items/7?page=2&token=abc", headers={"user-agent": "curl/8"})
    [span] = seen.spans()
    assert (span.name, span.kind, span.status.status_code) == ("GET /items/{item}", SpanKind.SERVER, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/items/7",
        "url.query": "page=2&token=REDACTED",
        "http.route": "/items/{item}",
        "http.response.status_code": 200,
        "client.address": "10.0.0.9",
        "network.peer.address": "10.0.0.9",
        "network.peer.port": 4321,
        "server.address": "shop.test",
        "server.port": 8000,
        "network.protocol.version": "1.1",
        "user_agent.original": "curl/8",
    }


async def test_four_metrics_a_request_with_bounded_labels(app: FastAPI, seen: Capture) -> None:
    await ask(app, "GET", "/items/7")
    bounded = {"http.request.method": "GET", "url.scheme": "http"}
    assert labels(seen) == [GET_ITEM]
    assert labels(seen, "http.server.request.body.size") == [GET_ITEM]
    assert labels(seen, "http.server.response.body.size") == [GET_ITEM]
    assert labels(seen, "http.server.active_requests") == [bounded]
    assert active(seen) == [0]
    assert totals(seen, "http.server.response.body.size") == {"/items/{item}": 34}


async def test_an_unmatched_path_has_no_route_and_the_bare_method_as_name(app: FastAPI, seen: Capture) -> None:
    await ask(app, "GET", "/no/such/path")
    [span] = seen.spans()
    assert span.name == "GET"
    assert labels(seen) == [
        {
            "http.request.method": "GET",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "http.response.status_code": 404,
        }
    ]


async def test_an_unhandled_exception_is_recorded_once_and_passes_unchanged(app: FastAPI, seen: Capture) -> None:
    name = f"{__name__}.Strange"
    async with client(app) as made:
        made._transport.raise_app_exceptions = True  # type: ignore[attr-defined]
        with pytest.raises(Strange) as caught:
            await made.get("/boom")
    assert caught.value.args == ("broken",)
    assert caught.value.__cause__ is None
    [span] = seen.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    attributes = dict(span.attributes or {})
    assert (attributes["error.type"], attributes["http.response.status_code"]) == (name, 500)
    assert [(each["error.type"], each["http.response.status_code"]) for each in labels(seen)] == [(name, 500)]
    assert active(seen) == [0]


@pytest.mark.parametrize(
    ("path", "status", "code", "error"),
    [("/busy", 503, StatusCode.ERROR, "503"), ("/gone", 410, StatusCode.UNSET, None)],
)
async def test_a_5xx_is_an_error_and_a_4xx_is_not(
    app: FastAPI, seen: Capture, path: str, status: int, code: StatusCode, error: str | None
) -> None:
    await ask(app, "GET", path)
    [span] = seen.spans()
    attributes = dict(span.attributes or {})
    assert span.status.status_code is code
    assert (attributes["http.response.status_code"], attributes.get("error.type")) == (status, error)
    assert [each.get("error.type") for each in labels(seen)] == [error]
    assert span.events == ()


@pytest.mark.parametrize("path", ["/items/1", "/sync/1", "/handled"])
async def test_the_trace_is_current_in_endpoints_threads_and_exception_handlers(
    app: FastAPI, seen: Capture, path: str
) -> None:
    answer = await ask(app, "GET", path)
    [span] = seen.spans()
    assert answer.json() == trace.format_trace_id(span.context.trace_id)


async def test_the_trace_is_current_in_background_tasks(app: FastAPI, seen: Capture) -> None:
    answer = await ask(app, "GET", "/later")
    assert app.state.traces == [answer.json()]


async def test_an_exception_of_a_background_task_is_recorded_behind_the_status_that_was_sent(
    app: FastAPI, seen: Capture
) -> None:
    await ask(app, "GET", "/later-boom")
    [span] = seen.spans()
    assert dict(span.attributes or {})["http.response.status_code"] == 200
    assert [event.name for event in span.events] == ["exception"]
    assert [each.get("error.type") for each in labels(seen)] == [None]


async def test_a_streaming_response_counts_until_its_last_byte_with_the_trace_alive(
    app: FastAPI, seen: Capture
) -> None:
    answer = await ask(app, "GET", "/stream")
    [span] = seen.spans()
    assert answer.text == trace.format_trace_id(span.context.trace_id) * 3
    [point] = seen.points("http.server.request.duration").values()
    assert point.sum >= 0.06
    assert totals(seen, "http.server.response.body.size") == {"/stream": 96}


async def test_a_chunked_body_is_counted_as_it_is_read(app: FastAPI, seen: Capture) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * 10
        yield b"y" * 5

    answer = await ask(app, "POST", "/echo", content=parts())
    assert answer.json() == 15
    assert totals(seen, "http.server.request.body.size") == {"/echo": 15}


async def test_interleaved_requests_of_different_sizes_do_not_mix(seen: Capture) -> None:
    app = FastAPI()
    gate = asyncio.Event()
    waiting = []

    def route(size: int) -> None:
        @app.post(f"/size/{size}")
        async def sized(request: Request) -> StreamingResponse:
            await request.body()
            waiting.append(size)
            if len(waiting) == 20:
                gate.set()
            await gate.wait()

            async def parts() -> AsyncIterator[bytes]:
                for _ in range(size):
                    await asyncio.sleep(0)
                    yield b"z"

            return StreamingResponse(parts())

    for size in range(20):
        route(size)
    await asyncio.gather(*(ask(app, "POST", f"/size/{size}", content=b"q" * (size * 3)) for size in range(20)))
    assert totals(seen, "http.server.response.body.size") == {f"/size/{size}": size for size in range(20)}
    assert totals(seen, "http.server.request.body.size") == {f"/size/{size}": size * 3 for size in range(20)}
    assert active(seen) == [0]


async def test_a_probe_leaves_no_trace_and_no_metric(app: FastAPI, seen: Capture) -> None:
    assert (await ask(app, "GET", "/health")).json() == "ok"
    assert (seen.spans(), seen.metrics()) == ([], {})


def scope_of(path: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [], "client": ("10.0.0.9", 1), "server": ("shop.test", 80), **more,
    }  # fmt: skip


async def test_a_client_that_disconnects_mid_stream_leaves_a_finished_span_and_no_active_request(
    seen: Capture,
) -> None:
    app = FastAPI()
    started = asyncio.Event()

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"."
                started.set()
                await asyncio.sleep(0.001)

        return StreamingResponse(parts())

    async def receive() -> dict[str, Any]:
        if not started.is_set():
            await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    await app(scope_of("/endless"), receive, send)
    [span] = seen.spans()
    attributes = dict(span.attributes or {})
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (200, INCOMPLETE)
    assert (count(seen), active(seen)) == (1, [0])


async def test_a_cancelled_request_is_closed_and_the_cancellation_passes(seen: Capture) -> None:
    app = FastAPI()
    entered = asyncio.Event()

    @app.get("/slow")
    async def slow() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def nothing(*message: Any) -> Any:
        await asyncio.Event().wait()

    task = asyncio.create_task(app(scope_of("/slow"), nothing, nothing))
    await entered.wait()
    assert active(seen) == [1]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [span] = seen.spans()
    assert dict(span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"
    assert span.events == ()
    assert (count(seen), active(seen)) == (1, [0])


async def test_a_fault_of_ours_at_the_start_still_gives_the_app_its_request_once(
    seen: Capture, monkeypatch: pytest.MonkeyPatch, faults_fail_tests: list[Any]
) -> None:
    from flx_otel_distro.spans import Starter

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no span")

    calls = []
    app = FastAPI()

    @app.get("/")
    async def root() -> str:
        calls.append(1)
        return "served"

    monkeypatch.setattr(Starter, "decide", broken)
    assert (await ask(app, "GET", "/")).json() == "served"
    assert calls == [1]
    assert [place for place, _ in faults_fail_tests] == ["observing a request"]
    faults_fail_tests.clear()
