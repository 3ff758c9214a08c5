"""Both examples as a user runs them, one real Prometheus that scrapes them, one real collector that is sent to."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.collector import Collector
from tests.support.process import FLX_INSTRUMENT, Program, clean_environment
from tests.support.prometheus import Prometheus, promtool_complaints
from tests.support.waiting import eventually, free_port, listening

EXAMPLES = Path(__file__).parents[2] / "examples"


def get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_fastapi_app_and_a_grpc_app_at_a_real_prometheus_and_a_real_collector(
    tmp_path: Path, collector: Collector
) -> None:
    http, rpc = free_port(), free_port()
    traces = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    fastapi = Program(
        sys.executable, str(EXAMPLES / "fastapi_app/app.py"),
        env={
            "PORT": str(http), "OTEL_SERVICE_NAME": "spine-http", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **traces,
        },
    )  # fmt: skip
    grpc = Program(
        sys.executable, "server.py", cwd=EXAMPLES / "grpc_service",
        env={
            "PORT": str(rpc), "OTEL_SERVICE_NAME": "spine-grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
            **traces,
        },
    )  # fmt: skip
    with fastapi, grpc:
        eventually("both servers", lambda: listening(http) and listening(rpc), 30)
        jobs = {"http": fastapi.metrics_port, "grpc": grpc.metrics_port}
        with Prometheus(tmp_path, jobs) as prometheus:
            eventually("both targets", lambda: prometheus.value("sum(up)") == 2, 60)
            statuses = [get(f"http://127.0.0.1:{http}{path}") for path in ("/orders/1", "/nowhere", "/health") * 10]
            assert set(statuses) <= {200, 404}
            client = subprocess.run(
                [FLX_INSTRUMENT, sys.executable, "client.py"],
                cwd=EXAMPLES / "grpc_service",
                env=clean_environment(
                    PORT=str(rpc), OTEL_SERVICE_NAME="spine-client", OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc,
                    OTEL_METRICS_EXPORTER="none",
                ),
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert client.returncode == 0, client.stderr
            # /health is a probe: 20 of the 30 requests are counted
            eventually(
                "every request counted",
                lambda: prometheus.value('sum(http_server_request_duration_seconds_count{job="http"})') == 20,
                60,
            )
            eventually(
                "every call counted",
                lambda: (prometheus.value('sum(rpc_server_call_duration_seconds_count{job="grpc"})') or 0) >= 2,
                60,
            )
            assert prometheus.query('{http_route="/nowhere"}') == []
        assert promtool_complaints(fastapi.scrape()) == []
        assert promtool_complaints(grpc.scrape()) == []
        eventually(
            "spans of all three services",
            lambda: (
                {"spine-http", "spine-grpc", "spine-client"} <= {r.get("service.name") for r in collector.resources()}
            ),
        )
        by_id = {span.span_id: span for span in collector.spans()}
        calls = [
            span
            for span in by_id.values()
            if span.name.startswith("shop.v1.Orders/") and span.kind == span.SPAN_KIND_SERVER
        ]
        assert calls
        assert all(
            by_id[span.parent_span_id].trace_id == span.trace_id for span in calls if span.parent_span_id in by_id
        )
