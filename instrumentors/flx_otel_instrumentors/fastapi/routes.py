"""Learn the route of a request at the moment the framework selects it.

Starlette and FastAPI tell of the selected route in several ways, by version: `scope["route"]` is
absent, or lacks the prefix of `include_router`, or is written into a copy of the scope made by a
middleware; a mount leaves only the concrete path behind, which an outsider controls. All of them
call `route.handle(scope, …)`, so that is where we look: the route's own template, behind the
templates of the mounts passed so far. Matching is not done a second time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from flx_otel_distro.guard import fault
from flx_otel_instrumentors.fastapi.asgi import OBSERVED, PREFIX, Observed, Receive, Scope, Send

Handle = Callable[[Any, Scope, Receive, Send], Awaitable[None]]
Template = Callable[[Any, Scope], str | None]

_undo: list[tuple[type, Handle, Handle]] = []
_kept = False


def _path(route: Any, scope: Scope) -> str | None:
    """Return the template of a leaf route; the one with the prefix where a router was included."""
    fastapi_scope = scope.get("fastapi")
    if fastapi_scope is not None:
        context = fastapi_scope.get("effective_route_context")
        if context is not None and context.original_route is route:
            return context.path_format or None
    return route.path_format


def _frontend(route: Any, scope: Scope) -> str | None:
    """Return the template of a group of static front ends (newer FastAPI), which match by prefix."""
    fastapi_scope: dict[str, Any] = scope.get("fastapi") or {}
    context: Any = fastapi_scope.get("effective_route_context")
    prefix: str = ""
    if context is not None and context.original_route is route:
        prefix = context.frontend_prefix
    found: Any = route._match(scope, prefix=prefix)[2]
    if found is None:
        return None
    path: str = found.path
    return (prefix + path).rstrip("/") + "/{path}"


def _leaf(original: Handle, template: Template) -> Handle:
    @functools.wraps(original)
    def handle(self: Any, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        observed: Observed | None = scope.get(OBSERVED)
        if observed is not None:
            try:
                path = template(self, scope)
                if path is not None:
                    observed.routed(scope.get(PREFIX, "") + path)
            except Exception as error:  # noqa: BLE001 - a route class of anyone
                fault("learning a route", error)
        return original(self, scope, receive, send)

    return handle


def _mount(original: Handle) -> Handle:
    @functools.wraps(original)
    def handle(self: Any, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        try:
            prefix: str | None = scope.get(PREFIX)
            if prefix is None:  # a middleware further in may want it
                prefix = scope.get("app_root_path", "").rstrip("/")
            whole: str = prefix + self.path_format
            scope[PREFIX] = whole.removesuffix("/{path}")
            observed: Observed | None = scope.get(OBSERVED)
            if observed is not None:
                observed.routed(whole)
        except Exception as error:  # noqa: BLE001 - a route class of anyone
            fault("learning a mount", error)
        return original(self, scope, receive, send)

    return handle


def install(by_hand: bool = False) -> None:
    """Watch the route classes of starlette and fastapi as far as they are imported; idempotent.

    What a middleware placed by hand needs (`by_hand`) stays when the automatic part is removed.
    """
    global _kept
    _kept = _kept or by_hand
    starlette: Any = sys.modules.get("starlette.routing")
    fastapi: Any = sys.modules.get("fastapi.routing")
    wanted: list[tuple[Any, str, Callable[[Handle], Handle]]] = [
        (starlette, "Route", lambda each: _leaf(each, _path)),
        (starlette, "WebSocketRoute", lambda each: _leaf(each, _path)),
        (starlette, "Mount", _mount),
        (fastapi, "APIRoute", lambda each: _leaf(each, _path)),
        (fastapi, "_FrontendRouteGroup", lambda each: _leaf(each, _frontend)),
    ]
    done = {each[0] for each in _undo}
    for module, name, wrap in wanted:
        cls: Any = getattr(module, name, None)
        if cls is None or cls in done or "handle" not in vars(cls):
            continue
        original: Handle = cls.handle
        ours = wrap(original)
        cls.handle = ours
        _undo.append((cls, original, ours))


def remove() -> None:
    """Put the route classes back, except where someone has patched them since or a middleware needs them."""
    if _kept:
        return
    for cls, original, ours in _undo:
        if vars(cls).get("handle") is ours:
            cls.handle = original  # pyright: ignore[reportAttributeAccessIssue]
    _undo.clear()
