"""What an outsider sends: no exception, no new label, and the app sees it unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from flx_otel_instrumentors.fastapi.redaction import redacted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.b3 import B3MultiFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Receive, Scope, Send

from flx_otel_distro.semconv import HTTP_METHODS
from flx_otel_distro.testing import Capture
from tests.instrumentors.fastapi.requests import active, ask, count, labels

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def all_formats() -> Iterator[None]:
    previous = propagate.get_global_textmap()
    formats = [TraceContextTextMapPropagator(), W3CBaggagePropagator(), B3MultiFormat()]
    propagate.set_global_textmap(CompositePropagator(formats))
    yield
    propagate.set_global_textmap(previous)


CONTEXT_HEADERS = st.sampled_from(
    [b"traceparent", b"tracestate", b"baggage", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags"]
)
VALUES = st.one_of(
    st.binary(max_size=200),
    st.from_regex(rb"0[0-9]-[0-9a-f]{32}-[0-9a-f]{16}-0[01](-.*)?", fullmatch=True),
    st.from_regex(rb"[0-9a-f]{16,32}-[0-9a-f]{16}(-[01d])?", fullmatch=True),
    st.from_regex(rb"[a-z%=,;0-9]{0,60}", fullmatch=True),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(CONTEXT_HEADERS, VALUES),
        st.tuples(st.sampled_from([b"host", b"user-agent", b"content-length", b"transfer-encoding"]), VALUES),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=HEADERS,
    method=st.one_of(st.sampled_from(["GET", "get", "POST", "BREW"]), st.text(max_size=30)),
    path=st.text(max_size=60).map(lambda text: "/" + text),
    query=st.binary(max_size=60),
    version=st.sampled_from(["1.1", "2", "9.9"]),
    scheme=st.sampled_from(["http", "https", "gopher"]),
)
def test_nothing_from_outside_becomes_a_label_or_an_error(seen: Capture, all_formats: None, **sent: Any) -> None:
    got: list[dict[str, Any]] = []
    app = FastAPI()

    class Keep:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            got.append(dict(scope))
            await self.app(scope, receive, send)

    app.add_middleware(Keep)

    @app.get("/known/{item}")
    async def known(item: str) -> str:
        return item

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": sent["version"], "method": sent["method"],
        "scheme": sent["scheme"], "path": sent["path"], "raw_path": b"/", "query_string": sent["query"],
        "root_path": "", "headers": list(sent["headers"]), "client": ("10.0.0.9", 1), "server": ("shop.test", 80),
    }  # fmt: skip
    before = {**scope, "headers": list(scope["headers"])}
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    spans = len(seen.spans())
    asyncio.run(app(scope, receive, send))
    assert len(statuses) == len(got) == 1
    assert {key: got[0][key] for key in before} == before
    assert len(seen.spans()) == spans + 1
    for each in labels(seen):
        assert each["http.request.method"] in {*HTTP_METHODS, "_OTHER"}
        assert each["url.scheme"] in {"http", "https", "_OTHER"}
        assert each["network.protocol.version"] in {"1.1", "2", "_OTHER"}
        assert each.get("http.route") in {None, "/known/{item}"}
        assert set(each) <= {
            "http.request.method", "url.scheme", "network.protocol.version", "http.route",
            "http.response.status_code", "error.type",
        }  # fmt: skip
    assert set(active(seen)) == {0}


async def test_an_unknown_method_is_named_http_and_kept_only_on_the_span(seen: Capture) -> None:
    await ask(FastAPI(), "BREW", "/pot")
    [span] = seen.spans()
    attributes = dict(span.attributes or {})
    assert span.name == "HTTP"
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == ("_OTHER", "BREW")
    assert [each["http.request.method"] for each in labels(seen)] == ["_OTHER"]


def answering() -> FastAPI:
    app = FastAPI()

    @app.get("/context")
    async def context() -> dict[str, Any]:
        current = trace.get_current_span().get_span_context()
        return {"state": current.trace_state.to_header(), "baggage": dict(baggage.get_all())}

    return app


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("traceparent", f"00-{TRACE}-{SPAN}-01")], TRACE),
        ([("traceparent", f"00-{TRACE}-{SPAN}-01")] * 2, None),
        ([("traceparent", "00-junk")], None),
        ([("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")], TRACE),
        ([("b3", f"{TRACE}-{SPAN}-1")], TRACE),
        ([], None),
    ],
)
async def test_the_callers_trace_goes_on(
    seen: Capture, all_formats: None, headers: list[tuple[str, str]], expected: str | None
) -> None:
    await ask(answering(), "GET", "/context", headers=headers)
    [span] = seen.spans()
    assert (span.parent is not None) == (expected is not None)
    if expected is not None:
        assert trace.format_trace_id(span.context.trace_id) == expected


async def test_repeated_tracestate_and_baggage_headers_are_joined(seen: Capture, all_formats: None) -> None:
    headers = [
        ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), ("tracestate", "b=2"),
        ("baggage", "k=1"), ("baggage", "l=2"),
    ]  # fmt: skip
    answer = await ask(answering(), "GET", "/context", headers=headers)
    assert answer.json() == {"state": "a=1,b=2", "baggage": {"k": "1", "l": "2"}}


async def test_requests_in_a_suppressed_context_leave_nothing(seen: Capture) -> None:
    from opentelemetry.instrumentation.utils import suppress_http_instrumentation

    with suppress_http_instrumentation():
        await ask(answering(), "GET", "/context")
    assert (seen.spans(), count(seen)) == ([], 0)


async def test_a_response_propagator_of_the_user_is_honoured(seen: Capture) -> None:
    from opentelemetry.instrumentation import propagators

    propagators.set_global_response_propagator(propagators.TraceResponsePropagator())
    try:
        answer = await ask(answering(), "GET", "/context")
    finally:
        propagators.set_global_response_propagator(None)
    [span] = seen.spans()
    assert trace.format_trace_id(span.context.trace_id) in answer.headers["traceresponse"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("a=1&b=2", "a=1&b=2"),
        ("a=1&sig=abc&Signature=x&AWSAccessKeyId=y", "a=1&sig=REDACTED&Signature=REDACTED&AWSAccessKeyId=REDACTED"),
        ("X-Goog-Signature=1&X-Amz-Security-Token=2", "X-Goog-Signature=REDACTED&X-Amz-Security-Token=REDACTED"),
        ("access_token=a&user_password=b&api_key=c", "access_token=REDACTED&user_password=REDACTED&api_key=REDACTED"),
        ("%74oken=a&a=b;token=c", "%74oken=REDACTED&a=b;token=REDACTED"),
        ("token&token=&design=blue", "token&token=REDACTED&design=blue"),
    ],
)
def test_secrets_do_not_reach_the_span(query: str, shown: str) -> None:
    assert redacted(query) == shown
