"""What a request holds beside its meaning: secrets are not shown, and nothing is longer than it should be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request
from flx_otel_instrumentors.fastapi import FlxFastAPIInstrumentor
from flx_otel_instrumentors.fastapi.capture import HeaderCapture
from flx_otel_instrumentors.fastapi.description import path_of
from flx_otel_instrumentors.fastapi.redaction import redacted
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from flx_otel_distro.testing import Capture, capture
from tests.instrumentors.fastapi.requests import ask

SECRET_NAMES = (
    "passphrase", "private_key", "privateKey", "code", "auth_code", "authCode", "otp", "pin", "pw", "pwd", "sid",
    "session", "sessionid", "cookie", "bearer", "cred", "creds", "credential", "credentials", "hmac", "jwt",
    "signature", "key", "api-key", "apikey", "x.key", "signing_key", "ssh_key", "id_token", "client%5Fsecret",
    "%70assword", "%2570assword", "%252570assword", "%25252570assword", "%2525252525252570", "password[]", "PASSWD",
    "user.pin", "userPin", "connect.sid", "PHPSESSID", "totp", "mfa_code",
)  # fmt: skip
HARMLESS_NAMES = (
    "q", "page", "design", "pinned", "shopping", "country_code", "zipcode", "status_code", "keyword", "monkey",
    "sidebar", "author", "encoding", "codec", "compass",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_parameter_that_tells_of_a_secret_is_redacted(name: str) -> None:
    assert redacted(f"a=1&{name}=s3cr3t&b=2") == f"a=1&{name}=REDACTED&b=2"


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_a_parameter_that_only_looks_like_it_is_not(name: str) -> None:
    assert redacted(f"{name}=1") == f"{name}=1"


@pytest.mark.parametrize(
    ("scope", "root", "shown"),
    [
        ({"path": "/orders/1"}, "", "/orders/1"),
        ({"path": "http://user:s3cr3t@h/ok/2"}, "", "/ok/2"),
        ({"path": "http://user:s3cr3t@h"}, "", "/"),
        ({"path": "/apihttp://user:s3cr3t@h/ok/2"}, "/api", "/ok/2"),
        ({"path": "http://user:s3/cr3t@h/ok/2", "raw_path": b"http://user:s3%2Fcr3t@h/ok%2F2"}, "", "/ok/2"),
        ({"path": "/proxy/https://user:s3cr3t@h/ok"}, "", "/proxy/https://h/ok"),
        ({"path": "user:s3cr3t@h:443"}, "", "h:443"),
        ({"path": "*"}, "", "*"),
        ({"path": "/a\ud800"}, "", "/a\N{REPLACEMENT CHARACTER}"),
        ({"path": "/" + "a" * 30_000}, "", "/" + "a" * 2047),
    ],
)
def test_a_path_holds_neither_user_nor_host(scope: dict[str, Any], root: str, shown: str) -> None:
    assert path_of(scope, root) == shown


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
        "x-xsrf-token", "x-amz-security-token", "x-forwarded-client-cert", "x-goog-iap-jwt-assertion", "x-session-id",
        "x-functions-key", "apikey", "x-auth", "x-client-secret",
    ],
)  # fmt: skip
def test_headers_that_hold_secrets_are_hidden_without_being_asked(name: str) -> None:
    found = HeaderCapture("h.", [".*"]).attributes([(name.encode(), b"s3cr3t"), (b"x-plain", b"1")])
    assert found == {"h." + name.replace("-", "_"): ["[REDACTED]"], "h.x_plain": ["1"]}


def test_captured_headers_are_bounded_in_length_and_number() -> None:
    taken = HeaderCapture("h.", ["x-.*"]).attributes
    assert taken([(b"x-long", b"v" * 9000), (b"x-" + b"n" * 200, b"1")]) == {"h.x_long": ["v" * 2048]}
    assert taken([(b"x-many", b"%d" % number) for number in range(100)]) == {"h.x_many": [str(n) for n in range(16)]}
    assert len(taken([(b"x-%d" % number, b"1") for number in range(100)])) == 64


async def test_captured_authorization_is_hidden_on_the_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "authorization,x-mine")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "x-mine")
    with capture() as seen:
        FlxFastAPIInstrumentor().instrument()
        try:
            await ask(FastAPI(), "GET", "/", headers={"authorization": "Bearer s3cr3t", "x-mine": "s3cr3t"})
        finally:
            FlxFastAPIInstrumentor().uninstrument()
    assert "s3cr3t" not in str(dict(seen.spans()[0].attributes or {}))


def test_what_an_outsider_sends_is_cut(seen: Capture) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "M" * 3000, "scheme": "http",
        "path": "/" + "p" * 30_000, "raw_path": b"/", "query_string": b"pw=&" * 7000, "root_path": "",
        "headers": [(b"user-agent", b"U" * 25_000)], "client": ("c" * 25_000, 1), "server": ("shop.test", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    asyncio.run(FastAPI()(scope, receive, send))
    (span,) = seen.spans()
    lengths = {key: len(value) for key, value in (span.attributes or {}).items() if isinstance(value, str)}
    assert {key: length for key, length in lengths.items() if length > 60} == {
        "http.request.method_original": 64,
        "url.path": 2048,
        "url.query": 2048,
        "user_agent.original": 2048,
        "client.address": 255,
        "network.peer.address": 255,
    }


async def test_an_exception_that_utf_8_cannot_carry_does_not_spoil_the_batch(seen: Capture) -> None:
    app = FastAPI()

    @app.post("/boom")
    async def boom(request: Request) -> None:
        raise ValueError((await request.json())["name"])

    await ask(app, "POST", "/boom", content=b'{"name": "\\ud800"}')
    assert encode_spans(seen.spans()).SerializeToString()
    (event,) = seen.spans()[0].events
    assert (event.attributes or {})["exception.message"] == "\N{REPLACEMENT CHARACTER}"
