"""Numbers that wait are in every collection, once, in the process that took them, and of no other meter."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flx_otel_instrumentors.backlog import MOST, Backlog, Series
from opentelemetry.metrics import Histogram, NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags, use_span

from flx_otel_distro import recording
from flx_otel_distro.contexts import current

LABELS = {"method": "a"}


@pytest.fixture(autouse=True, params=[False, True], ids=["stock", "fast"])
def recorded(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With the SDK's own recording, where nothing waits, and with ours."""
    if request.param:
        recording.install()
    yield request.param
    if request.param:
        recording.uninstall()


class Meters:
    """A provider with readers in memory and one histogram."""

    def __init__(self, *readers: InMemoryMetricReader, **options: Any) -> None:
        self.readers = readers or (InMemoryMetricReader(),)
        self.provider = MeterProvider(self.readers, shutdown_on_exit=False, **options)
        meter = self.provider.get_meter("test")
        self.histogram: Histogram = meter.create_histogram("h")
        self.backlog = Backlog(meter, "flx.backlog")
        self.series = Series(self.backlog, [self.histogram], LABELS)

    def names(self, reader: int = 0) -> list[str]:
        return [each.name for each in self._metrics(reader)]

    def count(self, reader: int = 0) -> int:
        return sum(point.count for each in self._metrics(reader) for point in each.data.data_points)

    def exemplars(self) -> list[Any]:
        return [each for metric in self._metrics(0) for point in metric.data.data_points for each in point.exemplars]

    def _metrics(self, reader: int) -> list[Any]:
        data = self.readers[reader].get_metrics_data()
        return [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []


def record(series: Series, times: int) -> None:
    for _ in range(times):
        series.record_unsampled(1.0, None)


@pytest.mark.parametrize("times", [1, 2, MOST - 1, MOST, MOST + 2, 3 * MOST])
def test_a_collection_has_all_that_was_recorded_before_it(times: int) -> None:
    meters = Meters()
    record(meters.series, times)
    assert (meters.names(), meters.count()) == (["h"], times)
    record(meters.series, 1)
    assert meters.count() == times + 1


def test_every_reader_has_all_of_it() -> None:
    delta = InMemoryMetricReader({Histogram_: AggregationTemporality.DELTA for Histogram_ in _sdk_histograms()})
    meters = Meters(InMemoryMetricReader(), delta)
    record(meters.series, 5)
    assert (meters.count(0), meters.count(1)) == (5, 5)
    record(meters.series, 2)
    assert (meters.count(1), meters.count(0)) == (2, 7)


def _sdk_histograms() -> list[type]:
    from opentelemetry.sdk.metrics import Histogram as SdkHistogram

    return [SdkHistogram]


def test_some_do_wait_with_our_recording_and_none_without(recorded: bool) -> None:
    meters = Meters()
    record(meters.series, 10)
    assert len(meters.backlog._queue) == (9 if recorded else 0)
    meters.backlog.settle()
    assert len(meters.backlog._queue) == 0


def test_providers_do_not_mix() -> None:
    one, other = Meters(), Meters()
    record(one.series, 5)
    record(other.series, 7)
    assert (other.count(), one.count()) == (7, 5)


def test_threads_lose_nothing_and_count_nothing_twice() -> None:
    meters = Meters()
    seen: list[int] = []

    def collect() -> None:
        for _ in range(20):
            seen.append(meters.count())

    threads = [threading.Thread(target=record, args=(meters.series, 500)) for _ in range(4)]
    threads.append(threading.Thread(target=collect))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == sorted(seen)
    assert meters.count() == 2000


def test_what_is_current_where_numbers_are_settled_leaves_no_exemplar() -> None:
    meters = Meters()
    with use_span(INVALID_SPAN):
        for _ in range(5):
            meters.series.record_unsampled(1.0, current())
    with use_span(NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(1)))):
        assert meters.exemplars() == []


def test_a_filter_that_takes_every_number_is_given_each_at_once() -> None:
    meters = Meters(exemplar_filter=AlwaysOnExemplarFilter())
    with use_span(NonRecordingSpan(SpanContext(1, 2, False))):
        for _ in range(5):
            meters.series.record_unsampled(1.0, current())
    assert len(meters.backlog._queue) == 0
    assert {(each.trace_id, each.span_id) for each in meters.exemplars()} == {(1, 2)}


def test_without_an_sdk_nothing_waits() -> None:
    meter = NoOpMeterProvider().get_meter("none")
    backlog = Backlog(meter, "flx.backlog")
    record(Series(backlog, [meter.create_histogram("h")], LABELS), 3 * MOST)
    assert len(backlog._queue) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_what_waits_is_recorded_by_the_parent_alone() -> None:
    meters = Meters()
    record(meters.series, 10)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, b"%d" % len(meters.backlog._queue))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"0"
    os.waitpid(child, 0)
    assert meters.count() == 10


def test_a_histogram_that_fails_is_told_and_the_others_are_recorded(
    recorded: bool, faults_fail_tests: list[tuple[str, BaseException]]
) -> None:
    class Broken:
        def record(self, amount: float, context: Any = None) -> None:
            raise RuntimeError("not today")

    meters = Meters()
    broken: Any = Broken()
    meters.backlog.add(broken, 1.0)
    record(meters.series, 3)
    assert meters.count() == 3
    assert [place for place, _ in faults_fail_tests] == ["recording what was put off"]
    faults_fail_tests.clear()
