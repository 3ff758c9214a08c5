"""Entry points, with the installed distributions read once.

`importlib.metadata` opens every distribution's files at each question. The answer is kept while we start and
dropped by `forget()`; what is asked later is read anew. Thread-safe.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

_read: Any = None


def entries(group: str, name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of a group, those of `name` where one is given."""
    found: Any = _read
    if found is None:
        found = entry_points()
    chosen = found.select(group=group) if name is None else found.select(group=group, name=name)
    return list(chosen)


def remember() -> None:
    """Read all that is installed, and answer from that until `forget()`."""
    global _read
    _read = entry_points()


def forget() -> None:
    """Drop what was read."""
    global _read
    _read = None
