"""What is measured: each lane takes one sample of one peer; rounds of all peers are interleaved by the caller."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load, servers
from benchmarks.servers import free_port
from benchmarks.venvs import Peer

Sample = dict[str, float]
"""Figures by name: `cpu_us` is CPU microseconds a request, `wall_s` and `cpu_s` seconds, `pss_mb` megabytes."""

SOME = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.01",
    "DD_TRACE_SAMPLE_RATE": "0.01",
}
ALL = {"OTEL_TRACES_SAMPLER": "parentbased_always_on", "OTEL_TRACES_SAMPLER_ARG": "1", "DD_TRACE_SAMPLE_RATE": "1"}


@dataclass(frozen=True)
class Lane:
    """One kind of work. `peers` are those it makes sense for; `seconds` is how long a sample's load lasts."""

    name: str
    title: str
    unit: str
    figure: str
    peers: tuple[str, ...]
    sample: Callable[[Peer, Path, float], Sample]


def _variables(stack: ExitStack, chosen: dict[str, str]) -> tuple[dict[str, str], int]:
    """Return the variables of a program whose collector runs until the stack ends, and its metrics port."""
    collector, metrics = free_port(), free_port()
    stack.enter_context(servers.sink(collector)).until_listening(collector)
    return {
        "OTEL_SERVICE_NAME": "benchmark",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics),
        "DD_TRACE_AGENT_URL": f"http://127.0.0.1:{collector}",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        **chosen,
    }, metrics


def _settled(process: servers.Process) -> float:
    """Return the CPU seconds once the process has come to rest, so that what is sent late is counted."""
    last, since, deadline = process.cpu(), time.monotonic(), time.monotonic() + 8
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = process.cpu()
        if now - last > 0.011:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 1.0:
            break
    return process.cpu()


def _requests(chosen: dict[str, str]) -> Callable[[Peer, Path, float], Sample]:
    def sample(peer: Peer, python: Path, seconds: float) -> Sample:
        with ExitStack() as stack:
            port = free_port()
            variables, _ = _variables(stack, chosen)
            program = stack.enter_context(servers.web(peer, python, port, variables))
            program.until_listening(port)
            load.wrk(port, 1)
            before = _settled(program)
            answered = load.wrk(port, seconds)
            spent = _settled(program) - before
            return {
                "cpu_us": spent / answered.requests * 1e6,
                "p50_us": answered.p50,
                "p99_us": answered.p99,
                "p999_us": answered.p999,
                "requests": answered.requests,
            }

    return sample


def _calls(kind: str, chosen: dict[str, str]) -> Callable[[Peer, Path, float], Sample]:
    def sample(peer: Peer, python: Path, seconds: float) -> Sample:
        with ExitStack() as stack:
            port = free_port()
            variables, _ = _variables(stack, chosen)
            program = stack.enter_context(servers.calls(peer, python, kind, port, variables))
            program.until_listening(port)
            load.grpc(python, port, 1)
            before = _settled(program)
            answered = load.grpc(python, port, seconds)
            return {"cpu_us": (_settled(program) - before) / answered.requests * 1e6, "requests": answered.requests}

    return sample


def _startup(code: str) -> Callable[[Peer, Path, float], Sample]:
    def sample(peer: Peer, python: Path, seconds: float) -> Sample:
        env = servers.environment(python, OTEL_TRACES_EXPORTER="otlp", OTEL_METRICS_EXPORTER="prometheus")
        env |= {"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port()), **peer.variables}
        started = time.perf_counter()
        child = subprocess.Popen([*peer.wrapper, "python", "-c", code], env=env, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if child.returncode:
            raise RuntimeError(f"it ended with {child.returncode}")
        return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime}

    return sample


def _memory(peer: Peer, python: Path, seconds: float) -> Sample:
    with ExitStack() as stack:
        port = free_port()
        variables, metrics = _variables(stack, SOME)
        program = stack.enter_context(servers.web(peer, python, port, variables))
        program.until_listening(port)
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/items/5", timeout=10) as answer:
                answer.read()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
                answer.read()
        except OSError:
            pass  # not everyone has such an endpoint
        time.sleep(1)
        return {"pss_mb": program.pss()}


# Splunk's distribution starts here, but made no span of a FastAPI request: what it would cost is not known.
_EVERYONE = ("bare", "ours", "upstream", "edot", "logfire", "ddtrace")
_WRAPPERS = ("bare", "ours", "upstream", "edot", "splunk", "ddtrace")
_CALLS = ("bare", "ours", "upstream", "ddtrace")

_CPU = ("µs CPU", "cpu_us")
_WALL = ("s", "wall_s")
_EXPORTED = "traces at 100 %, exported"
_HTTP_PEERS = (*_EVERYONE, "instrumentator")

LANES = {
    each.name: each
    for each in (
        Lane("requests", "FastAPI request, metrics, traces at 1 %", *_CPU, _HTTP_PEERS, _requests(SOME)),
        Lane("requests-all", f"FastAPI request, {_EXPORTED}", *_CPU, _EVERYONE, _requests(ALL)),
        Lane("grpc-aio", "grpc.aio call, traces at 1 %", *_CPU, _CALLS, _calls("aio", SOME)),
        Lane("grpc-aio-all", f"grpc.aio call, {_EXPORTED}", *_CPU, _CALLS, _calls("aio", ALL)),
        Lane("grpc-sync", "sync gRPC call, traces at 1 %", *_CPU, _CALLS, _calls("sync", SOME)),
        Lane("grpc-sync-all", f"sync gRPC call, {_EXPORTED}", *_CPU, _CALLS, _calls("sync", ALL)),
        Lane("startup", "python -c pass", *_WALL, _WRAPPERS, _startup("pass")),
        Lane("startup-app", "import fastapi, uvicorn", *_WALL, _WRAPPERS, _startup("import fastapi, uvicorn")),
        Lane("memory", "idle FastAPI app", "MB PSS", "pss_mb", _EVERYONE, _memory),
    )
}
