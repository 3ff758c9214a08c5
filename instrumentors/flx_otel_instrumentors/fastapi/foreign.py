"""Tell whether others observe an app already, so that we step aside and nothing is doubled.

Others are upstream's ASGI middleware, put into the stack by `FastAPIInstrumentor` or by hand or
around the app, and FastAPI's native telemetry where the app gave it providers of its own. The stack
itself is looked at, not only upstream's flag: the flag is also set where upstream came too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import trace

from flx_otel_distro.contexts import current
from flx_otel_instrumentors.fastapi.asgi import Scope, Send

UPSTREAM = ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware")
_CACHE = "_flx_foreign"


def is_upstream(cls: type) -> bool:
    """Return whether `cls` is upstream's ASGI middleware or derived from it; imports nothing."""
    return any((each.__module__, each.__name__) == UPSTREAM for each in cls.__mro__)


def in_stack(stack: object, wanted: Callable[[type], bool]) -> bool:
    """Return whether a middleware of a wanted class is in `stack`, following each one's `app`."""
    seen: set[int] = set()
    while stack is not None and id(stack) not in seen:
        seen.add(id(stack))
        if wanted(type(stack)):
            return True
        stack = getattr(stack, "app", None)
    return False


Look = tuple[object, bool, Callable[[Scope], object] | None]


def look(app: Any) -> Look:
    """Return the stack of `app`, a Starlette or FastAPI application, whether others observe it, and what it leaves out.

    The last is its own `FastAPI(telemetry={"exclude": …})`. The answer for a built stack is kept on the app.
    """
    own: dict[str, Any] = app.__dict__
    stack = own.get("middleware_stack")
    cached: Look | None = own.get(_CACHE)
    if cached is not None and cached[0] is stack:
        return cached
    native: dict[str, Any] = own.get("_telemetry") or {}
    observed = native.get("tracer_provider") is not None or native.get("meter_provider") is not None
    exclude = native.get("exclude")
    if stack is None:
        coming = any(is_upstream(each.cls) for each in own.get("user_middleware", ()) if isinstance(each.cls, type))
        return None, observed or coming or own.get("_is_instrumented_by_opentelemetry", False), exclude
    found = own[_CACHE] = (stack, observed or in_stack(stack, is_upstream), exclude)
    return found


def observed_by_others(app: Any) -> bool:
    """Return whether `app`, a Starlette or FastAPI application, is observed by others."""
    return look(app)[1]


def called_by_upstream(send: Send) -> bool:
    """Return whether an upstream ASGI middleware stands around the app and observes this request.

    Its `send` tells it, or the server span that is current.
    """
    if getattr(send, "__wrapped__", None) is not None:
        code = getattr(send, "__code__", None)
        if code is not None and code.co_name == "otel_send":
            return True
    context = current()
    if not context:
        return False
    span: Any = trace.get_current_span(context)
    scope: Any = getattr(span, "instrumentation_scope", None)
    return (
        scope is not None
        and span.is_recording()
        and getattr(span, "kind", None) is trace.SpanKind.SERVER
        and str(scope.name).startswith(("opentelemetry.instrumentation.asgi", "opentelemetry.instrumentation.fastapi"))
    )
