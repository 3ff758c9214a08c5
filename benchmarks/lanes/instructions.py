"""Instructions a request, counted by valgrind: what noise cannot touch, where CPU time is hidden by it.

A count says nothing of caches and system calls, so it backs a ratio up and does not replace it. The program runs
some fifty times slower; threads take turns. Each window counts 400 requests for each second it should take, eight at a
time, and what they cause until the program is at rest.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load, servers
from benchmarks.lanes.cases import ALL, SERVICE, SOME, of
from benchmarks.samples import Case, Lane, Opening, Sample, Surroundings, Window
from benchmarks.venvs import PEERS

WARM, A_SECOND = 200, 400
_REST = 5.0
"""Seconds without requests that are counted as well: a batch waits one second, and is then encoded slowly."""

Ask = Callable[[Path, int, int], int]
"""Asks a server on a port, with the Python of the load, for so many answers or fewer; returns how many came."""

Beside = Callable[[Surroundings, ExitStack], Mapping[str, str]]
"""Starts what a program needs beside it, and returns the variables that tell it."""


def ask_http(tool: Path, port: int, count: int, path: str = "/items/5") -> int:
    """Ask a web app on eight connections, as often on each. Raises RuntimeError where an answer is no 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: wrk/4.2.0\r\nAccept: */*\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(load.CONNECTIONS)]
    times = -(-count // len(connections))
    try:
        for _ in range(times):
            for each in connections:
                each.sendall(request)
            for each in connections:
                answer = b""
                while not answer.endswith(b"}"):  # the app's JSON, after the head
                    got = each.recv(65536)
                    answer += got
                    if not got or not answer.startswith(b"HTTP/1.1 200"):
                        raise RuntimeError(f"an answer was {answer[:80]!r}")
    finally:
        for each in connections:
            each.close()
    return times * len(connections)


def ask_service(tool: Path, port: int, count: int) -> int:
    """Ask the realistic service, which takes long for an answer, for an eighth of the answers."""
    return ask_http(tool, port, count // 8, "/orders/7")


def _called(around: Surroundings, stack: ExitStack) -> Mapping[str, str]:
    return {"BENCHMARK_OTHER": servers.called(around.tool, stack)}


def opening(
    command: Callable[[int], list[str]],
    chosen: Mapping[str, str],
    protocol: str,
    ask: Ask,
    beside: Beside = lambda around, stack: {},
) -> Opening:
    """Return what starts `command` for a port, under valgrind, with these variables and a collector of its own."""

    def start(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        valgrind, control = shutil.which("valgrind"), shutil.which("callgrind_control")
        if valgrind is None or control is None:
            raise RuntimeError("valgrind is not installed: apt-get install valgrind")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        counting = [valgrind, "-q", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes"]
        counting.append(f"--callgrind-out-file={folder}/%p")
        port = servers.free_port()
        collector = servers.Collector(around.tool, stack)
        variables = {**collector.variables(protocol), **chosen, **case.variables, **beside(around, stack)}
        python = around.pythons[case.peer]
        program = servers.program(PEERS[case.peer], python, command(port), variables, before=counting)
        stack.enter_context(program)
        program.until_listening(port, 300)
        ask(around.tool, port, WARM)
        time.sleep(1)

        def window(seconds: float) -> Sample:
            collector.spans()
            before = set(folder.iterdir())
            pid = str(program.pid)
            subprocess.run([control, "-i", "on", pid], check=True, capture_output=True)
            count = ask(around.tool, port, round(A_SECOND * seconds))
            time.sleep(_REST)
            subprocess.run([control, "-d", pid], check=True, capture_output=True)
            subprocess.run([control, "-i", "off", pid], check=True, capture_output=True)
            found = sum(_total(each) for each in set(folder.iterdir()) - before)
            return Sample(
                {
                    "kilo": found / count / 1000,
                    "requests": count,
                    "spans": collector.spans() / count,
                }
            )

        return window

    return start


def _total(dump: Path) -> int:
    return next(
        (int(line.split()[1]) for line in dump.read_text().splitlines() if line.startswith("totals:")),
        0,
    )


def _web(port: int) -> list[str]:
    return servers.uvicorn("web:app", port)


def _calls(kind: str) -> Callable[[int], list[str]]:
    return lambda port: ["python", "calls.py", kind, str(port)]


def _lane(name: str, title: str, opened: Opening) -> Lane:
    return Lane(
        f"instructions-{name}",
        "instructions",
        f"{title}: instructions",
        "thousand",
        "kilo",
        of("bare", "ours", "upstream"),
        opened,
        windows=1,
        once=True,
    )


_SERVICE = Lane(
    "instructions-service",
    "instructions",
    "service with a query and a call: instructions",
    "thousand",
    "kilo",
    SERVICE,
    opening(lambda port: servers.uvicorn("service:app", port), {}, "http/protobuf", ask_service, _called),
    service=True,
    windows=1,
    once=True,
)

LANES = (
    _lane("requests", "FastAPI request, traces at 1 %", opening(_web, SOME, "http/protobuf", ask_http)),
    _lane("requests-all", "FastAPI request, traces at 100 %", opening(_web, ALL, "http/protobuf", ask_http)),
    _lane("requests-all-grpc", "the same over OTLP/gRPC", opening(_web, ALL, "grpc", ask_http)),
    _lane("grpc-aio", "grpc.aio call, traces at 1 %", opening(_calls("aio"), SOME, "http/protobuf", load.calls)),
    _lane("grpc-aio-all", "grpc.aio call, traces at 100 %", opening(_calls("aio"), ALL, "http/protobuf", load.calls)),
    _lane("grpc-sync", "sync gRPC call, traces at 1 %", opening(_calls("sync"), SOME, "http/protobuf", load.calls)),
    _lane(
        "grpc-sync-all", "sync gRPC call, traces at 100 %", opening(_calls("sync"), ALL, "http/protobuf", load.calls)
    ),
    _SERVICE,
)
