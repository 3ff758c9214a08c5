"""Processes on a core of their own, and what CPU they have taken."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.venvs import Peer

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
_TICK = 1 / os.sysconf("SC_CLK_TCK")


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


class Process:
    """A process on one core; killed with all its children at the end. A context manager."""

    def __init__(self, command: Sequence[str], env: dict[str, str], core: int, cwd: Path = PROGRAMS) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end; a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.close()

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
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found += int(line.split()[1])
        return found / 1024

    def tree(self) -> list[int]:
        """Return the process ids of the process and its descendants."""
        found, todo = list[int](), [self._process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*"):
                todo += [int(each) for each in (task / "children").read_text().split()]
        return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def web(peer: Peer, python: Path, port: int, variables: dict[str, str]) -> Process:
    """Start the web app as the peer would have it."""
    command = ["uvicorn", "web:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    return _program(peer, python, command, variables)


def calls(peer: Peer, python: Path, kind: str, port: int, variables: dict[str, str]) -> Process:
    """Start the gRPC server, `aio` or `sync`."""
    return _program(peer, python, ["python", "calls.py", kind, str(port)], variables)


def _program(peer: Peer, python: Path, command: list[str], variables: dict[str, str]) -> Process:
    env = environment(python, **{**variables, **peer.variables})
    if peer.needs_code:
        env["BENCHMARK_CODE"] = peer.needs_code
    full = [*peer.wrapper, *command]
    return Process([shutil.which(full[0], path=env["PATH"]) or full[0], *full[1:]], env, SERVER_CORE)


def sink(port: int) -> Process:
    """Start a collector that takes everything, on the load's core."""
    return Process([sys.executable, "sink.py", str(port)], dict(os.environ), LOAD_CORE)
