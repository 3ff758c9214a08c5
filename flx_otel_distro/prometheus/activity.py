"""Tell the metrics endpoint that this process does work worth scraping.

Supervisors (a gunicorn arbiter, uvicorn's parent, multiprocessing's helpers) never do, so they never
take the port from the process that does. Instrumentors call `serving()` when a server is set up; the
reader calls it at the first measurement.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def on_serving(listener: Callable[[], None]) -> None:
    """Call `listener` at every `serving()`; it must be cheap, thread-safe and never raise."""
    if listener not in _listeners:
        _listeners.append(listener)


def serving() -> None:
    """Say that this process serves or records. Cheap; safe from any thread and after a fork."""
    for listener in _listeners:
        listener()
