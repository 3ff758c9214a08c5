"""What an instrument remembers: how much, for how long, and what it never does."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics._internal import _MeterConfig
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from flx_otel_distro import recording
from flx_otel_distro.recording.routes import routes_of
from tests.recording.player import HAS_LIMITS

pytestmark = pytest.mark.usefixtures("fast")
limited = pytest.mark.skipif(not HAS_LIMITS, reason="this SDK has no cardinality limits")


def provider_of(*readers: InMemoryMetricReader, views: tuple[View, ...] = ()) -> MeterProvider:
    return MeterProvider(list(readers), views=views, shutdown_on_exit=False)


def points(reader: InMemoryMetricReader) -> dict[tuple[tuple[str, Any], ...], Any]:
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    found: Any = metric.data.data_points
    return {tuple(sorted((each.attributes or {}).items())): each for each in found}


def known(instrument: Any) -> int:
    return len(routes_of(instrument).known)


@limited
def test_what_is_remembered_is_bounded_by_twice_the_cardinality_limit() -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name="*", attribute_keys={"kept"}, aggregation_cardinality_limit=5)
    counter = provider_of(reader, views=(view,)).get_meter("app").create_counter("n")
    for index in range(100):
        counter.add(1, {"kept": index % 3, "dropped": index})
    assert known(counter) == 10
    assert {key: point.value for key, point in points(reader).items()} == {
        (("kept", 0),): 34,
        (("kept", 1),): 33,
        (("kept", 2),): 33,
    }


@limited
def test_overflow_is_not_remembered() -> None:
    reader = InMemoryMetricReader()
    view = View(instrument_name="*", aggregation_cardinality_limit=3)
    counter = provider_of(reader, views=(view,)).get_meter("app").create_counter("n")
    for index in range(500):
        counter.add(1, {"a": index})
    assert known(counter) == 3
    assert points(reader)[(("otel.metric.overflow", True),)].value == 497


@limited
def test_series_are_learnt_again_after_a_flood() -> None:
    view = View(instrument_name="*", aggregation_cardinality_limit=3)
    provider = provider_of(InMemoryMetricReader(), views=(view,))
    counter = provider.get_meter("app").create_counter("n")
    for index in range(500):
        counter.add(1, {"a": index})
    recording.forget()
    for index in range(500):
        counter.add(1, {"a": index})
    for _ in range(100):
        counter.add(1, {"a": 0})
    assert {key[-1] for key in routes_of(counter).known} >= {0}


@pytest.mark.parametrize(
    "attributes",
    [{"a": "x" * 5000}, {"a": 2**70}, {"a": None}, {"a": ["x"]}, {"a": b"x"}, {"": "x"}, {1: "x"}, [("a", 1)]],
    ids=repr,
)
def test_large_and_odd_attributes_are_not_remembered(attributes: Any) -> None:
    counter = provider_of(InMemoryMetricReader()).get_meter("app").create_counter("n")
    for _ in range(3):
        counter.add(1, attributes)
    assert known(counter) == 0


@limited
def test_delta_streams_are_not_remembered() -> None:
    reader = InMemoryMetricReader(preferred_temporality={Counter: AggregationTemporality.DELTA})
    counter = provider_of(reader).get_meter("app").create_counter("n")
    for _ in range(2):
        counter.add(1, {"a": 1})
        counter.add(1, {"a": 1})
        assert points(reader)[(("a", 1),)].value == 2
    assert known(counter) == 0


def test_a_true_a_one_and_a_one_point_zero_are_three() -> None:
    reader = InMemoryMetricReader()
    counter = provider_of(reader).get_meter("app").create_counter("n")
    for value in (True, 1, 1.0) * 3:
        counter.add(1, {"a": value})
    data: Any = reader.get_metrics_data()
    found = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert [(repr(each.attributes["a"]), each.value) for each in found] == [("True", 3), ("1", 3), ("1.0", 3)]
    assert known(counter) == 3


def test_a_reader_added_later_gets_what_comes_later() -> None:
    first, second = InMemoryMetricReader(), InMemoryMetricReader()
    provider = provider_of(first)
    counter = provider.get_meter("app").create_counter("n")
    bound = recording.bind(counter, {"a": 1})
    for _ in range(2):
        counter.add(1, {"a": 1})
        bound.add(1)
    provider.add_metric_reader(second)
    for _ in range(2):
        counter.add(1, {"a": 1})
        bound.add(1)
    assert points(first)[(("a", 1),)].value == 8
    assert points(second)[(("a", 1),)].value == 4


def test_a_disabled_meter_records_nothing_until_it_is_enabled_again() -> None:
    reader = InMemoryMetricReader()
    provider = provider_of(reader)
    counter = provider.get_meter("app").create_counter("n")
    bound = recording.bind(counter, {"a": 1})
    for enabled in (True, False, True):
        config = _MeterConfig(is_enabled=enabled)
        provider._set_meter_configurator(meter_configurator=lambda _, config=config: config)
        for _ in range(2):
            counter.add(1, {"a": 1})
            bound.add(1)
    assert points(reader)[(("a", 1),)].value == 8


def test_eight_threads_lose_nothing() -> None:
    reader, other = InMemoryMetricReader(), InMemoryMetricReader()
    provider = provider_of(reader)
    meter = provider.get_meter("app")
    counter, histogram = meter.create_counter("n"), meter.create_histogram("h")
    bound = recording.bind(counter, {"a": 0})
    start = threading.Barrier(9)

    def work() -> None:
        start.wait()
        for index in range(3000):
            counter.add(1, {"a": index % 4})
            bound.add(1)
            histogram.record(index % 7, {"a": index % 4})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    start.wait()
    provider.add_metric_reader(other)
    while any(each.is_alive() for each in threads):
        reader.get_metrics_data()
        recording.forget()
    for each in threads:
        each.join()
    data: Any = reader.get_metrics_data()
    counts, times = data.resource_metrics[0].scope_metrics[0].metrics
    assert {each.attributes["a"]: each.value for each in counts.data.data_points} == {
        0: 30000,
        1: 6000,
        2: 6000,
        3: 6000,
    }
    assert [each.count for each in times.data.data_points] == [6000] * 4
    assert sum(each.sum for each in times.data.data_points) == 8 * sum(index % 7 for index in range(3000))


def test_a_provider_that_is_dropped_takes_all_with_it() -> None:
    provider = provider_of(InMemoryMetricReader())
    counter: Any = provider.get_meter("app").create_counter("n")
    bound = recording.bind(counter, {"a": 1})
    bound.add(1)
    bound.add(1)
    routes = weakref.ref(routes_of(counter))
    assert known(counter) == 1
    consumer = weakref.ref(provider._measurement_consumer)
    del provider, counter, bound
    gc.collect()
    assert routes() is None
    assert consumer() is None
