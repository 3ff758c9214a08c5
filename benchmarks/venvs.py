"""One virtual environment a peer, with pinned versions, made once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ("fastapi==0.165.0", "uvicorn==0.54.0", "httptools==0.9.0", "uvloop==0.23.0", "grpcio==1.85.1")
_OTEL = ("opentelemetry-exporter-otlp==1.45.2", "opentelemetry-exporter-prometheus==0.66b2")
_INSTRUMENTORS = ("opentelemetry-instrumentation-fastapi==0.66b2", "opentelemetry-instrumentation-grpc==0.66b2")

_UNPINNED = tuple(each.partition("==")[0] for each in _INSTRUMENTORS)  # a vendor's distribution says which


@dataclass(frozen=True)
class Peer:
    """Somebody whose cost is measured: what is installed, and what stands before the program's command.

    `variables` are set for the program beside the lane's; `needs_code` names the set-up in the program itself
    that stands for it, where the peer has no wrapper.
    """

    name: str
    title: str
    packages: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict[str, str])
    needs_code: str = ""


PEERS = {
    each.name: each
    for each in (
        Peer("bare", "no instrumentation"),
        Peer("ours", "flx-instrument", (f"{ROOT}[fastapi,grpc]",), ("flx-instrument",)),
        Peer(
            "upstream",
            "opentelemetry-instrument",
            ("opentelemetry-distro==0.66b2", *_OTEL, *_INSTRUMENTORS),
            ("opentelemetry-instrument",),
        ),
        Peer(
            "edot",
            "Elastic EDOT",
            ("elastic-opentelemetry==1.18.0", *_UNPINNED),
            ("opentelemetry-instrument",),
            {"ELASTIC_OTEL_SYSTEM_METRICS_ENABLED": "false", "OTEL_METRICS_EXPORTER": "none"},
        ),
        Peer("splunk", "Splunk", ("splunk-opentelemetry==2.13.2", *_UNPINNED), ("opentelemetry-instrument",)),
        Peer("logfire", "Logfire", ("logfire[fastapi]==5.2.0",), needs_code="logfire"),
        Peer("ddtrace", "ddtrace", ("ddtrace==4.16.0",), ("ddtrace-run",), {"DD_TRACE_STARTUP_LOGS": "false"}),
        Peer(
            "instrumentator",
            "prometheus-fastapi-instrumentator",
            ("prometheus-fastapi-instrumentator==8.1.0",),
            needs_code="instrumentator",
        ),
    )
}


class UnavailableError(Exception):
    """A peer that cannot be installed here."""


def interpreter(peer: Peer, where: Path) -> Path:
    """Return the Python of a peer's environment, made where it is not there. Raises UnavailableError."""
    if peer.name == "ours":
        wanted = f"{sys.version}{COMMON}{peer.packages}{(ROOT / 'pyproject.toml').read_text()}"
    else:
        wanted = f"{sys.version}{COMMON}{peer.packages}"
    home = where / f"{peer.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    editable = ("-e",) if peer.name == "ours" else ()
    uv = shutil.which("uv")
    if uv:
        steps = [
            [uv, "venv", "-q", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "-q", "--python", str(python), *COMMON, *editable, *peer.packages],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "-q", *COMMON, *editable, *peer.packages],
        ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env={**os.environ, "VIRTUAL_ENV": str(home)})
        if done.returncode:
            raise UnavailableError(
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "cannot be installed"
            )
    (home / "complete").touch()
    return python
