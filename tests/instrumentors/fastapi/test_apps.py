"""Apps of every origin, and their routes: before, after, factory, subclass, mounted, included."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from flx_otel_instrumentors.fastapi import FlxFastAPIInstrumentor
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from flx_otel_distro.testing import Capture, capture
from tests.instrumentors.fastapi.requests import ask, count, labels


class Subclass(FastAPI):
    """A FastAPI of the user's, with its own way of building the stack and its own call."""

    def build_middleware_stack(self) -> Any:
        stack = super().build_middleware_stack()

        async def own(scope: Scope, receive: Receive, send: Send) -> None:
            await stack(scope, receive, send)

        return own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


def made(cls: type[FastAPI] = FastAPI, **options: Any) -> FastAPI:
    """A factory of apps with one route."""
    app = cls(**options)

    @app.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    return app


BEFORE, BUILT = made(), made()
BUILT.middleware_stack = BUILT.build_middleware_stack()


@pytest.mark.parametrize("origin", ["before", "built", "after", "factory", "subclass"])
async def test_an_app_of_any_origin_is_observed_once(seen: Capture, origin: str) -> None:
    apps = {"before": BEFORE, "built": BUILT, "after": FastAPI(), "factory": made(), "subclass": made(Subclass)}
    app = apps[origin]
    if origin == "after":
        app.add_api_route("/items/{item}", lambda item: item)
    for _ in range(2):
        await ask(app, "GET", "/items/1")
    assert [span.name for span in seen.spans()] == ["GET /items/{item}"] * 2
    assert count(seen) == 2


async def test_several_apps_in_one_process_are_each_observed(seen: Capture) -> None:
    first, second = made(), FastAPI()
    second.include_router(first.router, prefix="/v2")
    await ask(first, "GET", "/items/1")
    await ask(second, "GET", "/v2/items/1")
    assert [span.name for span in seen.spans()] == ["GET /items/{item}", "GET /v2/items/{item}"]


def plain(request: Any) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("asgi")(scope, receive, send)


def tree(tmp: str) -> FastAPI:
    inner, middle, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/middle"), made()

    @inner.get("/leaf/{leaf}")
    async def leaf(leaf: str) -> str:
        return leaf

    middle.include_router(inner, prefix="/between")
    middle.add_route("/middle/starlette/{s}", plain)
    outer.include_router(middle, prefix="/api")
    outer.add_route("/plain/{p:int}", plain)
    outer.mount("/sub", made())
    outer.mount("/tenants/{tenant}", made())
    outer.mount("/deep", Mount("/er", routes=[Route("/x/{x}", plain)]))
    outer.mount("/static", StaticFiles(directory=tmp, check_dir=False))
    outer.mount("/asgi", asgi)
    outer.router.routes.insert(0, Host("{who}.example.org", app=made()))
    return outer


@pytest.mark.parametrize(
    ("method", "url", "name"),
    [
        ("GET", "/items/1", "GET /items/{item}"),
        ("POST", "/items/1", "POST /items/{item}"),
        ("GET", "/items/1/", "GET"),
        ("GET", "/api/middle/between/inner/leaf/1", "GET /api/middle/between/inner/leaf/{leaf}"),
        ("GET", "/api/middle/starlette/1", "GET /api/middle/starlette/{s}"),
        ("GET", "/plain/1", "GET /plain/{p}"),
        ("GET", "/sub/items/1", "GET /sub/items/{item}"),
        ("GET", "/sub/unknown", "GET /sub/{path}"),
        ("GET", "/tenants/acme/items/1", "GET /tenants/{tenant}/items/{item}"),
        ("GET", "/deep/er/x/1", "GET /deep/er/x/{x}"),
        ("GET", "/static/none.css", "GET /static/{path}"),
        ("GET", "/asgi/anything/at/all", "GET /asgi/{path}"),
        ("GET", "http://me.example.org/items/1", "GET /items/{item}"),
        ("GET", "/docs", "GET /docs"),
    ],
)
async def test_the_route_is_the_full_template(seen: Capture, tmp_path: Any, method: str, url: str, name: str) -> None:
    await ask(tree(str(tmp_path)), method, url)
    [span] = seen.spans()
    route = name.partition(" ")[2] or None
    assert span.name == name
    assert dict(span.attributes or {}).get("http.route") == route
    assert [each.get("http.route") for each in labels(seen)] == [route]


