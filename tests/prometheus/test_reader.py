"""The reader and its endpoint: what a scraper gets, and what it costs others when something is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import REGISTRY, Counter
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from flx_otel_distro.prometheus.endpoint import MetricsEndpoint
from flx_otel_distro.prometheus.reader import FlxPrometheusReader
from tests.support.process import samples
from tests.support.prometheus import promtool_complaints
from tests.support.waiting import eventually, free_port, listening


@pytest.fixture
def reader() -> Iterator[FlxPrometheusReader]:
    made = FlxPrometheusReader("127.0.0.1", free_port())
    yield made
    made.endpoint.stop()


@pytest.fixture
def provider(reader: FlxPrometheusReader) -> Iterator[MeterProvider]:
    made = MeterProvider([reader], resource=Resource({"service.name": "tested"}), shutdown_on_exit=False)
    yield made
    made.shutdown()


def get(port: int, path: str = "/metrics", accept: str = "") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"accept": accept} if accept else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


def test_a_scrape_has_what_was_recorded_and_no_scope_labels(
    reader: FlxPrometheusReader, provider: MeterProvider
) -> None:
    meter = provider.get_meter("scope", "1.0")
    meter.create_counter("orders", unit="1", description="Orders taken").add(2, {"kind": "a"})
    meter.create_histogram("wait", unit="s", explicit_bucket_boundaries_advisory=[1.0, 2.0]).record(1.5)
    assert reader.endpoint.start()
    status, kind, text = get(reader.endpoint.port)
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert samples(text, "orders_total") == {(("kind", "a"),): 2}
    assert samples(text, "wait_seconds_bucket") == {(("le", "1.0"),): 0, (("le", "2.0"),): 1, (("le", "+Inf"),): 1}
    assert "otel_scope" not in text and 'service_name="tested"' in text


def test_openmetrics_is_served_where_it_is_accepted(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    provider.get_meter("m").create_counter("orders", description="Orders").add(2)
    assert reader.endpoint.start()
    _, kind, text = get(reader.endpoint.port, accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert "orders" in {family.name for family in parse_openmetrics(text)}


def test_a_flush_does_not_leak_into_the_next_scrape(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    provider.get_meter("m").create_counter("orders").add(2)
    for _ in range(3):
        provider.force_flush()
    body, _ = reader.render()
    assert body.decode().count("orders_total 2.0") == 1


def test_overlapping_scrapes_repeat_nothing(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    counter = provider.get_meter("m").create_counter("orders")
    for number in range(300):
        counter.add(1, {"n": number})
    bodies: list[str] = []
    threads = [threading.Thread(target=lambda: bodies.append(reader.render()[0].decode())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [body.count("# TYPE orders_total") for body in bodies] == [1] * 8
    assert all(len(samples(body, "orders_total")) == 300 for body in bodies)


def test_the_apps_own_prometheus_client_metrics_are_beside_ours(
    reader: FlxPrometheusReader, provider: MeterProvider
) -> None:
    own = Counter("legacy_jobs", "Jobs of the app's own")
    own.inc(4)
    provider.get_meter("m").create_counter("orders").add(1)
    text = reader.render()[0].decode()
    assert samples(text, "legacy_jobs_total") == {(): 4}
    assert samples(text, "orders_total") == {(): 1}


def test_promtool_finds_nothing_wrong(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    meter = provider.get_meter("m")
    meter.create_counter("orders", description="Orders").add(2, {"text": 'quote " slash \\ line \n'})
    meter.create_histogram("wait", unit="s", description="Wait").record(1.5)
    meter.create_up_down_counter("queued", description="Queued").add(-1)
    assert promtool_complaints(reader.render()[0].decode()) == []


def test_the_endpoint_answers_metrics_alone_and_head(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    assert reader.endpoint.start()
    port = reader.endpoint.port
    assert get(port, "/")[0] == 200
    assert get(port, "/elsewhere")[0] == 404
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_a_render_that_fails_is_a_500_and_the_endpoint_goes_on(faults_fail_tests: list[object]) -> None:
    def render(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("no")

    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    assert endpoint.start()
    assert [get(endpoint.port)[0] for _ in range(2)] == [500, 500]
    endpoint.stop()
    assert len(faults_fail_tests) == 2
    faults_fail_tests.clear()


def test_clients_that_say_nothing_do_not_keep_a_scraper_out() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), lambda accept: (b"ok 1\n", "text/plain"))
    assert endpoint.start()
    idle = [socket.create_connection(("127.0.0.1", endpoint.port)) for _ in range(40)]
    try:
        # Idle clients hold the slots for at most ten seconds; then a scraper is served again.
        eventually("a scrape", lambda: get(endpoint.port)[0] == 200, 40)
    finally:
        for each in idle:
            each.close()
        endpoint.stop()


def test_a_taken_port_is_said_once_and_served_when_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    endpoint = MetricsEndpoint("127.0.0.1", port, lambda accept: (b"ok 1\n", "text/plain"), retry=0.05)
    endpoint.ensure_started()
    eventually("the warning", lambda: "OTEL_EXPORTER_PROMETHEUS_PORT" in caplog.text)
    holder.close()
    eventually("the endpoint", lambda: get(port)[0] == 200)
    assert caplog.text.count("cannot be listened on") == 1
    endpoint.stop()
    assert not listening(port)


@pytest.mark.parametrize("version", ["foo.bar", "foo", "1.x", "..", "\N{SUPERSCRIPT TWO}"])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
def test_a_version_there_is_not_gets_plain_text(
    kind: str, version: str, reader: FlxPrometheusReader, provider: MeterProvider
) -> None:
    provider.get_meter("m").create_counter("orders").add(2)
    body, answered = reader.render(f"{kind};version={version}")
    assert answered.startswith("text/plain")
    assert samples(body.decode(), "orders_total") == {(): 2}


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_text_that_cannot_be_encoded_does_not_cost_the_scrape(accept: str, reader: FlxPrometheusReader) -> None:
    provider = MeterProvider([reader], resource=Resource({"service.name": "caf\udce9"}), shutdown_on_exit=False)
    meter = provider.get_meter("m")
    orders = meter.create_counter("orders", description="Orders \ud800")
    for user in ("a", "\udcfe", "\udcff"):
        orders.add(1, {"user": user})
    meter.create_counter("whole").add(3)
    text = reader.render(accept)[0].decode()
    assert samples(text.replace("# EOF\n", ""), "orders_total") == {
        (("user", "a"),): 1,
        (("user", "\\udcfe"),): 1,
        (("user", "\\udcff"),): 1,
    }
    assert "whole_total 3.0" in text and "caf" in text
    provider.shutdown()


def test_a_family_that_cannot_be_rendered_leaves_the_others(
    reader: FlxPrometheusReader, provider: MeterProvider, faults_fail_tests: list[tuple[str, BaseException]]
) -> None:
    class Broken:
        def collect(self) -> Iterator[Metric]:
            family = Metric("broken", "Broken", "gauge")
            family.add_sample("broken", {"label": cast("str", None)}, 1)
            yield family

    broken = Broken()
    REGISTRY.register(cast("Any", broken))
    try:
        provider.get_meter("m").create_counter("orders").add(2)
        text = reader.render()[0].decode()
    finally:
        REGISTRY.unregister(cast("Any", broken))
    assert samples(text, "orders_total") == {(): 2}
    assert "broken" not in text
    assert [place for place, _ in faults_fail_tests] == ["rendering one of the metrics"]
    faults_fail_tests.clear()


def test_two_scopes_that_record_one_metric_are_one_series(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    for scope, number in (("first", 2), ("second", 3)):
        meter = provider.get_meter(scope)
        meter.create_counter("calls", description=scope).add(number, {"peer": "a"})
        meter.create_up_down_counter("busy", unit="{call}", description="Busy").add(number)
        histogram = meter.create_histogram(
            "took", unit="s", description="Took", explicit_bucket_boundaries_advisory=[1.0]
        )
        for _ in range(number):
            histogram.record(0.5, {"peer": "a"})
        meter.create_gauge("level", description="Level").set(number)
    text = reader.render()[0].decode()
    assert samples(text, "calls_total") == {(("peer", "a"),): 5}
    assert samples(text, "busy") == {(): 5}
    assert samples(text, "level") == {(): 3}
    assert samples(text, "took_seconds_count") == {(("peer", "a"),): 5}
    assert samples(text, "took_seconds_bucket") == {
        (("le", "1.0"), ("peer", "a")): 5,
        (("le", "+Inf"), ("peer", "a")): 5,
    }
    assert text.count("# TYPE calls_total") == 1
    assert promtool_complaints(text) == []


def test_one_name_with_two_types_serves_the_first_and_says_so(
    reader: FlxPrometheusReader, provider: MeterProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.get_meter("first").create_gauge("clash").set(1)
    provider.get_meter("second").create_histogram("clash").record(1)
    text = reader.render()[0].decode()
    assert samples(text, "clash") == {(): 1}
    assert "clash_bucket" not in text
    assert "metric clash is recorded as gauge and as histogram" in caplog.text


def test_a_label_a_series_does_not_have_is_absent(reader: FlxPrometheusReader, provider: MeterProvider) -> None:
    counter = provider.get_meter("m").create_counter("calls")
    counter.add(1, {"peer": "a"})
    counter.add(1, {"peer": "a", "error": "b"})
    assert set(samples(reader.render()[0].decode(), "calls_total")) == {
        (("peer", "a"),), (("error", "b"), ("peer", "a")),
    }  # fmt: skip


def test_nothing_a_program_may_want_to_run_or_patch_is_imported_before_a_scrape() -> None:
    heavy = "{'ssl', 'http.server', 'prometheus_client'}"
    code = f"import sys, flx_otel_distro.prometheus.reader; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "set()\n"
