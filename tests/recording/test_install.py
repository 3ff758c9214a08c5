"""Putting the fast way in, taking it out, and when it stays away."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics._internal.aggregation import _SumAggregation
from opentelemetry.sdk.metrics._internal.instrument import Gauge
from opentelemetry.sdk.metrics._internal.measurement import Measurement
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from flx_otel_distro import guard, recording
from flx_otel_distro.recording import shape
from tests.recording.player import seen
from tests.support.process import clean_environment

PLACES: list[tuple[Any, str]] = [(Counter, "add"), (UpDownCounter, "add"), (Histogram, "record"), (Gauge, "set")]
pytestmark = pytest.mark.skipif(shape.mismatch() is not None, reason="the fast way stays away from this SDK")
STOCK_ADD = Counter.add


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flx_otel")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without the fast way and with nothing told."""
    was = recording.installed()
    recording.uninstall()
    monkeypatch.setattr(guard, "_told", set())
    yield
    recording.uninstall()
    if was:
        recording.install(environ={})


def methods() -> list[Callable[..., Any]]:
    return [vars(owner)[name] for owner, name in PLACES]


def test_it_is_undone_without_a_trace() -> None:
    before = methods()
    assert recording.install(environ={})
    assert recording.installed()
    assert all(now is not then for now, then in zip(methods(), before, strict=True))
    recording.uninstall()
    recording.uninstall()
    assert methods() == before
    assert not recording.installed()


def test_a_second_install_changes_nothing() -> None:
    assert recording.install(environ={})
    first = methods()
    assert recording.install(environ={})
    assert methods() == first


def test_signatures_stay() -> None:
    before = [inspect.signature(each) for each in methods()]
    recording.install(environ={})
    assert [inspect.signature(each) for each in methods()] == before


def test_the_switch_leaves_the_sdk_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    before = methods()
    with caplog.at_level(logging.INFO, "flx_otel"):
        assert not recording.install(environ={"FLX_OTEL_FAST_RECORDING": "false"})
        assert not recording.install(environ={"FLX_OTEL_FAST_RECORDING": "false"})
    assert methods() == before
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("INFO", "flx-otel: recording is the SDK's own (FLX_OTEL_FAST_RECORDING=false)")
    ]


def test_a_method_that_is_not_the_sdks_own_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def add(self: Any, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Stand for another tool's wrapper."""

    monkeypatch.setattr(Counter, "add", add)
    assert not recording.install(environ={})
    assert Counter.add is add
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        (
            "INFO",
            "flx-otel: recording stays the SDK's own, right but slower: Counter.add is not the SDK's own",
        )
    ]


@pytest.mark.parametrize("version", ["1.44.9", "2.0.0", "3.1", "nightly"])
def test_other_versions_are_not_touched(version: str) -> None:
    assert shape.mismatch(version) == f"opentelemetry-sdk {version} is not a version we know"


def test_an_aggregation_with_another_step_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def aggregate(self: Any, measurement: Measurement, should_sample_exemplar: bool = True) -> None:
        with self._lock:
            self._value = (self._value or 0) + measurement.value
        self._sample_exemplar(measurement, should_sample_exemplar)
        self._steps = 1

    aggregate.__module__ = _SumAggregation.__module__
    monkeypatch.setattr(_SumAggregation, "aggregate", aggregate)
    assert not recording.install(environ={})
    assert "_SumAggregation.aggregate does something else" in caplog.text


def test_an_aggregation_that_counts_otherwise_is_found_by_the_trial(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def aggregate(self: Any, measurement: Measurement, should_sample_exemplar: bool = True) -> None:
        with self._lock:
            self._value = (self._value or 0) + measurement.value * 2
        self._sample_exemplar(measurement, should_sample_exemplar)

    aggregate.__module__ = _SumAggregation.__module__
    monkeypatch.setattr(_SumAggregation, "aggregate", aggregate)
    assert shape.mismatch() is None
    assert not recording.install(environ={})
    assert "it does not record what the SDK records" in caplog.text
    assert methods()[0].__module__ == "opentelemetry.sdk.metrics._internal.instrument"


def test_a_provider_of_another_make_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert not recording.install(object(), environ={})
    assert "object is not the SDK's meter provider" in caplog.text


def test_beneath_a_later_wrapper_the_sdks_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recording.install(environ={})
    ours = Counter.add
    calls: list[float] = []

    def wrapper(self: Any, amount: float, *rest: Any) -> None:
        calls.append(amount)
        ours(self, amount, *rest)

    monkeypatch.setattr(Counter, "add", wrapper)
    recording.uninstall()
    assert Counter.add is wrapper
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("app").create_counter("n")
    counter.add(1, {"a": 1})
    counter.add(1, {"a": 1})
    assert calls == [1, 1]
    assert "_flx_routes" not in vars(counter)
    assert "'2'" in repr(seen(reader.get_metrics_data()))
    monkeypatch.undo()
    assert recording.install(environ={})
    recording.uninstall()
    assert Counter.add is STOCK_ADD


def test_instruments_that_exist_already_go_on_with_what_they_had() -> None:
    reader = InMemoryMetricReader()
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("app").create_counter("n")
    counter.add(1, {"a": 1})
    recording.install(environ={})
    for _ in range(3):
        counter.add(1, {"a": 1})
    recording.uninstall()
    counter.add(1, {"a": 1})
    assert "'5'" in repr(seen(reader.get_metrics_data()))


FORK = """
import os
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from flx_otel_configurators.metrics import forget_measurements
from flx_otel_distro import recording

assert recording.install(environ={})
reader = InMemoryMetricReader()
provider = MeterProvider([reader], shutdown_on_exit=False)
counter = provider.get_meter("app").create_counter("n")
bound = recording.bind(counter, {"a": 1})
for _ in range(3):
    counter.add(1, {"a": 1})
    bound.add(1)
if os.fork() == 0:
    forget_measurements(provider)
    for _ in range(2):
        counter.add(1, {"a": 1})
        bound.add(1)
    name = "child"
else:
    os.wait()
    bound.add(1)
    name = "parent"
metric = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0]
print(name, [point.value for point in metric.data.data_points], flush=True)
os._exit(0)
"""


def test_a_forked_child_counts_from_zero() -> None:
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
    assert done.stdout.splitlines() == ["child [4]", "parent [7]"], done.stderr