async def test_the_application_root_is_part_of_the_route_and_not_of_a_probe_path(seen: Capture) -> None:
    app = made()
    app.root_path = "/shop"  # as `fastapi run --root-path` would
    app.add_api_route("/health", lambda: "ok")
    await ask(app, "GET", "/items/1")
    await ask(app, "GET", "/shop/items/1")
    await ask(app, "GET", "/health")
    await ask(app, "GET", "/shop/health")
    assert [span.name for span in seen.spans()] == ["GET /shop/items/{item}"] * 2


async def test_a_route_is_learnt_behind_a_middleware_that_copies_the_scope(seen: Capture) -> None:
    class Copying:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(dict(scope), receive, send)

    app = made()
    app.add_middleware(Copying)
    await ask(app, "GET", "/items/1")
    assert [span.name for span in seen.spans()] == ["GET /items/{item}"]


async def test_a_starlette_app_is_observed_as_well(seen: Capture) -> None:
    await ask(Starlette(routes=[Route("/plain/{p}", plain)]), "GET", "/plain/1")
    assert [span.name for span in seen.spans()] == ["GET /plain/{p}"]


async def test_uninstrument_undoes_everything_and_instrument_works_again() -> None:
    from starlette import routing

    classes = (FastAPI, Starlette)
    before = [vars(cls)["__call__"] for cls in classes]
    instrumentor = FlxFastAPIInstrumentor()
    for _ in range(2):
        with capture() as seen:
            instrumentor.instrument()
            try:
                await ask(BEFORE, "GET", "/items/1")
            finally:
                instrumentor.uninstrument()
            assert len(seen.spans()) == 1
        assert [vars(cls)["__call__"] for cls in classes] == before
    assert routing.Route.handle.__name__ == "handle"
    with capture() as seen:
        answer: httpx.Response = await ask(BEFORE, "GET", "/items/1")
        assert answer.json() == "1"
        assert not [span for span in seen.spans() if "flx" in str(span.instrumentation_scope)]


def test_the_instrumentor_imports_no_framework_until_the_app_does() -> None:
    program = """
import sys
from flx_otel_instrumentors.fastapi import FlxFastAPIInstrumentor, enrich
FlxFastAPIInstrumentor().instrument()
assert not {"fastapi", "starlette", "flx_otel_instrumentors.fastapi.layer"} & set(sys.modules)
from fastapi import FastAPI
assert "flx_otel_instrumentors.fastapi.layer" in sys.modules
assert FastAPI.__call__.__wrapped__
print(enrich({}).superseded_by)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("flx_fastapi\n", "")


async def test_excluded_urls_leave_no_trace_and_no_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "items")
    monkeypatch.setenv("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "other/.*, secret$")
    app = made()
    with capture() as seen:
        FlxFastAPIInstrumentor().instrument()
        try:
            for path in ("/items/1", "/other/1", "/secret"):
                await ask(app, "GET", path)
        finally:
            FlxFastAPIInstrumentor().uninstrument()
        assert [span.name for span in seen.spans()] == ["GET /items/{item}"]
        assert count(seen) == 1


async def test_captured_headers_are_lists_and_sanitised_ones_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "x-.*,cookie")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "content-type")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", ".*cookie.*")
    with capture() as seen:
        FlxFastAPIInstrumentor().instrument()
        try:
            headers = [("X-One", "1"), ("X-One", "2"), ("Cookie", "secret"), ("Accept", "a")]
            await ask(made(), "GET", "/items/1", headers=headers)
        finally:
            FlxFastAPIInstrumentor().uninstrument()
        [span] = seen.spans()
    assert {k: v for k, v in dict(span.attributes or {}).items() if ".header." in k} == {
        "http.request.header.x_one": ("1", "2"),
        "http.request.header.cookie": ("[REDACTED]",),
        "http.response.header.content_type": ("application/json",),
    }


async def test_message_spans_come_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLX_OTEL_ASGI_MESSAGE_SPANS", "true")
    with capture() as seen:
        FlxFastAPIInstrumentor().instrument()
        try:
            await ask(made(), "GET", "/items/1")
        finally:
            FlxFastAPIInstrumentor().uninstrument()
    assert [span.name for span in seen.spans()] == ["GET http send", "GET http send", "GET /items/{item}"]
