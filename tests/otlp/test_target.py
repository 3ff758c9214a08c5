"""Where a signal is sent, from the variables of the OTLP exporter specification."""

from __future__ import annotations

from typing import Any

import pytest

from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.otlp.target import target

E = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("grpc", "localhost", 4317, False, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")),
        ({E + "PROTOCOL": "http/protobuf"}, ("http/protobuf", "localhost", 4318, False, "/v1/traces")),
        ({E + "ENDPOINT": "https://c:5000"}, ("grpc", "c", 5000, True, None)),
        ({E + "ENDPOINT": "https://c"}, ("grpc", "c", 443, True, None)),
        ({E + "ENDPOINT": "http://c"}, ("grpc", "c", 4317, False, None)),
        ({E + "ENDPOINT": "c:5000"}, ("grpc", "c", 5000, True, None)),
        ({E + "ENDPOINT": "c:5000", E + "INSECURE": "true"}, ("grpc", "c", 5000, False, None)),
        ({E + "ENDPOINT": "http://[::1]:5000"}, ("grpc", "::1", 5000, False, None)),
        (
            {E + "PROTOCOL": "http/protobuf", E + "ENDPOINT": "https://c/base/"},
            ("http/protobuf", "c", 443, True, "/base/v1/traces"),
        ),
        (
            {E + "PROTOCOL": "http/protobuf", E + "TRACES_ENDPOINT": "http://c:1/own?k=v"},
            ("http/protobuf", "c", 1, False, "/own?k=v"),
        ),
        (
            {E + "TRACES_PROTOCOL": "http/protobuf", E + "TRACES_ENDPOINT": "http://c:1", E + "ENDPOINT": "http://d"},
            ("http/protobuf", "c", 1, False, "/"),
        ),
        ({E + "METRICS_ENDPOINT": "http://other:1"}, ("grpc", "localhost", 4317, False, None)),
        ({E + "ENDPOINT": "   "}, ("grpc", "localhost", 4317, False, None)),
    ],
)
def test_endpoint_and_protocol(environ: dict[str, str], expected: tuple[Any, ...]) -> None:
    found = target("traces", environ)
    path = expected[4] if expected[4] is not None else found.path
    assert (found.protocol, found.host, found.port, found.tls, found.path) == (*expected[:4], path)


def test_the_signals_own_settings_win() -> None:
    environ = {
        E + "HEADERS": "a=1,b=2",
        E + "TRACES_HEADERS": "Authorization=Bearer%20x",
        E + "TIMEOUT": "3",
        E + "METRICS_TIMEOUT": "4.5",
        E + "COMPRESSION": "gzip",
    }
    traces, metrics = target("traces", environ), target("metrics", environ)
    assert (traces.headers, traces.timeout, traces.compression) == ({"authorization": "Bearer x"}, 3.0, "gzip")
    assert (metrics.headers, metrics.timeout, metrics.compression) == ({"a": "1", "b": "2"}, 4.5, "gzip")


def test_credentials_are_sent_but_never_shown() -> None:
    found = target("traces", {E + "ENDPOINT": "https://me:secret@c:1", E + "HEADERS": "api-key=hidden"})
    assert found.headers == {"authorization": "Basic bWU6c2VjcmV0", "api-key": "hidden"}
    assert not any(secret in f"{found!r}{found.url}" for secret in ("secret", "hidden", "bWU6"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "ftp://c"),
        ("ENDPOINT", "http://c:99999"),
        ("PROTOCOL", "http/json"),
        ("TIMEOUT", "soon"),
        ("HEADERS", "no-equals"),
        ("HEADERS", "key=a%0d%0aInjected: b"),
        ("COMPRESSION", "zip"),
    ],
)
def test_a_wrong_value_is_named_and_the_default_used(name: str, value: str) -> None:
    environ = {E + name: value}
    assert target("traces", environ) == target("traces", {})
    with pytest.raises(ConfigurationError) as caught:
        target("traces", {**environ, "FLX_OTEL_STRICT": "true"})
    assert str(caught.value).startswith(f"{E}{name}=")
    assert (value in str(caught.value)) is (name != "HEADERS")
