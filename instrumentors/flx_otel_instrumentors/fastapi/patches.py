"""Put the layer before every application, whatever its origin.

`__call__` of the two classes is wrapped, not `build_middleware_stack` and not the name
`fastapi.FastAPI`: every request of every app passes there, of an app made before or after, by a
factory, of a subclass, one whose middleware stack is built already and one that overrides how it is
built. It is also the outermost place, outside the handler that turns an exception into a 500. The
wrapper stays a coroutine function, by which uvicorn tells ASGI 3 from ASGI 2.

`fastapi.FastAPI.__call__` is wrapped beside `Starlette.__call__`, because FastAPI's own telemetry
begins in the former. The key that layer leaves in the scope keeps it quiet.
"""

from __future__ import annotations

from typing import Any

from flx_otel_distro.guard import fault
from flx_otel_instrumentors.fastapi import routes
from flx_otel_instrumentors.fastapi.asgi import OBSERVED, OUTERMOST, Receive, Scope, Send
from flx_otel_instrumentors.fastapi.foreign import called_by_upstream, look, observed_by_others
from flx_otel_instrumentors.fastapi.layer import NATIVE, Begun, Call, Layer, announce, observing


class Patches:
    """What was patched for one `Layer`, to be undone. Idempotent; patch before serving."""

    def __init__(self, layer: Layer) -> None:
        self._layer: Layer | None = layer
        self._done: list[tuple[type, Call, Call]] = []

    def wrap(self, cls: Any) -> None:
        """Wrap `cls.__call__`, unless it is wrapped already or these patches were removed."""
        routes.install()
        if self._layer is None or any(done is cls for done, _, _ in self._done):
            return
        original: Call = cls.__call__
        ours = observing(self._enter, original)
        cls.__call__ = ours
        self._done.append((cls, original, ours))

    def remove(self) -> None:
        """Put the classes back. Where someone patched over us, our wrapper stays and only passes through."""
        self._layer = None
        for cls, original, ours in self._done:
            if vars(cls).get("__call__") is ours:
                cls.__call__ = original
        self._done.clear()
        routes.remove()

    def _enter(self, app: Any, scope: Scope, receive: Receive, send: Send) -> Begun | None:
        layer = self._layer
        if layer is None:
            return None
        if OBSERVED in scope:
            if scope.get(OUTERMOST) is not app:
                _nested(app, scope)
            return None
        if scope["type"] not in ("http", "websocket"):
            announce()
            return None
        try:
            _, aside, exclude = look(app)
            if not aside and (called_by_upstream(send) or (exclude is not None and bool(exclude(scope)))):
                aside = True
                scope[NATIVE] = None
        except Exception as error:  # noqa: BLE001 - an app of anyone
            aside = False
            fault("looking at an app", error)
        if aside:
            scope[OBSERVED] = None
            return None
        scope[OUTERMOST] = app
        return layer.enter(scope, receive, send, getattr(app, "root_path", "") or scope.get("root_path", ""))


def _nested(app: Any, scope: Scope) -> None:
    """Leave the metrics of a request to a mounted app that others observe."""
    observed = scope[OBSERVED]
    if observed is not None:
        try:
            if observed_by_others(app):
                observed.cede()
        except Exception as error:  # noqa: BLE001 - an app of anyone
            fault("looking at an app", error)
