"""A FastAPI app of one async route under full load by wrk: CPU a request, and latency."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks import load, servers
from benchmarks.lanes.cases import ALL, EVERYONE, NONE, SOME, of
from benchmarks.samples import Case, Lane, Opening, Sample, Surroundings, Window
from benchmarks.venvs import PEERS


def opening(chosen: Mapping[str, str], protocol: str = "http/protobuf") -> Opening:
    """Return what starts the app with these variables and a collector of its own."""

    def start(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        port = servers.free_port()
        collector = servers.Collector(around.tool, stack)
        variables = {**collector.variables(protocol), **chosen, **case.variables}
        command = servers.uvicorn("web:app", port)
        program = stack.enter_context(servers.program(PEERS[case.peer], around.pythons[case.peer], command, variables))
        program.until_listening(port)
        load.wrk(port, 1)
        servers.settled(program, around.settle)
        collector.spans()

        def window(seconds: float) -> Sample:
            before = program.cpu()
            answered = load.wrk(port, seconds)
            spent = servers.settled(program, around.settle) - before
            return Sample(
                {
                    "cpu_us": spent / answered.requests * 1e6,
                    "p50_us": answered.p50,
                    "p99_us": answered.p99,
                    "p999_us": answered.p999,
                    "requests": answered.requests,
                    "spans": collector.spans() / answered.requests,
                }
            )

        return window

    return start


_CPU = ("µs CPU", "cpu_us")

LANES = (
    Lane(
        "requests",
        "requests",
        "FastAPI request, metrics on, traces at 1 %",
        *_CPU,
        of(*EVERYONE, "instrumentator"),
        opening(SOME),
    ),
    Lane(
        "requests-all",
        "requests",
        "FastAPI request, traces at 100 % over OTLP/HTTP",
        *_CPU,
        of(*EVERYONE),
        opening(ALL),
    ),
    Lane(
        "requests-all-grpc",
        "requests",
        "FastAPI request, traces at 100 % over OTLP/gRPC",
        *_CPU,
        of("bare", "ours", "upstream", "edot", "splunk"),
        opening(ALL, "grpc"),
    ),
    Lane(
        "requests-metrics",
        "requests",
        "FastAPI request, metrics alone",
        *_CPU,
        of("bare", "ours", "upstream", "instrumentator"),
        opening(NONE),
    ),
    Lane(
        "latency",
        "latency",
        "FastAPI under full load, traces at 100 %: p99",
        "µs",
        "p99_us",
        of("bare", "ours", "upstream"),
        opening(ALL),
        scale=2,
    ),
)
