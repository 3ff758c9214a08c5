"""An instrument with its attributes fixed records what the instrument would."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeter
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics._internal import _MeterConfig
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from flx_otel_distro import recording
from flx_otel_distro.recording.routes import NOWHERE
from tests.recording.player import seen
from tests.recording.scenarios import _span


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


@pytest.mark.parametrize("filters", ["trace_based", "always_on", "always_off"])
@pytest.mark.parametrize("where", ["none", "unsampled", "sampled"])
@pytest.mark.parametrize("viewed", [False, True])
@pytest.mark.usefixtures("fast")
def test_several_histograms_at_once_are_as_each_by_itself(filters: str, where: str, viewed: bool) -> None:
    """Readers change, routes are forgotten and the fast way ends on the way; every point and exemplar is the same."""
    filter_of = {
        "trace_based": TraceBasedExemplarFilter,
        "always_on": AlwaysOnExemplarFilter,
        "always_off": AlwaysOffExemplarFilter,
    }[filters]
    views = [View(instrument_name="h1", aggregation=ExponentialBucketHistogramAggregation())] if viewed else []
    context = {"none": Context(), "unsampled": _span(0), "sampled": _span(1)}[where]
    amounts = [(0.5, 0, 7), (0.001, 300, 5.5), (30.0, 2**40, 1e6)]

    def play(together: bool, told: bool = False) -> list[Any]:
        readers = [InMemoryMetricReader()]
        provider = MeterProvider(readers, exemplar_filter=filter_of(), views=views, shutdown_on_exit=False)
        meter = provider.get_meter("app")
        histograms = [meter.create_histogram(f"h{index}") for index in range(3)]
        bound = recording.BoundHistograms(histograms, {"a": 1})
        each = [recording.bind(histogram, {"a": 1}) for histogram in histograms]

        def record() -> None:
            for values_of in amounts:
                if together:
                    bound.record(values_of, context, where == "sampled")
                else:
                    for one, value in zip(each, values_of, strict=True):
                        (one.record_unsampled if told else one.record)(value, context)

        found: list[Any] = []
        record()
        record()
        found.append(seen(readers[0].get_metrics_data()))
        record()
        readers.append(InMemoryMetricReader())
        provider.add_metric_reader(readers[1])
        record()
        recording.forget()
        record()
        provider._set_meter_configurator(meter_configurator=lambda _: _MeterConfig(is_enabled=False))
        record()
        provider._set_meter_configurator(meter_configurator=lambda _: _MeterConfig(is_enabled=True))
        record()
        found += [seen(reader.get_metrics_data()) for reader in readers]
        record()
        recording.uninstall()
        record()
        recording.install(environ={})
        found += [seen(reader.get_metrics_data()) for reader in readers]
        return found

    assert play(together=True) == play(together=False)
    if where != "sampled":
        assert play(together=False, told=True) == play(together=False)
