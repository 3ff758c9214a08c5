"""A real OTLP collector (rotel) before a receiver that keeps what the collector passes on."""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sysconfig
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import eventually, free_port, listening


class Receiver:
    """An OTLP/HTTP server that keeps every request, parsed. A context manager."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.logs: list[ExportLogsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        kinds: dict[str, tuple[Any, list[Any]]] = {
            "/v1/traces": (ExportTraceServiceRequest, self.traces),
            "/v1/metrics": (ExportMetricsServiceRequest, self.metrics),
            "/v1/logs": (ExportLogsServiceRequest, self.logs),
        }
        keep_headers = self.headers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                kind, kept = kinds[self.path]
                keep_headers.append({k.lower(): v for k, v in self.headers.items()})
                kept.append(kind.FromString(body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        """Return every span received so far."""
        return [
            span
            for request in list(self.traces)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def span(self, name: str, seconds: float = 20.0) -> Span:
        """Return the first span called `name`, waiting for it."""
        found = eventually(f"span {name}", lambda: [s for s in self.spans() if s.name == name], seconds)
        return found[0]

    def resources(self) -> list[dict[str, Any]]:
        """Return the resource attributes of every traces request."""
        return [
            attributes(each.resource.attributes) for request in list(self.traces) for each in request.resource_spans
        ]


def value(any_value: Any) -> Any:
    """Return an OTLP AnyValue as the Python value it holds."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(each) for each in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs: Any) -> dict[str, Any]:
    """Return OTLP key-value pairs as a dict."""
    return {pair.key: value(pair.value) for pair in pairs}


class Collector(Receiver):
    """rotel listening for OTLP over gRPC and HTTP, passing all on to this receiver."""

    def __init__(self, grpc_port: int | None = None, http_port: int | None = None) -> None:
        super().__init__()
        self.grpc_port = grpc_port or free_port()
        self.http_port = http_port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def grpc(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def __enter__(self) -> Collector:
        super().__enter__()
        self.start()
        return self

    def start(self) -> None:
        """Start the rotel process; return when both its ports accept connections."""
        spec = importlib.util.find_spec("rotel")
        assert spec is not None and spec.origin is not None
        self._process = subprocess.Popen(
            [
                str(Path(spec.origin).with_name("rotel-agent")), "start",
                "--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc_port}",
                "--otlp-http-endpoint", f"127.0.0.1:{self.http_port}",
                "--exporter", "otlp", "--otlp-exporter-protocol", "http",
                "--otlp-exporter-endpoint", f"http://127.0.0.1:{self.port}",
                "--otlp-exporter-compression", "none",
                "--batch-timeout", "50ms",
            ],
            # The binary is linked against this Python's library, which may be in a folder of its own.
            env={**os.environ, "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually("the collector", lambda: listening(self.grpc_port) and listening(self.http_port))

    def stop(self) -> None:
        """Kill the rotel process; the receiver stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __exit__(self, *exc: object) -> None:
        self.stop()
        super().__exit__(*exc)
