"""A player of scenarios: one provider, and all that can be seen of it from outside.

What is seen is data points but for their times, exceptions, and log lines without their arguments.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    SimpleFixedSizeExemplarReservoir,
    UpDownCounter,
)
from opentelemetry.sdk.metrics._internal import _MeterConfig
from opentelemetry.sdk.metrics._internal.exemplar import exemplar_reservoir
from opentelemetry.sdk.metrics._internal.instrument import Gauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource

from flx_otel_distro import recording
from tests.recording.scenarios import CONTEXTS, KINDS, METHODS

HAS_LIMITS = "aggregation_cardinality_limit" in View.__init__.__code__.co_varnames
"""Whether this SDK limits the series of a metric: from 1.45.2."""


class CustomReservoir(SimpleFixedSizeExemplarReservoir):
    """A reservoir that is not exactly the SDK's."""

    def offer(self, value: float, time_unix_nano: int, attributes: Any, context: Context) -> None:
        super().offer(value + 100, time_unix_nano, attributes, context)


class Lines(logging.Handler):
    """This thread's log lines, without their arguments, which may hold addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.seen.append((record.levelname, str(record.msg)))


def reader(kind: str) -> InMemoryMetricReader:
    """Return a reader that is cumulative, delta, or cumulative with a small cardinality limit."""
    classes = (Counter, UpDownCounter, Histogram, Gauge)
    temporality = AggregationTemporality.DELTA if kind == "delta" else AggregationTemporality.CUMULATIVE
    made = InMemoryMetricReader(preferred_temporality=dict.fromkeys(classes, temporality))
    if kind == "small":
        limits = {each: 3 for each in made._instrument_class_temporality}
        made._instrument_class_cardinality_limit = limits
    return made


def _view(given: dict[str, Any]) -> View:
    factory = (lambda _: lambda **kwargs: CustomReservoir()) if given["exemplar_reservoir_factory"] else None
    given = {**given, "exemplar_reservoir_factory": factory}
    if not HAS_LIMITS:
        del given["aggregation_cardinality_limit"]
    return View(**given)


def seen(data: Any) -> Any:
    """Return all that metrics data says but for times, types of values included."""
    if data is None:
        return None
    return [
        (metric.name, metric.unit, metric.description, _plain(metric.data))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (f.name for f in dataclasses.fields(value) if f.name not in ("time_unix_nano", "start_time_unix_nano"))
        return (type(value).__name__, [(name, _plain(getattr(value, name))) for name in fields])
    if isinstance(value, dict):
        return ("mapping", [(repr(key), _plain(each)) for key, each in value.items()])
    if isinstance(value, list | tuple):
        return ("sequence", [_plain(each) for each in value])
    return (type(value).__name__, str(value))


class Player:
    """Plays one scenario on a provider of its own."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        self.readers = [reader(kind) for kind in scenario["readers"]]
        self.provider = MeterProvider(
            list(self.readers),
            Resource.get_empty(),
            exemplar_filter=scenario["filter"](),
            views=[_view(each) for each in scenario["views"]],
            shutdown_on_exit=False,
        )
        meter: Any = self.provider.get_meter("app")
        self.instruments = {kind: getattr(meter, f"create_{kind}")(kind) for kind in KINDS}
        self.bound: dict[tuple[str, int], Any] = {}
        self.enabled = True
        self.observed: list[Any] = []

    def play(self) -> list[Any]:
        """Return what was seen, in order."""
        lines = Lines()
        logger = logging.getLogger("opentelemetry")
        before = logger.propagate
        logger.addHandler(lines)
        logger.propagate = False
        # The SDK's simple reservoir chooses by chance, of which other threads of the process take their share.
        chance = exemplar_reservoir.randrange
        exemplar_reservoir.randrange = random.Random(7).randrange
        try:
            for step in [*self.scenario["steps"], *({"do": "collect", "reader": index} for index in range(6))]:
                try:
                    getattr(self, step["do"])(step)
                except Exception as error:  # noqa: BLE001 - what is raised is part of what is seen
                    self.observed.append((type(error).__name__, str(error)))
        finally:
            exemplar_reservoir.randrange = chance
            logger.removeHandler(lines)
            logger.propagate = before
        return [*self.observed, lines.seen]

    def record(self, step: dict[str, Any]) -> None:
        kind, amount, context = step["kind"], step["amount"], CONTEXTS[step["context"]]
        given = self.scenario["attributes"][step["attributes"]]
        attributes = type(given)(given) if isinstance(given, dict) else given
        method = getattr(self.instruments[kind], METHODS[kind])
        token = context_api.attach(CONTEXTS[step["current"]] or Context())
        try:
            for _ in range(step["times"]):
                if step["how"] == "bound" and isinstance(given, dict):
                    place = (kind, step["attributes"])
                    if place not in self.bound:
                        self.bound[place] = recording.bind(self.instruments[kind], attributes)
                    getattr(self.bound[place], METHODS[kind])(amount, context)
                elif step["how"] == "keywords":
                    method(amount=amount, context=context, attributes=attributes)
                else:
                    method(amount, attributes, context)
                if step["how"] in ("mutated", "bound") and isinstance(attributes, dict):
                    attributes["a"] = f"{attributes.get('a')}!"[:9]
        finally:
            context_api.detach(token)

    def collect(self, step: dict[str, Any]) -> None:
        if self.readers:
            self.observed.append(seen(self.readers[step["reader"] % len(self.readers)].get_metrics_data()))

    def flush(self, step: dict[str, Any]) -> None:
        self.observed.append(self.provider.force_flush())

    def toggle(self, step: dict[str, Any]) -> None:
        self.enabled = not self.enabled
        config = _MeterConfig(is_enabled=self.enabled)
        self.provider._set_meter_configurator(meter_configurator=lambda _: config)

    def add_reader(self, step: dict[str, Any]) -> None:
        made = reader("delta" if step["reader"] == 3 else "cumulative")
        self.provider.add_metric_reader(made)
        self.readers.append(made)

    def remove_reader(self, step: dict[str, Any]) -> None:
        if self.readers:
            self.provider.remove_metric_reader(self.readers.pop(step["reader"] % len(self.readers)))

    def forget(self, step: dict[str, Any]) -> None:
        recording.forget()

    def shutdown(self, step: dict[str, Any]) -> None:
        self.provider.shutdown()
