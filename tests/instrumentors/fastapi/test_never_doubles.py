"""Automatic, by hand, upstream's and FastAPI's own telemetry in every combination: one span, one count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from fastapi import FastAPI
from flx_otel_instrumentors.fastapi import FlxFastAPIInstrumentor
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flx_observability.middleware import ObservabilityMiddleware
from flx_otel_distro.testing import Capture, capture
from tests.instrumentors.fastapi.requests import active, ask, count, labels

OURS, UPSTREAM, ASGI = (
    "flx_otel_instrumentors.fastapi",
    "opentelemetry.instrumentation.fastapi",
    "opentelemetry.instrumentation.asgi",
)


native = pytest.mark.skipif(find_spec("fastapi.telemetry") is None, reason="this FastAPI has no native telemetry")


@pytest.fixture(autouse=True)
def stable_conventions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Upstream records the stable names here, as the distro makes it do."""
    from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    monkeypatch.setattr(Stability, "_initialized", False)
    yield
    Stability._initialized = False


def made() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("broken")

    return app


def server_spans(seen: Capture) -> list[tuple[str, str]]:
    return [
        (span.instrumentation_scope.name, span.name)
        for span in seen.spans()
        if span.kind is SpanKind.SERVER and span.instrumentation_scope is not None
    ]


@pytest.mark.parametrize("by_hand", [0, 1, 2])
@pytest.mark.parametrize(
    ("automatic", "upstream"), list(itertools.product([False, True], ["none", "app", "middleware", "around"]))
)
async def test_every_combination_observes_once(automatic: bool, by_hand: int, upstream: str) -> None:
    app = made()
    for _ in range(by_hand):
        app.add_middleware(ObservabilityMiddleware)
    if not automatic and not by_hand:
        pytest.skip("nothing of ours acts")
    with capture() as seen:
        if automatic:
            FlxFastAPIInstrumentor().instrument()
        served: Any = app
        if upstream == "app":
            FastAPIInstrumentor.instrument_app(app)
        elif upstream == "middleware":
            app.add_middleware(OpenTelemetryMiddleware)
        elif upstream == "around":
            served = OpenTelemetryMiddleware(app)
        try:
            for _ in range(2):
                await ask(served, "GET", "/items/1")
        finally:
            if upstream == "app":
                FastAPIInstrumentor.uninstrument_app(app)
            if automatic:
                FlxFastAPIInstrumentor().uninstrument()
        expected = {"none": OURS, "app": UPSTREAM, "middleware": ASGI, "around": ASGI}[upstream]
        assert [scope for scope, _ in server_spans(seen)] == [expected] * 2
        assert count(seen) == 2
        assert active(seen) == [0]


@pytest.mark.parametrize("automatic", [False, True])
async def test_by_hand_gives_the_same_as_automatic(automatic: bool) -> None:
    app = made()
    if not automatic:
        app.add_middleware(ObservabilityMiddleware)
    with capture() as seen:
        if automatic:
            FlxFastAPIInstrumentor().instrument()
        try:
            await ask(app, "GET", "/items/1")
            await ask(app, "GET", "/boom")
            await ask(app, "GET", "/health")
        finally:
            if automatic:
                FlxFastAPIInstrumentor().uninstrument()
        spans = [(s.name, dict(s.attributes or {}).get("http.response.status_code"), s.events) for s in seen.spans()]
        assert [(name, status, len(events)) for name, status, events in spans] == [
            ("GET /items/{item}", 200, 0),
            ("GET /boom", 500, 1),
        ]
        assert [(each["http.route"], each.get("error.type")) for each in labels(seen)] == [
            ("/items/{item}", None),
            ("/boom", "ValueError"),
        ]
        assert sorted(seen.metrics()) == [
            "http.server.active_requests",
            "http.server.request.body.size",
            "http.server.request.duration",
            "http.server.response.body.size",
        ]
        assert active(seen) == [0]


async def test_upstreams_global_instrumentor_keeps_its_apps_and_its_hooks(seen: Capture) -> None:
    import fastapi

    hooked: list[str] = []
    FastAPIInstrumentor().instrument(server_request_hook=lambda span, scope: hooked.append(scope["path"]))
    try:
        theirs = fastapi.FastAPI()
        theirs.add_api_route("/theirs", lambda: "ok")
        await ask(theirs, "GET", "/theirs")
    finally:
        FastAPIInstrumentor().uninstrument()
    await ask(made(), "GET", "/items/1")
    assert hooked == ["/theirs"]
    assert server_spans(seen) == [(UPSTREAM, "GET /theirs"), (OURS, "GET /items/{item}")]


async def test_a_mounted_app_that_upstream_observes_is_counted_once(seen: Capture) -> None:
    outer, inner = made(), made()
    FastAPIInstrumentor.instrument_app(inner)
    outer.mount("/inner", inner)
    try:
        await ask(outer, "GET", "/inner/items/1")
    finally:
        FastAPIInstrumentor.uninstrument_app(inner)
    assert len(server_spans(seen)) == 1
    assert sum(point.count for point in seen.points("http.server.request.duration").values()) == 1


@native
async def test_an_app_with_native_telemetry_of_its_own_keeps_it(seen: Capture) -> None:
    own = Capture()
    app = FastAPI(telemetry={"tracer_provider": own.tracer_provider, "meter_provider": own.meter_provider})
    app.add_api_route("/own", lambda: "ok")
    await ask(app, "GET", "/own")
    assert "GET /own" in [span.name for span in own.spans()]
    assert (seen.spans(), seen.metrics()) == ([], {})


@native
async def test_what_native_telemetry_excludes_stays_excluded(seen: Capture) -> None:
    app = FastAPI(telemetry={"exclude": lambda scope: scope["path"] == "/quiet"})
    app.add_api_route("/quiet", lambda: "ok")
    app.add_api_route("/loud", lambda: "ok")
    await ask(app, "GET", "/quiet")
    await ask(app, "GET", "/loud")
    assert [span.name for span in seen.spans()] == ["GET /loud"]


@pytest.mark.parametrize("inside", [True, False])
async def test_by_hand_on_starlette_and_around_any_app(bare: Capture, inside: bool) -> None:
    app: Any = Starlette(routes=[Route("/plain/{p}", lambda request: PlainTextResponse("x"))])
    if inside:
        app.add_middleware(ObservabilityMiddleware)
    else:
        app = ObservabilityMiddleware(app)
    await ask(app, "GET", "/plain/1")
    assert server_spans(bare) == [(OURS, "GET /plain/{p}")]


async def test_by_hand_in_a_mounted_app_alone_knows_the_template_of_the_mount(bare: Capture) -> None:
    outer, inner = Starlette(), Starlette(routes=[Route("/x/{x}", lambda request: PlainTextResponse("x"))])
    inner.add_middleware(ObservabilityMiddleware)
    inner.middleware_stack = inner.build_middleware_stack()
    outer.mount("/tenants/{tenant}", inner)
    await ask(outer, "GET", "/tenants/acme/x/1")
    assert server_spans(bare) == [(OURS, "GET /tenants/{tenant}/x/{x}")]
