"""Run a program under `flx-instrument`, as a user would, and read its endpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import eventually, free_port

BIN = Path(sys.executable).parent
FLX_INSTRUMENT = str(BIN / "flx-instrument")


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without any OpenTelemetry or FLX variable, with `variables` set."""
    foreign = ("OTEL_", "FLX_", "PROMETHEUS_", "PYTHON", "COV")
    env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', '')}"
    return {**env, **variables}


class Program:
    """A program under `flx-instrument`, with a metrics port of its own. A context manager that kills it."""

    def __init__(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (FLX_INSTRUMENT,),
    ) -> None:
        self.metrics_port = int((env or {}).get("OTEL_EXPORTER_PROMETHEUS_PORT", 0)) or free_port()
        variables = {"OTEL_EXPORTER_PROMETHEUS_PORT": str(self.metrics_port), "OTEL_TRACES_EXPORTER": "none"}
        self.process = subprocess.Popen(
            [*wrapper, *command],
            cwd=cwd,
            env=clean_environment(**{**variables, **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.stdout = self.stderr = ""
        self._finished = False

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.finish()
        if error is not None:
            error.add_note(f"stdout:\n{self.stdout}\nstderr:\n{self.stderr}")

    def finish(self, seconds: float = 30.0) -> int:
        """Wait for the end of the program; return its exit code, with stdout and stderr kept."""
        if self._finished:
            return self.process.returncode
        out, err = self.process.communicate(timeout=seconds)
        self._finished = True
        self.stdout += out.decode(errors="replace")
        self.stderr += err.decode(errors="replace")
        return self.process.returncode

    def terminate(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.process.send_signal(number)
        return self.finish(seconds)

    def scrape(self) -> str:
        """Return the text of the metrics endpoint."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the samples called `name` by their sorted labels, from one scrape."""
        return samples(self.scrape(), name)

    def await_sample(self, name: str, seconds: float = 20.0, **labels: str) -> float:
        """Return the first sample called `name` whose labels include `labels`, waiting for it."""

        def ask() -> list[float]:
            return [v for key, v in self.samples(name).items() if labels.items() <= dict(key).items()]

        return eventually(f"{name}{labels}", ask, seconds)[0]


def samples(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples called `name` in Prometheus text, by their sorted labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }
