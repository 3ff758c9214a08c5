"""A gRPC server of one unary method, asyncio and sync, under full load by an asyncio client."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks import load, servers
from benchmarks.lanes.cases import ALL, SOME, of
from benchmarks.samples import Case, Lane, Opening, Sample, Surroundings, Window
from benchmarks.venvs import PEERS

_PEERS = ("bare", "ours", "upstream", "edot", "splunk", "ddtrace")


def opening(kind: str, chosen: Mapping[str, str]) -> Opening:
    """Return what starts the server, `aio` or `sync`, with these variables and a collector of its own."""

    def start(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        port = servers.free_port()
        collector = servers.Collector(around.tool, stack)
        variables = {**collector.variables(), **chosen, **case.variables}
        command = ["python", "calls.py", kind, str(port)]
        program = stack.enter_context(servers.program(PEERS[case.peer], around.pythons[case.peer], command, variables))
        program.until_listening(port)
        load.grpc(around.tool, port, 0.7)
        servers.settled(program, around.settle)
        collector.spans()

        def window(seconds: float) -> Sample:
            before = program.cpu()
            answered = load.grpc(around.tool, port, seconds).requests
            spent = servers.settled(program, around.settle) - before
            return Sample(
                {"cpu_us": spent / answered * 1e6, "requests": answered, "spans": collector.spans() / answered}
            )

        return window

    return start


def _lane(name: str, title: str, kind: str, chosen: Mapping[str, str]) -> Lane:
    return Lane(name, "grpc", title, "µs CPU", "cpu_us", of(*_PEERS), opening(kind, chosen))


LANES = (
    _lane("grpc-aio", "grpc.aio call, metrics on, traces at 1 %", "aio", SOME),
    _lane("grpc-aio-all", "grpc.aio call, traces at 100 % over OTLP/HTTP", "aio", ALL),
    _lane("grpc-sync", "sync gRPC call, metrics on, traces at 1 %", "sync", SOME),
    _lane("grpc-sync-all", "sync gRPC call, traces at 100 % over OTLP/HTTP", "sync", ALL),
)
