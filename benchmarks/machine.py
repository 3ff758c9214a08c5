"""What a run was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from benchmarks.venvs import ROOT


def described() -> dict[str, str | int | float]:
    """Return processor, cores, memory, system, Python, load and the state of the sources."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always"], capture_output=True, text=True)
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": memory // 1024,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "sources": commit.stdout.strip(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
