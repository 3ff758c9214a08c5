"""Both transports against real servers: a collector, and ones that misbehave."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from flx_otel_distro.otlp.grpc import GrpcTransport
from flx_otel_distro.otlp.http import HttpTransport
from flx_otel_distro.otlp.target import Target, target
from flx_otel_distro.otlp.transport import Outcome, Transport
from tests.support.collector import Collector
from tests.support.waiting import eventually, free_port

KINDS: dict[str, Callable[[Target], Transport]] = {"grpc": GrpcTransport, "http/protobuf": HttpTransport}


def to(endpoint: str, protocol: str, **more: str) -> Target:
    settings = {f"OTEL_EXPORTER_OTLP_{key}": value for key, value in more.items()}
    return target(
        "traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **settings}
    )


def request(name: str, spans: int = 1, size: int = 0) -> bytes:
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for number in range(spans):
        span = scope.spans.add()
        span.trace_id, span.span_id = (number + 1).to_bytes(16, "big"), (number + 1).to_bytes(8, "big")
        span.name = name + "x" * size
    return message.SerializeToString()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", KINDS)
def test_a_collector_gets_what_is_sent(protocol: str, compression: str, collector: Collector) -> None:
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    transport = KINDS[protocol](to(endpoint, protocol, COMPRESSION=compression))
    name = f"sent-{protocol}-{compression}"
    for number in range(3):
        assert transport.send(request(f"{name}-{number}"), soon()).kind == "ok"
    transport.close()
    for number in range(3):
        collector.span(f"{name}-{number}")


@pytest.mark.parametrize("protocol", KINDS)
def test_requests_larger_than_a_flow_control_window_arrive_whole(protocol: str, collector: Collector) -> None:
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    transport = KINDS[protocol](to(endpoint, protocol))
    body = request(f"large-{protocol}", spans=300, size=4000)
    assert len(body) > 1_000_000
    assert transport.send(body, soon()).kind == "ok"
    transport.close()
    found = eventually(
        "all", lambda: [s for s in collector.spans() if s.name.startswith(f"large-{protocol}")][299:] and True
    )
    assert found


@pytest.mark.parametrize("protocol", KINDS)
def test_a_collector_that_restarts_is_found_again(protocol: str) -> None:
    with Collector() as collector:
        transport = KINDS[protocol](to(collector.grpc if protocol == "grpc" else collector.http, protocol))
        assert transport.send(request("one"), soon()).kind == "ok"
        collector.stop()
        assert transport.send(request("lost"), soon()).kind == "retry"
        collector.start()
        assert transport.send(request("two"), soon()).kind == "ok"
        transport.close()


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that hands each connection to `answer`, each on a thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(client: socket.socket) -> None:
        with client:
            try:
                answer(client)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def silent(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def garbage(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(bytes(range(256)) * 64)


def trickle(client: socket.socket) -> None:
    client.recv(65536)
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x-header: y\r\n" * 10_000:
        client.sendall(bytes([byte]))
        time.sleep(0.02)


def endless(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
    while True:
        client.sendall(b"x" * 65536)


@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.parametrize(
    "answer", [silent, garbage, trickle, lambda client: None], ids=["silent", "garbage", "trickle", "closes"]
)
def test_a_server_that_misbehaves_costs_no_more_than_the_deadline(
    answer: Callable[[socket.socket], None], protocol: str
) -> None:
    with serving(answer) as endpoint:
        transport = KINDS[protocol](to(endpoint, protocol))
        began = time.monotonic()
        outcome = transport.send(request("never"), soon(0.5))
        transport.close()
    assert outcome.kind == "retry"
    assert time.monotonic() - began < 5  # the deadline is 0.5 s; the rest is for a slow machine


def test_an_answer_without_end_is_cut_off() -> None:
    with serving(endless) as endpoint:
        assert HttpTransport(to(endpoint, "http/protobuf")).send(request("x"), soon(5)).kind == "ok"


@pytest.mark.parametrize("protocol", KINDS)
def test_nobody_listens(protocol: str) -> None:
    outcome = KINDS[protocol](to(f"http://127.0.0.1:{free_port()}", protocol)).send(request("x"), soon())
    assert (outcome.kind, "refused" in outcome.detail) == ("retry", True)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, Outcome("ok")),
        (202, {}, Outcome("ok")),
        (429, {"retry-after": "7"}, Outcome("retry", "HTTP 429 Too Many Requests", 7.0)),
        (503, {}, Outcome("retry", "HTTP 503 Service Unavailable")),
        (503, {"retry-after": "9" * 40}, Outcome("retry", "HTTP 503 Service Unavailable", 3600.0)),
        (400, {}, Outcome("refused", "HTTP 400 Bad Request")),
        (401, {}, Outcome("refused", "HTTP 401 Unauthorized")),
        (404, {}, Outcome("refused", "HTTP 404 Not Found")),
        (302, {"location": "http://elsewhere"}, Outcome("refused", "HTTP 302 Found")),
        (500, {}, Outcome("refused", "HTTP 500 Internal Server Error")),
    ],
)
def test_http_statuses(status: int, headers: dict[str, str], expected: Outcome) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        assert HttpTransport(to(endpoint, "http/protobuf")).send(request("x"), soon()) == expected
        server.shutdown()


@contextmanager
def grpc_server(
    behaviour: Callable[[bytes, grpc.ServicerContext], bytes], credentials: grpc.ServerCredentials | None = None
) -> Iterator[int]:
    from concurrent.futures import ThreadPoolExecutor

    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        handler = grpc.unary_unary_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        port = (
            server.add_secure_port("localhost:0", credentials)
            if credentials
            else server.add_insecure_port("127.0.0.1:0")
        )
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("CANCELLED", "retry"), ("UNKNOWN", "refused"), ("INVALID_ARGUMENT", "refused"),
        ("DEADLINE_EXCEEDED", "retry"), ("PERMISSION_DENIED", "refused"), ("RESOURCE_EXHAUSTED", "refused"),
        ("ABORTED", "retry"), ("OUT_OF_RANGE", "retry"), ("UNIMPLEMENTED", "refused"), ("INTERNAL", "refused"),
        ("UNAVAILABLE", "retry"), ("DATA_LOSS", "retry"), ("UNAUTHENTICATED", "refused"),
    ],
)  # fmt: skip
def test_grpc_statuses(code: str, kind: str) -> None:
    def behaviour(body: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode[code], "so\nit is")
        raise AssertionError

    with grpc_server(behaviour) as port:
        transport = GrpcTransport(to(f"http://127.0.0.1:{port}", "grpc"))
        outcome = transport.send(request("x"), soon())
        transport.close()
    assert outcome.kind == kind
    assert outcome.detail.startswith(code) and "\n" not in outcome.detail


def test_grpc_sends_headers_a_deadline_and_reads_partial_success() -> None:
    seen: dict[str, str] = {}

    def behaviour(body: bytes, context: grpc.ServicerContext) -> bytes:
        seen.update((str(k), str(v)) for k, v in context.invocation_metadata())
        seen["in time"] = str(context.time_remaining() < 10)
        assert ExportTraceServiceRequest.FromString(body).resource_spans
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = 3
        answer.partial_success.error_message = "too old"
        return answer.SerializeToString()

    with grpc_server(behaviour) as port:
        transport = GrpcTransport(to(f"http://127.0.0.1:{port}", "grpc", HEADERS="api-key=k,x-utf=%C3%A9"))
        outcome = transport.send(request("x"), soon(5))
        transport.close()
    assert outcome.kind == "ok"
    assert ExportTraceServiceResponse.FromString(outcome.body).partial_success.rejected_spans == 3
    assert (seen["api-key"], seen["in time"]) == ("k", "True")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_grpc_over_tls_with_client_certificates(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())], root_certificates=cert.read_bytes(), require_client_auth=True
    )

    def behaviour(body: bytes, context: grpc.ServicerContext) -> bytes:
        return b""

    with grpc_server(behaviour, credentials) as port:
        right = to(
            f"https://localhost:{port}", "grpc",
            CERTIFICATE=str(cert), CLIENT_CERTIFICATE=str(cert), CLIENT_KEY=str(key),
        )  # fmt: skip
        for settings, kind in ((right, "ok"), (replace(right, certificate=""), "retry")):
            transport = GrpcTransport(settings)
            assert transport.send(request("x"), soon()).kind == kind
            transport.close()
        nobody = GrpcTransport(replace(right, client_certificate="", client_key=""))
        assert nobody.send(request("x"), soon()).kind == "retry"


def test_a_proxy_is_used_and_its_refusal_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def proxy(client: socket.socket) -> None:
        asked.append(client.recv(65536))
        client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    with serving(proxy) as address:
        monkeypatch.setenv("http_proxy", address.replace("http://", "http://u:p@"))
        monkeypatch.delenv("no_proxy", raising=False)
        outcome = HttpTransport(to("http://collector.example:4318", "http/protobuf")).send(request("x"), soon())
    assert asked[0].startswith(b"CONNECT collector.example:4318 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dTpw\r\n" in asked[0]
    assert outcome == Outcome("retry", "OSError: the proxy refused: HTTP/1.1 403 Forbidden")
