"""An instrument with its attributes fixed records what the instrument would."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flx_otel_distro import recording
from flx_otel_distro.recording.routes import NOWHERE


def values(reader: InMemoryMetricReader) -> dict[str, Any]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: [(dict(p.attributes), getattr(p, "value", None) or p.sum) for p in metric.data.data_points]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }


def record_all(reader: InMemoryMetricReader) -> dict[str, Any]:
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("app")
    counter = recording.bind(meter.create_counter("counter"), {"a": 1})
    up_down = recording.bind(meter.create_up_down_counter("up_down"), {"a": 1})
    histogram = recording.bind(meter.create_histogram("histogram"), {"a": 1})
    gauge = recording.bind(meter.create_gauge("gauge"), {"a": [1]})
    for amount in (5, 2.5):
        counter.add(amount)
        up_down.add(-amount)
        histogram.record(amount)
        gauge.set(amount)
    return values(reader)


EXPECTED = {
    "counter": [({"a": 1}, 7.5)],
    "up_down": [({"a": 1}, -7.5)],
    "histogram": [({"a": 1}, 7.5)],
    "gauge": [({"a": (1,)}, 2.5)],
}


@pytest.mark.usefixtures("fast")
def test_all_kinds_record() -> None:
    assert record_all(InMemoryMetricReader()) == EXPECTED


def test_all_kinds_record_where_nothing_is_installed() -> None:
    was = recording.installed()
    recording.uninstall()
    assert record_all(InMemoryMetricReader()) == EXPECTED
    if was:
        recording.install(environ={})


@pytest.mark.usefixtures("fast")
def test_an_instrument_made_before_the_provider_is_found_behind_its_proxy() -> None:
    reader = InMemoryMetricReader()
    proxies = _ProxyMeterProvider()
    counter = proxies.get_meter("app").create_counter("early")
    bound = recording.bind(counter, {"a": 1})
    bound.add(1)
    proxies.on_set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    bound.add(1)
    assert bound._route is not NOWHERE
    bound.add(1)
    assert values(reader) == {"early": [({"a": 1}, 2)]}


def test_without_an_sdk_nothing_happens() -> None:
    recording.bind(NoOpMeter("app").create_counter("n"), {"a": 1}).add(1)


def test_what_records_nothing_by_itself_cannot_be_bound() -> None:
    observable: Any = NoOpMeter("app").create_observable_gauge("n")
    with pytest.raises(TypeError, match="not a synchronous instrument: NoOpObservableGauge"):
        recording.bind(observable, {})
