"""A span that is not sampled: ids for logs and outgoing calls, drawn when somebody asks for them.

Most requests of a service that samples are asked for theirs by nobody. Whether a trace is sampled is drawn first;
its id, of those that are not sampled, and the id of the span come later or never.
"""

from __future__ import annotations

import os
from typing import Any

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from flx_otel_distro.contexts import SPAN_KEY, current
from flx_otel_distro.ids import FlxIdGenerator

FLAGS = tuple(map(TraceFlags, range(4)))
SAMPLED, RANDOM = 1, 2
_HALF = 1 << 64
NO_STATE = TraceState()

make: Any = vars(tuple)["__new__"]
"""What SpanContext itself ends in, its checks left out."""


class Unsampled(NonRecordingSpan):
    """What the SDK's `NonRecordingSpan` of an unsampled decision is. Thread-safe: all see the same ids.

    A fork asks for the ids of the current span, so that parent and child agree about them; of another span whose ids
    nobody had asked for, each then draws its own.
    """

    __slots__ = ("_above", "_bound", "_ids")

    _ids: FlxIdGenerator
    _bound: int
    _above: SpanContext | None

    @property
    def _context(self) -> SpanContext:  # pyright: ignore[reportIncompatibleVariableOverride] - set in the base
        return self.__dict__.get("ids") or self._drawn()

    def _drawn(self) -> SpanContext:
        above, ids = self._above, self._ids
        if above is None:
            low = ids.between(self._bound, _HALF)  # what a sampler by ratio looks at, and does not sample
            trace_id, flags, state = ids.bits(64) << 64 | low or 1, RANDOM, NO_STATE
        else:
            trace_id, flags, state = above[0], above[3] & RANDOM, above[4] or NO_STATE
        made = make(SpanContext, (trace_id, ids.bits(64) or 1, False, FLAGS[flags], state, True))
        mine: dict[str, SpanContext] = vars(self)
        return mine.setdefault("ids", made)  # the first thread wins

    def __reduce__(self) -> Any:
        return NonRecordingSpan, (self._context,)


_new: Any = object.__new__


def unsampled(ids: FlxIdGenerator, bound: int, above: SpanContext | None = None) -> Unsampled:
    """Return a span that continues the trace of `above`, or begins one.

    The lower half of a new trace's id will not be below `bound`, as of one that is sampled. It is cheaper to fill a
    new object than to have it fill itself.
    """
    span: Unsampled = _new(Unsampled)
    span._ids = ids
    span._bound = bound
    span._above = above
    return span


def _before_fork() -> None:
    span: Any = current().get(SPAN_KEY)
    if type(span) is Unsampled:
        span.get_span_context()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
