"""Run commands bare and under each of the ways that start the distro."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import BIN, FLX_INSTRUMENT, clean_environment

Run = Callable[..., subprocess.CompletedProcess[bytes]]

ALONE = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
}
"""Starts the SDK without a port, a collector or an instrumentor."""

OBSERVED = "import opentelemetry.trace as t; print(type(t.get_tracer_provider()).__module__)"
"""Prints `opentelemetry.sdk.trace` where the distro has started."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a command in an empty folder, under `flx-instrument` unless told otherwise."""

    def run_command(
        *command: str,
        wrapper: Sequence[str] = (FLX_INSTRUMENT,),
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        if "input" not in kwargs:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*wrapper, *command],
            cwd=cwd or tmp_path,
            env=clean_environment(**{**ALONE, **(env or {})}),
            capture_output=True,
            timeout=60,
            check=False,
            **kwargs,
        )

    return run_command


@pytest.fixture
def python() -> str:
    """Return the interpreter the package is installed for."""
    return sys.executable


@pytest.fixture
def bin_folder() -> Path:
    return BIN
