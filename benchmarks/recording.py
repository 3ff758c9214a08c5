"""What one recording costs: the SDK as it is, ours, and prometheus_client in a single process.

    python -m benchmarks.recording [--json results.json] [--rounds 41]

Rounds of all cases are interleaved, so that a change of the machine's pace meets all alike; each figure
is the median of its rounds in nanoseconds of process CPU time a call, the loop around it taken off. The
sampled cases record inside a sampled span, with the SDK's default trace-based exemplar filter.
prometheus_client has no attributes to read: it gets label values in order, and a cached child none.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from flx_otel_distro import recording

CALLS = 1000
SIZES = (0, 3, 5, 6)
ATTRIBUTES: dict[str, Any] = {
    "http.request.method": "GET",
    "url.scheme": "http",
    "http.response.status_code": 200,
    "http.route": "/items/{id}",
    "network.protocol.version": "1.1",
    "error.type": "timeout",
}
COLUMNS = ("stock", "ours", "ours bound", "prometheus labels", "prometheus child")

Case = tuple[str, int, bool, str]
"""Instrument, number of attributes, inside a sampled span, column."""


class Sdk:
    """A provider with one reader, and instruments that have recorded each attribute set before."""

    def __init__(self) -> None:
        provider = MeterProvider([InMemoryMetricReader()], Resource.get_empty(), shutdown_on_exit=False)
        meter = provider.get_meter("benchmark")
        self.counter = meter.create_counter("counter")
        self.histogram = meter.create_histogram("histogram")

    def unbound(self, kind: str, size: int) -> Callable[[int], None]:
        attributes = dict(list(ATTRIBUTES.items())[:size])
        counter, histogram = self.counter, self.histogram

        def add(calls: int) -> None:
            for _ in range(calls):
                counter.add(1, attributes)

        def record(calls: int) -> None:
            for _ in range(calls):
                histogram.record(12.5, attributes)

        return add if kind == "counter" else record

    def bound(self, kind: str, size: int) -> Callable[[int], None]:
        attributes = dict(list(ATTRIBUTES.items())[:size])
        counter = recording.bind(self.counter, attributes)
        histogram = recording.bind(self.histogram, attributes)

        def add(calls: int) -> None:
            for _ in range(calls):
                counter.add(1)

        def record(calls: int) -> None:
            for _ in range(calls):
                histogram.record(12.5)

        return add if kind == "counter" else record


def prometheus(kind: str, size: int, cached: bool) -> Callable[[int], None]:
    """Return a loop over prometheus_client's metric of this kind; without labels it is its own child."""
    labels = [f"l{index}" for index in range(size)]
    values = [str(value) for value in list(ATTRIBUTES.values())[:size]]
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("counter", "counter", labels, registry=registry)
    histogram = prometheus_client.Histogram("histogram", "histogram", labels, registry=registry)
    one, other = (counter.labels(*values), histogram.labels(*values)) if size else (counter, histogram)

    def inc(calls: int) -> None:
        for _ in range(calls):
            one.inc()

    def observe(calls: int) -> None:
        for _ in range(calls):
            other.observe(12.5)

    def labels_inc(calls: int) -> None:
        for _ in range(calls):
            counter.labels(*values).inc()

    def labels_observe(calls: int) -> None:
        for _ in range(calls):
            histogram.labels(*values).observe(12.5)

    if cached or not size:
        return inc if kind == "counter" else observe
    return labels_inc if kind == "counter" else labels_observe


def empty(calls: int) -> None:
    """Do nothing so many times."""
    for _ in range(calls):
        pass


def cases() -> dict[Case, Callable[[int], None]]:
    """Return a loop for every case. The stock loops must run while nothing is installed."""
    found: dict[Case, Callable[[int], None]] = {}
    for kind in ("counter", "histogram"):
        for size in SIZES:
            for sampled in (False, True):
                stock, ours = Sdk(), Sdk()
                for column, loop in zip(
                    COLUMNS,
                    (
                        stock.unbound(kind, size),
                        ours.unbound(kind, size),
                        ours.bound(kind, size),
                        prometheus(kind, size, cached=False),
                        prometheus(kind, size, cached=True),
                    ),
                    strict=True,
                ):
                    found[(kind, size, sampled, column)] = loop
    return found


def timed(loop: Callable[[int], None], sampled: Context | None) -> float:
    """Return the nanoseconds of CPU one call took, after a few to get warm."""
    token = context_api.attach(sampled) if sampled is not None else None
    try:
        loop(20)
        start = time.process_time_ns()
        loop(CALLS)
        return (time.process_time_ns() - start) / CALLS
    finally:
        if token is not None:
            context_api.detach(token)


def measure(rounds: int) -> dict[Case, float]:
    """Return the median of each case in nanoseconds."""
    span = TracerProvider(shutdown_on_exit=False).get_tracer("benchmark").start_span("request")
    inside = set_span_in_context(span)
    loops = cases()
    times: dict[Case, list[float]] = {case: [] for case in loops}
    idle: list[float] = []
    gc.disable()
    for _ in range(rounds):
        for column in COLUMNS:
            if column == "stock":
                recording.uninstall()
            elif not recording.install(environ={}):
                raise SystemExit("the fast way could not be installed")
            for case, loop in loops.items():
                if case[3] == column:
                    times[case].append(timed(loop, inside if case[2] else None))
        idle.append(timed(empty, None))
        gc.collect()
    gc.enable()
    recording.uninstall()
    around = statistics.median(idle)
    return {case: statistics.median(each) - around for case, each in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description="What one recording costs.")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--rounds", type=int, default=41)
    given = parser.parse_args(arguments)
    figures = measure(given.rounds)
    rows: list[dict[str, Any]] = []
    for kind, size, sampled in dict.fromkeys(case[:3] for case in figures):
        row: dict[str, Any] = {"instrument": kind, "attributes": size, "sampled": sampled}
        row |= {column: round(figures[(kind, size, sampled, column)]) for column in COLUMNS}
        row["stock / ours"] = round(row["stock"] / row["ours"], 1)
        row["ours / labels"] = round(row["ours"] / row["prometheus labels"], 2)
        row["bound / child"] = round(row["ours bound"] / row["prometheus child"], 2)
        rows.append(row)
    widths = {name: max(len(name), 9) for name in rows[0]}
    heading = f"ns of CPU a call, medians of {given.rounds} interleaved rounds"
    lines = [f"{heading}; Python {platform.python_version()} on {platform.machine()}"]
    lines.append("  ".join(name.rjust(width) for name, width in widths.items()))
    lines += ["  ".join(str(row[name]).rjust(width) for name, width in widths.items()) for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    if given.json:
        given.json.write_text(
            json.dumps({"python": sys.version, "rounds": given.rounds, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
