"""The HTTP layer by hand: `app.add_middleware(ObservabilityMiddleware)`."""

from __future__ import annotations

from flx_otel_instrumentors.fastapi.middleware import ObservabilityMiddleware

__all__ = ["ObservabilityMiddleware"]
