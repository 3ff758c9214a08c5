"""Processes on a core of their own, and what CPU they have taken."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from benchmarks.limits import Group
from benchmarks.venvs import Peer

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(python: Path, **variables: str) -> dict[str, str]:
    """Return this process's environment without telemetry's variables, with the environment of `python` first."""
    foreign = ("OTEL_", "FLX_", "DD_", "PYTHON", "VIRTUAL_ENV", "PROMETHEUS_", "ELASTIC_", "SPLUNK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', '')}", **variables}


def begin(core: int, group: Group | None = None) -> None:
    """Make a fresh child what a measured process is: on one core, in a group, and dead when the benchmark dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.sched_setaffinity(0, {core})
    if group is not None:
        group.enter()


class Process:
    """A process on one core; killed with all its children at the end. A context manager."""

    def __init__(
        self,
        command: Sequence[str],
        env: dict[str, str],
        core: int,
        cwd: Path = PROGRAMS,
        group: Group | None = None,
    ) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end; a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
            preexec_fn=lambda: begin(core, group),
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for pid in reversed(self.tree()) if self.runs() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._said.close()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def runs(self) -> bool:
        """Tell whether the process has not ended."""
        return self._process.poll() is None

    def until_listening(self, port: int, seconds: float = 60.0) -> None:
        """Wait until `port` takes connections. Raises RuntimeError with the process's last words."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        self._process.kill()
        self._said.seek(0)
        raise RuntimeError(f"it does not serve: {self._said.read().decode(errors='replace').strip()[-300:]}")

    def cpu(self) -> float:
        """Return the CPU seconds of the process and all its children so far, all their threads."""
        return sum(_cpu(pid) for pid in self.tree())

    def pss(self) -> float:
        """Return the memory of the process and its children in MB, shared pages shared out."""
        found = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found += _pss(pid)
        return found / 1024

    def tree(self) -> list[int]:
        """Return the process ids of the process and its descendants."""
        found, todo = list[int](), [self._process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):  # the thread ended meanwhile
                    todo += [int(each) for each in (task / "children").read_text().split()]
        return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile; its parent's fields 13 and 14 have it
        return 0.0
    return sum(int(each) for each in fields[11:15]) * _TICK


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def program(
    peer: Peer,
    python: Path,
    command: Sequence[str],
    variables: Mapping[str, str],
    group: Group | None = None,
    before: Sequence[str] = (),
) -> Process:
    """Start a program on the server's core as the peer would have it observed; `before` is put before all of it."""
    env = environment(python, **{**variables, **peer.variables})
    if peer.needs_code:
        env["BENCHMARK_CODE"] = peer.needs_code
    full = [*peer.wrapper, *command]
    full = [*before, shutil.which(full[0], path=env["PATH"]) or full[0], *full[1:]]
    return Process(full, env, SERVER_CORE, group=group)


def uvicorn(app: str, port: int) -> list[str]:
    """Return the command that serves an app with one worker."""
    return ["uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]


def settled(process: Process, calm: float, limit: float = 8.0) -> float:
    """Return the CPU seconds once the process has been at rest for `calm` seconds, so that what is sent late counts."""
    last, since, deadline = process.cpu(), time.monotonic(), time.monotonic() + limit
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = process.cpu()
        if now - last > 0.011:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= calm:
            break
    return process.cpu()


def called(python: Path, stack: ExitStack) -> str:
    """Start the process that the realistic service calls, on the load's core; return its address."""
    port = free_port()
    beside = stack.enter_context(Process([str(python), "other.py", str(port)], environment(python), LOAD_CORE))
    beside.until_listening(port)
    return f"http://127.0.0.1:{port}"


class Collector:
    """A sink for everything that is sent, on the load's core. Listens while `stack` is open."""

    def __init__(self, python: Path, stack: ExitStack) -> None:
        self.http, self.grpc = free_port(), free_port()
        command = [str(python), "sink.py", str(self.http), str(self.grpc)]
        sink = stack.enter_context(Process(command, environment(python), LOAD_CORE))
        sink.until_listening(self.http)

    def spans(self) -> int:
        """Return how many spans came since this was asked last."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/spans", timeout=30) as answer:
            return int(answer.read())

    def variables(self, protocol: str = "http/protobuf") -> dict[str, str]:
        """Return what a program needs to send to this collector, and to serve its metrics on a port of its own."""
        return sending_to(f"http://127.0.0.1:{self.grpc if protocol == 'grpc' else self.http}", protocol)


def sending_to(endpoint: str, protocol: str) -> dict[str, str]:
    """Return the variables of a program that exports to an endpoint and serves metrics on a free port.

    A batch waits for one second instead of five, for everyone alike, so that what a window's requests cause is sent
    within it.
    """
    return {
        "OTEL_SERVICE_NAME": "benchmark",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port()),
        "DD_TRACE_AGENT_URL": endpoint,
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    }
