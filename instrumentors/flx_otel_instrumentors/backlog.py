"""Recordings put off: a call leaves a number, and the aggregations are reached for many of them at once.

A histogram's aggregation lies far from what a call has just touched, and fetching it costs more than the
addition; for the numbers of many calls it is fetched once. They are recorded before a reader collects, since
collecting asks observable instruments first, and ours has nothing of its own to say. So no reader sees less
than without. What needs the moment of the call is recorded at once: only the recording of a call that is not
sampled is put off, and only where the exemplar filter takes none of those.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.trace import INVALID_SPAN

from flx_otel_distro.contexts import with_span
from flx_otel_distro.guard import fault
from flx_otel_distro.recording import bind
from flx_otel_distro.recording.exemplars import ALWAYS
from flx_otel_distro.recording.routes import NOWHERE

MOST = 64
"""Numbers of one meter that wait."""

_UNSAMPLED = with_span(Context(), INVALID_SPAN)
"""Not empty, or a histogram would look at what is current where the numbers are recorded."""


class Backlog:
    """What waits to be recorded in the histograms of one meter. Thread-safe; a forked child starts with none."""

    __slots__ = ("__weakref__", "_queue")

    def __init__(self, meter: Meter, name: str) -> None:
        """Have the readers of `meter` record first; `name` is that of an instrument without measurements."""
        self._queue: deque[tuple[Any, Any]] = deque()
        _all.add(self)
        meter.create_observable_gauge(name, [self._collected], "1", "Has no measurements.")

    def add(self, bound: Any, amount: Any) -> None:
        """Have `bound.record(amount, context)` called, for a call that is not sampled: before it is collected.

        `bound` is a bound histogram, or several of them with an amount for each.
        """
        queue = self._queue
        queue.append((bound, amount))
        if len(queue) >= MOST:
            self.settle()

    def settle(self) -> None:
        """Record all that waits. Never raises."""
        queue = self._queue
        while queue:
            try:
                bound, amount = queue.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                bound.record(amount, _UNSAMPLED)
            except Exception as problem:  # noqa: BLE001 - ours
                fault("recording what was put off", problem)

    def forget(self) -> None:
        """Drop all that waits: where this process was forked, its parent records it."""
        self._queue.clear()

    def _collected(self, _: CallbackOptions) -> Iterable[Observation]:
        self.settle()
        return ()


class Series:
    """Histograms bound to the same attributes; what goes into the first may be put off."""

    __slots__ = ("_backlog", "_may_wait", "bound")

    def __init__(self, backlog: Backlog, histograms: Sequence[Histogram], attributes: Mapping[str, Any]) -> None:
        self.bound = [bind(each, attributes) for each in histograms]
        self._backlog = backlog
        self._may_wait = False

    def record(self, amount: float, context: Context | None) -> None:
        """Record in the first histogram, at once."""
        first = self.bound[0]
        first.record(amount, context)
        if not self._may_wait:  # the recording may just have found a way that lasts
            route: Any = getattr(first, "_route", NOWHERE)
            self._may_wait = route is not NOWHERE and route.mode != ALWAYS

    def record_unsampled(self, amount: float, context: Context | None) -> None:
        """Record in the first histogram for a call that is not sampled, which leaves no exemplar."""
        if self._may_wait:
            self._backlog.add(self.bound[0], amount)
        else:
            self.record(amount, context)


_all: weakref.WeakSet[Backlog] = weakref.WeakSet()


def _forked() -> None:
    for each in list(_all):
        each.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
