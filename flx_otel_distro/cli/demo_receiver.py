"""A collector in miniature for the demo: takes OTLP over HTTP on the loopback interface and keeps the spans."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Seen:
    """One span as received: ids in hex, times in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    status: str
    failed: bool


class DemoReceiver:
    """Serves from a daemon thread until `stop`. Keeps at most 10,000 spans."""

    def __init__(self) -> None:
        self._spans: list[Seen] = []
        keep = self._keep

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.path == "/v1/traces":
                    keep(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Seen]:
        """Return what has arrived, in order of arrival."""
        return list(self._spans)

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _keep(self, body: bytes) -> None:
        request: Any = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if len(self._spans) < 10_000:
                        self._spans.append(_seen(span))


def _seen(span: Any) -> Seen:
    attributes = {each.key: each.value for each in span.attributes}
    status = attributes.get("http.response.status_code")
    return Seen(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=str(status.int_value) if status is not None else "",
        failed=span.status.code == 2,
    )


def tree(spans: list[Seen]) -> list[str]:
    """Return one trace as lines: each span below its parent, with its duration in milliseconds."""
    children: dict[str, list[Seen]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda each: each.start):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    lines: list[str] = []

    def draw(span: Seen, before: str, branch: str, below: str) -> None:
        text = f"{before}{branch}{span.name}"
        mark = "  failed" if span.failed else ""
        status = f"  {span.status}" if span.status else ""
        lines.append(f"{text:<44}{(span.end - span.start) / 1e6:>9.2f} ms{status}{mark}")
        under = children.get(span.span_id, [])
        for index, child in enumerate(under):
            last = index == len(under) - 1
            draw(child, before + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in children.get("", []):
        draw(root, "", "", "")
    return lines
