"""`ObservabilityMiddleware`: the layer by hand, for any ASGI app.

    app.add_middleware(ObservabilityMiddleware)

Where the request is observed already, by the automatic instrumentation, by another one of these or
by upstream's, it passes the request on and adds nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from flx_otel_distro.guard import fault, guarded
from flx_otel_instrumentors.fastapi import routes
from flx_otel_instrumentors.fastapi.asgi import OBSERVED, App, Receive, Scope, Send
from flx_otel_instrumentors.fastapi.foreign import called_by_upstream, in_stack, is_upstream, observed_by_others
from flx_otel_instrumentors.fastapi.layer import Begun, Layer, announce, observing


class ObservabilityMiddleware:
    """Observe every request and websocket of `app` as the automatic instrumentation would.

    Variables are read when it is made, by a framework at its first request. `excluded_urls`,
    comma-separated regular expressions, wins over the environment; the providers default to the
    global ones. Raises ConfigurationError under strict mode for a wrong variable. Safe from any
    thread; survives a fork.
    """

    def __init__(
        self,
        app: App,
        *,
        excluded_urls: str | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.app = app
        self._layer = Layer(excluded_urls=excluded_urls, tracer_provider=tracer_provider, meter_provider=meter_provider)
        self._upstream_inside = in_stack(app, is_upstream)
        with guarded("watching routes"):
            routes.install(by_hand=True)
            _quiet_native_telemetry()

    def _enter(self, scope: Scope, receive: Receive, send: Send) -> Begun | None:
        if scope["type"] not in ("http", "websocket"):
            announce()
            return None
        aside = OBSERVED in scope or self._upstream_inside
        if not aside:
            try:
                owner = scope.get("app")
                aside = (owner is not None and observed_by_others(owner)) or called_by_upstream(send)
            except Exception as error:  # noqa: BLE001 - an app of anyone
                fault("looking at an app", error)
        if aside:
            return None
        # Below a mount, root_path holds the concrete path; app_root_path is what the server was given.
        root = scope.get("app_root_path", scope.get("root_path", ""))
        return self._layer.enter(scope, receive, send, root)

    def _call(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI scope; exceptions of the app pass unchanged."""
        return self.app(scope, receive, send)

    __call__ = observing(_enter, _call)


def _quiet_native_telemetry() -> None:
    """Make FastAPI's own telemetry stand back for a stack that holds this middleware.

    Newer FastAPI asks `_legacy_otel(stack)` for each request whether others observe it; that
    function gets a second reason to say yes. Idempotent, and for apps without this middleware without
    effect.
    """
    applications: Any = sys.modules.get("fastapi.applications")
    original = getattr(applications, "_legacy_otel", None)
    if original is None or hasattr(original, "_flx"):
        return

    def observed_elsewhere(stack: Any) -> bool:
        return original(stack) or in_stack(stack, lambda cls: issubclass(cls, ObservabilityMiddleware))

    observed_elsewhere._flx = True  # pyright: ignore[reportFunctionMemberAccess]
    applications._legacy_otel = observed_elsewhere
