"""What is secret is in no line, and what comes from outside forges none."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.support.collector import Collector
from tests.support.process import FLX_INSTRUMENT, clean_environment
from tests.support.waiting import free_port

APP = """
import sys, time
from opentelemetry import trace
for number in range(int(sys.argv[1])):
    with trace.get_tracer("t").start_as_current_span("seen") as span:
        if len(sys.argv) > 2:
            span.set_attribute("broken", "\\ud800")
            span.set_status(trace.Status(trace.StatusCode.ERROR, "half \\ud800 of a pair"))
    time.sleep(0.02)
"""


def run(tmp_path: Path, *arguments: str, **env: str) -> str:
    path = tmp_path / "app.py"
    path.write_text(APP)
    result = subprocess.run(
        [FLX_INSTRUMENT, sys.executable, str(path), *(arguments or ("1",))],
        env=clean_environment(OTEL_METRICS_EXPORTER="none", **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "")
    return result.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "htps://user:s3cr3t@col:4317"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cr3t#pw@127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:s3cr3t@localhost:99999"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:s3cr3t@127.0.0.1:1"},
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces?api_key=s3cr3t key",
        },
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces?api_key=s3cr3t",
        },
        {"OTEL_EXPORTER_OTLP_HEADERS": "te=s3cr3t"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "host=s3cr3t"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "api-key s3cr3t"},
        {"HTTP_PROXY": "http://user:s3cr3t#x@proxy:80", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://col.invalid:4317"},
    ],
)
def test_no_secret_is_in_a_line(env: dict[str, str], tmp_path: Path) -> None:
    said = run(tmp_path, **env)
    assert said and "s3cr3t" not in said
    assert all(line.startswith("flx-otel: ") for line in said.splitlines()), said


def test_a_collector_cannot_forge_a_line_nor_fill_the_log(tmp_path: Path) -> None:
    number = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = ExportTraceServiceResponse()
            answer.partial_success.rejected_spans = 1
            answer.partial_success.error_message = f"x\nERROR:root:forged\x1b[31m {next(number)}"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = run(
            tmp_path, "20",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_address[1]}",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", OTEL_BSP_SCHEDULE_DELAY="10",
        )  # fmt: skip
        server.shutdown()
    assert said.startswith("flx-otel: ") and len(said.splitlines()) <= 2
    assert "\x1b" not in said and "\nERROR" not in said


def test_text_that_utf8_cannot_carry_costs_no_other_span(tmp_path: Path, collector: Collector) -> None:
    before = len(collector.spans())
    said = run(tmp_path, "20", "broken", OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc)
    assert len(said.splitlines()) <= 1, said
    from tests.support.waiting import eventually

    eventually("all spans", lambda: len([s for s in collector.spans()[before:] if s.name == "seen"]) == 20)


def test_a_huge_number_is_told_and_not_used(tmp_path: Path) -> None:
    for name in ("OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_BSP_SCHEDULE_DELAY"):
        said = run(
            tmp_path, OTEL_TRACES_EXPORTER="none" if "LIMIT" in name else "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", **{name: "9" * 20},
        )  # fmt: skip
        assert f"{name}='99999999999999999999' is not valid" in said.splitlines()[0]
        assert "Traceback" not in said
