"""Requests in the same process, and what the metrics say of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from flx_otel_distro.testing import Capture


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` that sees a 500 as an answer."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.0.0.9", 4321))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test:8000") as made:
        yield made


async def ask(app: Any, method: str, url: str, **options: Any) -> httpx.Response:
    """Send one request to `app` and return its answer."""
    async with client(app) as made:
        return await made.request(method, url, **options)


def labels(seen: Capture, name: str = "http.server.request.duration") -> list[dict[str, Any]]:
    """Return the label sets of a metric, in the order of their first measurement."""
    metric = seen.metrics().get(name)
    return [] if metric is None else [dict(point.attributes or {}) for point in metric.data.data_points]


def totals(seen: Capture, name: str) -> dict[str, float]:
    """Return the sum of a histogram by route."""
    return {dict(key).get("http.route", ""): point.sum for key, point in seen.points(name).items()}


def count(seen: Capture) -> int:
    """Return how many requests the duration metric holds."""
    return sum(point.count for point in seen.points("http.server.request.duration").values())


def active(seen: Capture) -> list[int]:
    """Return the values of `http.server.active_requests`."""
    return [point.value for point in seen.points("http.server.active_requests").values()]
