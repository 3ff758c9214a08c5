"""The example app as a real process: spans in a real collector, counts in a real scrape."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest

from tests.support.collector import Collector, attributes
from tests.support.process import Program
from tests.support.waiting import eventually, free_port, listening

EXAMPLE = Path(__file__).parents[3] / "examples" / "fastapi_app"

REQUESTS = [
    ("POST", "/orders", "/orders", 201, None),
    ("POST", "/orders", "/orders", 201, None),
    ("GET", "/orders/1", "/orders/{number}", 200, None),
    ("GET", "/orders/9", "/orders/{number}", 404, None),
    ("GET", "/orders/1/total", "/orders/{number}/total", 200, None),
    ("DELETE", "/orders/1", "/orders/{number}", 500, "RuntimeError"),
    ("GET", "/nowhere", None, 404, None),
]
OURS = ("http_request_method", "http_route", "http_response_status_code", "error_type", "url_scheme")


@pytest.mark.parametrize("start", ["python", "uvicorn"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_example_is_traced_and_counted_exactly(collector: Collector, start: str, protocol: str) -> None:
    port, service = free_port(), f"orders-{uuid.uuid4().hex[:8]}"
    command = ["python", "app.py"] if start == "python" else ["uvicorn", "app:app", "--port", str(port)]
    env = {
        "PORT": str(port),
        "OTEL_SERVICE_NAME": service,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc if protocol == "grpc" else collector.http,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with Program(*command, cwd=EXAMPLE, env=env) as program:
        eventually("the app", lambda: listening(port) or program.process.poll() is not None)
        # A connection for each request: uvicorn closes one whose app has raised.
        headers = {"connection": "close"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            for _ in range(3):
                assert client.get("/health").json() == "ok"
            for method, path, _, status, _ in REQUESTS:
                body = {"item": "tea", "quantity": 2} if method == "POST" else None
                assert client.request(method, path, json=body).status_code == status

        counted = eventually("the counts", lambda: program.samples("http_server_request_duration_seconds_count"))
        expected: dict[tuple[tuple[str, str], ...], float] = {}
        for method, _, route, status, error in REQUESTS:
            labels = {"http_request_method": method, "http_response_status_code": str(status), "url_scheme": "http"}
            labels |= {"http_route": route} if route else {}
            labels |= {"error_type": error} if error else {}
            key = tuple(sorted(labels.items()))
            expected[key] = expected.get(key, 0) + 1
        found: dict[tuple[tuple[str, str], ...], float] = {}
        for key, value in counted.items():
            # An empty label is an absent one, for Prometheus.
            found[tuple((name, label) for name, label in key if name in OURS and label)] = value
        assert found == expected
        assert program.terminate() in (0, -15, 143)

    def spans() -> list[str]:
        return [
            f"{span.name} {attributes(span.attributes)['http.response.status_code']}"
            for request in list(collector.traces)
            for resource in request.resource_spans
            if attributes(resource.resource.attributes).get("service.name") == service
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    eventually("the spans", lambda: len(spans()) >= len(REQUESTS))
    assert sorted(spans()) == sorted(
        f"{m} {route or ''}".rstrip() + f" {status}" for m, _, route, status, _ in REQUESTS
    )
