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
from benchmarks.lanes.cases import ALL, SOME, of
from benchmarks.samples import Case, Lane, Opening, Sample, Surroundings, Window
from benchmarks.venvs import PEERS

WARM, A_SECOND = 200, 400
_REST = 5.0
"""Seconds without requests that are counted as well: a batch waits one second, and is then encoded slowly."""

_REQUEST = b"GET /items/5 HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: wrk/4.2.0\r\nAccept: */*\r\n\r\n"
Ask = Callable[[Path, int, int], None]
"""Asks a server on a port for so many answers, with the Python of the load."""


def ask_http(tool: Path, port: int, count: int) -> None:
    """Ask the web app on eight connections. Raises RuntimeError where an answer is no 200."""
    connections = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(load.CONNECTIONS)]
    try:
        for _ in range(0, count, len(connections)):
            for each in connections:
                each.sendall(_REQUEST)
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


def opening(command: Callable[[int], list[str]], chosen: Mapping[str, str], protocol: str, ask: Ask) -> Opening:
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
        variables = {**collector.variables(protocol), **chosen, **case.variables}
        python = around.pythons[case.peer]
        program = servers.program(PEERS[case.peer], python, command(port), variables, before=counting)
        stack.enter_context(program)
        program.until_listening(port, 300)
        ask(around.tool, port, WARM)
        time.sleep(1)

        def window(seconds: float) -> Sample:
            count = round(A_SECOND * seconds)
            collector.spans()
            before = set(folder.iterdir())
            pid = str(program.pid)
            subprocess.run([control, "-i", "on", pid], check=True, capture_output=True)
            ask(around.tool, port, count)
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
)
