"""The example as its README says: real processes, a real collector, a real scrape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.collector import Collector, attributes
from tests.support.process import Program
from tests.support.waiting import eventually, free_port

EXAMPLE = Path(__file__).parents[3] / "examples" / "grpc_service"


def test_the_example_is_traced_and_measured_with_no_line_of_telemetry_in_it(collector: Collector) -> None:
    sources = "".join(path.read_text() for path in EXAMPLE.glob("*.py"))
    assert "opentelemetry" not in sources and "flx" not in sources
    shared = {
        "PORT": str(free_port()),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with Program("python", "server.py", cwd=EXAMPLE, env={**shared, "OTEL_SERVICE_NAME": "shop"}) as shop:
        with Program("python", "client.py", cwd=EXAMPLE, env={**shared, "OTEL_SERVICE_NAME": "customer"}) as customer:
            assert customer.finish() == 0
            assert customer.stdout == "lamp-1 packed shipped delivered\nNOT_FOUND\n"
        for method, status, count in (("Place", "OK", 1), ("Track", "OK", 1), ("Track", "NOT_FOUND", 1)):
            labels = {"rpc_method": f"shop.v1.Orders/{method}", "rpc_response_status_code": status}
            assert shop.await_sample("rpc_server_call_duration_seconds_count", **labels) == count
        labels = {"rpc_method": "shop.v1.Orders/Track", "rpc_response_status_code": "OK"}
        assert shop.await_sample("rpc_server_responses_per_rpc_sum", **labels) == 3
        assert shop.terminate() == 0

    def pairs() -> list[tuple[Span, Span]]:
        spans = [each for each in collector.spans() if each.name.startswith("shop.v1.Orders/")]
        made = {each.span_id: each for each in spans if each.kind == Span.SPAN_KIND_CLIENT}
        return [
            (made[each.parent_span_id], each)
            for each in spans
            if each.kind == Span.SPAN_KIND_SERVER and each.parent_span_id in made
        ]

    eventually("both ends of the three calls", lambda: len(pairs()) == 3)

    def told(span: Span) -> Any:
        return attributes(span.attributes)["rpc.response.status_code"]

    assert all(
        (one.trace_id, one.name, told(one)) == (other.trace_id, other.name, told(other)) for one, other in pairs()
    )
    assert sorted((span.name.rpartition("/")[2], told(span)) for _, span in pairs()) == [
        ("Place", "OK"),
        ("Track", "NOT_FOUND"),
        ("Track", "OK"),
    ]
    names = {value for each in collector.resources() if (value := each.get("service.name")) in ("shop", "customer")}
    assert names == {"shop", "customer"}
