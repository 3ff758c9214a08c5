"""A span that is not sampled: ids for logs and outgoing calls, drawn when somebody asks for them.

Most requests of a service that samples are asked for theirs by nobody. What decides about a trace, the
lower half of its id, is drawn first; the rest of the id and the id of the span come later or never.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from flx_otel_distro.contexts import SPAN_KEY, current

FLAGS = tuple(map(TraceFlags, range(4)))
SAMPLED, RANDOM = 1, 2
NO_STATE = TraceState()

make: Any = vars(tuple)["__new__"]
"""What SpanContext itself ends in, its checks left out."""


class Unsampled(NonRecordingSpan):
    """What the SDK's `NonRecordingSpan` of an unsampled decision is. Thread-safe: all see the same ids.

    A fork asks for the ids of what is current, so that parent and child agree about them.
    """

    __slots__ = ("_above", "_bits", "_low")

    _bits: Callable[[int], int]
    _low: int
    _above: SpanContext | None

    @property
    def _context(self) -> SpanContext:  # pyright: ignore[reportIncompatibleVariableOverride] - set in the base
        return self.__dict__.get("ids") or self._drawn()

    def _drawn(self) -> SpanContext:
        above, bits = self._above, self._bits
        span_id = bits(64) or 1
        if above is None:
            trace_id, flags, state = bits(64) << 64 | self._low or 1, RANDOM, NO_STATE
        else:
            trace_id, flags, state = above[0], above[3] & RANDOM, above[4] or NO_STATE
        ids = make(SpanContext, (trace_id, span_id, False, FLAGS[flags], state, True))
        mine: dict[str, SpanContext] = vars(self)
        return mine.setdefault("ids", ids)  # the first thread wins

    def get_span_context(self) -> SpanContext:
        """Return the ids."""
        return self.__dict__.get("ids") or self._drawn()

    def __reduce__(self) -> Any:
        return NonRecordingSpan, (self._context,)


_new: Any = object.__new__


def unsampled(bits: Callable[[int], int], low: int, above: SpanContext | None = None) -> Unsampled:
    """Return a span that continues the trace of `above`, or begins one whose id ends in the 64 bits `low`.

    `bits` draws a number of so many random bits. It is cheaper to fill a new object than to have it fill itself.
    """
    span: Unsampled = _new(Unsampled)
    span._bits = bits
    span._low = low
    span._above = above
    return span


def _before_fork() -> None:
    span: Any = current().get(SPAN_KEY)
    if type(span) is Unsampled:
        span.get_span_context()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
