"""How long a program takes to start and end: the interpreter alone, and one that imports a web framework."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack

from benchmarks import servers
from benchmarks.lanes.cases import WRAPPERS, of
from benchmarks.samples import Case, Lane, Opening, Sample, Surroundings, Window
from benchmarks.venvs import PEERS


def opening(code: str) -> Opening:
    """Return what runs `python -c CODE` under the peer's wrapper, once beforehand for the page cache."""

    def start(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        peer, python = PEERS[case.peer], around.pythons[case.peer]
        variables = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(servers.free_port()),
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        }
        env = servers.environment(python, **{**variables, **peer.variables})
        command = [*peer.wrapper, "python", "-c", code]
        program = shutil.which(command[0], path=env["PATH"]) or command[0]

        def window(seconds: float) -> Sample:
            started = time.perf_counter()
            child = subprocess.Popen(
                [program, *command[1:]],
                env=env,
                cwd=servers.PROGRAMS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=lambda: servers.begin(servers.SERVER_CORE),
            )
            try:
                _, status, used = os.wait4(child.pid, 0)
            except BaseException:
                child.kill()
                raise
            child.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - started
            if child.returncode:
                raise RuntimeError(f"it ended with {child.returncode}")
            return Sample({"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime})

        window(0)
        return window

    return start


def _lane(name: str, title: str, code: str) -> Lane:
    return Lane(name, "startup", title, "s", "wall_s", of(*WRAPPERS), opening(code), windows=7)


LANES = (
    _lane("startup", "python -c pass", "pass"),
    _lane("startup-app", "import fastapi, uvicorn", "import fastapi, uvicorn"),
)
