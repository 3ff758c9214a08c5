"""What an idle FastAPI app holds after a few requests and a scrape."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from contextlib import ExitStack

from benchmarks import servers
from benchmarks.lanes.cases import EVERYONE, SOME, of
from benchmarks.samples import Case, Lane, Sample, Surroundings, Window
from benchmarks.venvs import PEERS


def _opening(case: Case, around: Surroundings, stack: ExitStack) -> Window:
    def window(seconds: float) -> Sample:
        with ExitStack() as inner:
            port = servers.free_port()
            variables = {**servers.Collector(around.tool, inner).variables(), **SOME}
            command = servers.uvicorn("web:app", port)
            python = around.pythons[case.peer]
            program = inner.enter_context(servers.program(PEERS[case.peer], python, command, variables))
            program.until_listening(port)
            for _ in range(20):
                read(port, "/items/5")
            with contextlib.suppress(OSError):  # not everyone has such an endpoint
                read(int(variables["OTEL_EXPORTER_PROMETHEUS_PORT"]), "/metrics")
            time.sleep(1)
            return Sample({"pss_mb": program.pss()})

    return window


def read(port: int, path: str) -> bytes:
    """Return what a local server answers. Raises OSError."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return bytes(answer.read())


LANES = (Lane("memory", "memory", "idle FastAPI app", "MB PSS", "pss_mb", of(*EVERYONE), _opening, windows=1),)
