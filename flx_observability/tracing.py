"""Tracing by hand: the `@trace` decorator."""

from __future__ import annotations

from flx_otel_instrumentors.tracing import trace

__all__ = ["trace"]
