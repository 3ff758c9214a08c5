"""Load from the other core: wrk for HTTP, an asyncio client for gRPC, a constant rate of arrivals for the service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import HERE, LOAD_CORE, PROGRAMS, begin, environment

CONNECTIONS = 8


@dataclass(frozen=True)
class Answered:
    """Requests answered and, for HTTP, the latency in microseconds at three percentiles."""

    requests: int
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


def wrk(port: int, seconds: float) -> Answered:
    """Ask the web app as fast as it answers. Raises RuntimeError where wrk is absent or an answer is no 200."""
    path = shutil.which("wrk")
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], capture_output=True)
        path = shutil.which("wrk")
    if path is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    url = f"http://127.0.0.1:{port}/items/5"
    threads = ["-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s"]
    out = _run([path, *threads, "-s", str(HERE / "latency.lua"), url], None)
    result = next(line for line in out.splitlines() if line.startswith("RESULT")).split()
    requests, errors, *latency = (int(each) for each in result[1:])
    if errors or not requests:
        raise RuntimeError(f"{errors} of {requests} answers were no 200")
    return Answered(requests, *(float(each) for each in latency))


def grpc(python: Path, port: int, seconds: float) -> Answered:
    """Call the gRPC server as fast as it answers, eight calls at a time, from the environment of `python`."""
    return Answered(int(_run([str(python), "caller.py", str(port), str(seconds)], environment(python))))


def calls(python: Path, port: int, count: int) -> int:
    """Call the gRPC server so many times, eight at a time, from the environment of `python`; return how many times."""
    return int(_run([str(python), "caller.py", str(port), "0", str(count)], environment(python)))


def arrivals(python: Path, port: int, rate: float, seconds: float, path: str) -> list[int]:
    """Ask at a constant rate; return the latency of each request in microseconds, from when it was due."""
    found: list[int] = json.loads(_run([str(python), "arrivals.py", str(port), str(rate), str(seconds), path], None))
    return found


def _run(command: list[str], env: dict[str, str] | None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        cwd=PROGRAMS,
        preexec_fn=lambda: begin(LOAD_CORE),
    )
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr.strip()[-300:]}")
    return done.stdout
