"""One virtual environment a peer, with pinned versions, made once and kept.

Ours holds a wheel of this checkout, built anew whenever a source file differs, so that a run measures one state of
the sources and starts up as an installed wheel does. Environments of ours that nobody used for a day are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("flx_otel_distro", "configurators", "instrumentors", "flx_observability")
COMMON = ("fastapi==0.165.0", "uvicorn==0.54.0", "httptools==0.9.0", "uvloop==0.23.0", "grpcio==1.85.1")
SERVICE = ("aiosqlite==0.22.1", "httpx==0.28.1")
_KEPT_SECONDS = 86_400

_OTEL = ("opentelemetry-exporter-otlp==1.45.2", "opentelemetry-exporter-prometheus==0.66b2")
_INSTRUMENTORS = ("opentelemetry-instrumentation-fastapi==0.66b2", "opentelemetry-instrumentation-grpc==0.66b2")
_HTTPX = ("opentelemetry-instrumentation-httpx==0.66b2",)
_UNPINNED = tuple(each.partition("==")[0] for each in _INSTRUMENTORS)  # a vendor's distribution says which


@dataclass(frozen=True)
class Peer:
    """Somebody whose cost is measured: what is installed, and what stands before the program's command.

    `service` is installed besides for the realistic service. `variables` are set for the program beside the lane's;
    `needs_code` names the set-up in the program itself that stands for a wrapper, where the peer has none.
    """

    name: str
    title: str
    packages: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict[str, str])
    needs_code: str = ""
    service: tuple[str, ...] = ()


PEERS = {
    each.name: each
    for each in (
        Peer("bare", "no instrumentation"),
        Peer("ours", "flx-instrument", (f"{ROOT}[fastapi,grpc]",), ("flx-instrument",), service=_HTTPX),
        Peer(
            "upstream",
            "opentelemetry-instrument",
            ("opentelemetry-distro==0.66b2", *_OTEL, *_INSTRUMENTORS),
            ("opentelemetry-instrument",),
            service=_HTTPX,
        ),
        Peer(
            "edot",
            "Elastic EDOT",
            ("elastic-opentelemetry==1.18.0", "opentelemetry-exporter-prometheus", *_UNPINNED),
            ("opentelemetry-instrument",),
            {"ELASTIC_OTEL_SYSTEM_METRICS_ENABLED": "false"},
        ),
        Peer(
            "splunk",
            "Splunk",
            ("splunk-opentelemetry==2.13.2", "opentelemetry-exporter-prometheus", *_UNPINNED),
            ("opentelemetry-instrument",),
        ),
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


def interpreter(peer: Peer, where: Path, service: bool = False) -> Path:
    """Return the Python of a peer's environment, made where it is not there. Raises UnavailableError.

    `service` asks for the environment of the realistic service. Runs that make the same one wait for each other.
    """
    packages = (*COMMON, *peer.packages, *((*SERVICE, *peer.service) if service else ()))
    told = hashlib.sha256(f"{sys.version}{packages}".encode())
    if peer.name == "ours":
        told.update(_sources())
    kind = f"{peer.name}-service" if service else peer.name
    home = where / f"{kind}-{told.hexdigest()[:12]}"
    python = home / "bin" / "python"
    where.mkdir(parents=True, exist_ok=True)
    with (where / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _make(home, python, packages)
        (home / "complete").touch()
        if peer.name == "ours":
            _forget_old(where, kind)
    return python


def _make(home: Path, python: Path, packages: tuple[str, ...]) -> None:
    uv = shutil.which("uv")
    if uv:
        fresh = ("--compile-bytecode", "--reinstall-package", "flx-otel-distro")
        steps = [
            [uv, "venv", "-q", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "-q", *fresh, "--python", str(python), *packages],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "-q", *packages],
        ]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env={**environ, "VIRTUAL_ENV": str(home)})
        if done.returncode:
            said = [line for line in (each.strip(" ╰─▶│") for each in done.stderr.splitlines()) if line]  # uv's frame
            raise UnavailableError(said[-1] if said else "cannot be installed")


def _sources() -> bytes:
    """Return a digest of everything the wheel is made of."""
    told = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                told.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return told.digest()


def _forget_old(where: Path, kind: str) -> None:
    for home in where.glob(f"{kind}-*"):
        stamp = home / "complete"
        last = stamp.stat().st_mtime if stamp.exists() else home.stat().st_mtime
        if home.name.count("-") == kind.count("-") + 1 and time.time() - last > _KEPT_SECONDS:
            shutil.rmtree(home, ignore_errors=True)


_ASK = """
import importlib.metadata, json
print(json.dumps({each.name: each.version for each in importlib.metadata.distributions()}))
"""


def versions(python: Path) -> dict[str, str]:
    """Return the versions of all distributions of an environment by name."""
    done = subprocess.run([str(python), "-c", _ASK], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return dict(sorted(found.items(), key=lambda each: each[0].lower()))
