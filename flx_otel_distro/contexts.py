"""The current context, read and set without the calls between us and the context variable.

Where the runtime context is not the API's own, its functions are used. All of it is as safe from
threads and tasks as context variables are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from typing import Any

import opentelemetry.context as api
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import Span
from opentelemetry.trace.propagation import _SPAN_KEY

SPAN_KEY = _SPAN_KEY
"""Under which a context holds its span."""

_runtime: Any = api._RUNTIME_CONTEXT
_variable: Any = _runtime._current_context if type(_runtime) is ContextVarsRuntimeContext else None

current: Callable[[], Context] = api.get_current if _variable is None else _variable.get
"""Return the current context."""

attach: Callable[[Context], Token[Context]] = api.attach if _variable is None else _variable.set
"""Make a context current; `detach` takes the token."""


def detach(token: Token[Context]) -> None:
    """Make the context before `attach` current again; logs, as the API does, where that was elsewhere."""
    if _variable is not None:
        try:
            _variable.reset(token)
            return
        except (ValueError, RuntimeError):
            pass
    api.detach(token)


reset: Callable[[Token[Context]], None] = api.detach if _variable is None else _variable.reset
"""Do what `detach` does, without a call between; raises ValueError or RuntimeError where that was elsewhere."""


def with_span(context: Context, span: Span) -> Context:
    """Return a context like `context` with `span` as its span."""
    return Context({**context, SPAN_KEY: span} if context else {SPAN_KEY: span})
