"""What we promise, on a service as people have them: see programs/service.py.

CPU and latency come from a constant rate of arrivals; memory from the worst case: no collector, full queues, a million
distinct label values, scrapes all the while.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks import limits, load, servers
from benchmarks.lanes.cases import ALL, SERVICE
from benchmarks.lanes.memory import read
from benchmarks.samples import Case, Lane, Sample, Surroundings, Window, quantile
from benchmarks.venvs import PEERS

RATE = 60.0
"""Requests a second: about a third of what one core can do, so that requests do not queue for each other."""

ALLOWED_MB = 100.0
VALUES, AT_A_TIME, REQUESTS = 1_000_000, 10_000, 40
_PATH = "/orders/{n}"


def _opening(case: Case, around: Surroundings, stack: ExitStack) -> Window:
    port = servers.free_port()
    collector = servers.Collector(around.tool, stack)
    variables = {
        **collector.variables(),
        **case.variables,
        "BENCHMARK_OTHER": servers.called(around.tool, stack),
    }
    python = around.pythons[case.peer]
    command = servers.uvicorn("service:app", port)
    program = stack.enter_context(servers.program(PEERS[case.peer], python, command, variables))
    program.until_listening(port)
    load.arrivals(around.tool, port, RATE, 2, _PATH)
    servers.settled(program, around.settle)

    def window(seconds: float) -> Sample:
        before = program.cpu()
        latencies = load.arrivals(around.tool, port, RATE, seconds, _PATH)
        with contextlib.suppress(OSError):  # scraped as it would be: every few seconds
            read(int(variables["OTEL_EXPORTER_PROMETHEUS_PORT"]), "/metrics")
        spent = servers.settled(program, around.settle) - before
        return Sample(
            {
                "cpu_us": spent / len(latencies) * 1e6,
                "p50_us": quantile(latencies, 0.5),
                "p99_us": quantile(latencies, 0.99),
                "p999_us": quantile(latencies, 0.999),
                "requests": len(latencies),
                "spans": collector.spans() / len(latencies),
            },
            latencies,
        )

    return window


def _worst(around: Surroundings, cases: Sequence[Case], seconds: float) -> Mapping[str, Sample]:
    found: dict[str, Sample] = {}
    allowed = None
    for case in cases:
        limited = case.name.endswith("-limited")
        if limited and allowed is None:
            continue  # no control group can be made here
        found[case.name] = _flooded(case, around, allowed if limited else None)
        if case.name == "bare" and "group_mb" in found["bare"].figures:
            allowed = found["bare"].figures["group_mb"] + ALLOWED_MB
    return found


def _flooded(case: Case, around: Surroundings, allowed: float | None) -> Sample:
    """Return the peak of a service that is asked for all it could hold; `survived` is 0 where it was killed."""
    with ExitStack() as stack:
        group = limits.group("flx-otel-benchmark")
        if group is not None:
            stack.enter_context(group)
            if allowed is not None:
                group.limit(allowed)
        port = servers.free_port()
        variables = {**servers.sending_to(f"http://127.0.0.1:{servers.free_port()}", "http/protobuf"), **ALL}
        variables["BENCHMARK_OTHER"] = f"http://127.0.0.1:{port}"  # it calls itself, for one process the more
        command = servers.uvicorn("service:app", port)
        python = around.pythons[case.peer]
        program = stack.enter_context(servers.program(PEERS[case.peer], python, command, variables, group))
        program.until_listening(port)
        peak = stack.enter_context(_Peak(program))
        failed = 0
        for start in range(0, VALUES, AT_A_TIME):
            failed += not _asked(port, f"/flood?start={start}&count={AT_A_TIME}")
            for index in range(REQUESTS):
                failed += not _asked(port, f"/unknown/{start + index}", 404)
            if start % (10 * AT_A_TIME) == 0:
                with contextlib.suppress(OSError):
                    read(int(variables["OTEL_EXPORTER_PROMETHEUS_PORT"]), "/metrics")
        figures = {"peak_mb": peak.megabytes(), "failed": float(failed), "survived": float(program.runs())}
        if group is not None:
            figures |= {"group_mb": group.peak(), "kills": float(group.kills())}
        return Sample(figures)


def _asked(port: int, path: str, wanted: int = 200) -> bool:
    try:
        read(port, path)
    except OSError as error:  # HTTPError has a code
        return getattr(error, "code", 0) == wanted
    return wanted == 200


class _Peak:
    """The most memory a program had while the block ran, looked at ten times a second. A context manager."""

    def __init__(self, program: servers.Process) -> None:
        self._program, self._most = program, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def megabytes(self) -> float:
        """Return the most so far, shared pages shared out."""
        time.sleep(0.2)
        return self._most

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._most = max(self._most, self._program.pss())


LANES = (
    Lane(
        "promises",
        "promises",
        f"service at {RATE:g} requests/s",
        "µs CPU",
        "cpu_us",
        SERVICE,
        _opening,
        service=True,
        scale=2.5,
    ),
    Lane(
        "promises-memory",
        "promises",
        "service at its worst: no collector, a million label values",
        "MB peak PSS",
        "peak_mb",
        (
            Case("bare", "bare", "no instrumentation"),
            Case("ours", "ours", "flx-instrument"),
            Case("ours-limited", "ours", f"flx-instrument, allowed {ALLOWED_MB:g} MB over bare"),
            Case("upstream", "upstream", "opentelemetry-instrument"),
        ),
        joint=_worst,
        service=True,
    ),
)
