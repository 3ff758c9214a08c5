"""A memory control group for one program, cgroup v1 or v2, below the group this process is in."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class Group:
    """A group with a limit; removed at the end, when its processes have ended. A context manager."""

    def __init__(self, home: Path, unified: bool) -> None:
        self._home, self._unified = home, unified

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for _ in range(40):
            with contextlib.suppress(OSError):
                self._home.rmdir()
                return
            time.sleep(0.05)

    def enter(self) -> None:
        """Put the calling process and what it starts into the group."""
        (self._home / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, megabytes: float) -> None:
        """Let the group have so much memory; the kernel kills it where it takes more."""
        name = "memory.max" if self._unified else "memory.limit_in_bytes"
        (self._home / name).write_text(str(int(megabytes * 1_048_576)))
        swap = self._home / ("memory.swap.max" if self._unified else "memory.memsw.limit_in_bytes")
        with contextlib.suppress(OSError):
            swap.write_text("0" if self._unified else str(int(megabytes * 1_048_576)))

    def peak(self) -> float:
        """Return the most memory the group had so far in MB, files in the page cache included."""
        name = "memory.peak" if self._unified else "memory.max_usage_in_bytes"
        return int((self._home / name).read_text()) / 1_048_576

    def kills(self) -> int:
        """Return how many processes the kernel killed for want of memory."""
        events = self._home / ("memory.events" if self._unified else "memory.oom_control")
        words = events.read_text().split()
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


def group(name: str) -> Group | None:
    """Make a group, None where this process may not or the kernel has no memory controller."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        unified = not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        home = (_V2 if unified else _V1) / path.lstrip("/") / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
        with contextlib.suppress(OSError):
            home.mkdir()
            if (home / ("memory.max" if unified else "memory.limit_in_bytes")).exists():
                return Group(home, unified)
            home.rmdir()
    return None
