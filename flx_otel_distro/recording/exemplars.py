"""Whether a measurement may become an exemplar: the SDK's filters, asked without a measurement.

The trace-based filter, the default, looks at nothing but the context's span; for the spans that the SDK
makes, their flags are read in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opentelemetry.context as context_api
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, AlwaysOnExemplarFilter, TraceBasedExemplarFilter
from opentelemetry.sdk.trace import _Span
from opentelemetry.trace import NonRecordingSpan
from opentelemetry.trace.propagation import _SPAN_KEY

from flx_otel_distro.recording.kinds import kind_of

SPAN_KEY = _SPAN_KEY

NEVER, TRACED, ALWAYS = 0, 1, 2
"""The SDK's exemplar filters; any other is not ours to foresee."""

_MODES: dict[type, int] = {
    AlwaysOffExemplarFilter: NEVER,
    TraceBasedExemplarFilter: TRACED,
    AlwaysOnExemplarFilter: ALWAYS,
}
_filter = TraceBasedExemplarFilter()


def mode_of(exemplar_filter: object) -> int | None:
    """Return which of the SDK's own filters this is, or None for any other, subclasses included."""
    return _MODES.get(type(exemplar_filter))


def _current() -> Callable[[], Context]:
    runtime: Any = context_api._RUNTIME_CONTEXT
    if type(runtime) is ContextVarsRuntimeContext:
        return runtime._current_context.get  # what get_current() comes to, two calls shorter
    return context_api.get_current


current = _current()
"""Return the current context."""


def sampled(span: Any, context: Context) -> bool:
    """Return what the trace-based filter says of `context`, in which `span` was found."""
    kind = kind_of(span)
    if kind is _Span or kind is NonRecordingSpan:
        return span._context.trace_flags & 1 == 1
    return _filter.should_sample(0, 0, None, context)
