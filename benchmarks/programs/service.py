"""A service as people have them: a database query of a few milliseconds and a call to another process.

Run: uvicorn service:app, with BENCHMARK_OTHER the other process's address. `/flood` offers label values as an app does
that puts something unbounded into a label; without OpenTelemetry it only counts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from fastapi import FastAPI

aiosqlite: Any = importlib.import_module("aiosqlite")  # in the environments of the service only
ROWS = 14_000
OTHER = os.environ.get("BENCHMARK_OTHER", "http://127.0.0.1:1")
QUERY = (
    "SELECT customer % 97 AS region, count(*), sum(amount), max(amount) FROM orders WHERE customer > ? GROUP BY region"
)
held: dict[str, Any] = {}

try:
    from opentelemetry import metrics

    _meter = metrics.get_meter("shop")
    _orders: Any = _meter.create_counter("shop.orders")
    _amounts: Any = _meter.create_histogram("shop.amounts")
except ImportError:
    _orders = _amounts = None


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with aiosqlite.connect(":memory:") as database, httpx.AsyncClient(timeout=10) as client:
        await database.execute("CREATE TABLE orders (customer INTEGER, amount REAL)")
        rows = [(index * 7919 % 10_007, index % 1000 / 7) for index in range(ROWS)]
        await database.executemany("INSERT INTO orders VALUES (?, ?)", rows)
        held.update(database=database, client=client)
        yield


app = FastAPI(lifespan=_lifespan)


@app.get("/orders/{customer}")
async def orders(customer: int) -> dict[str, Any]:
    """Answer from the database and from the other process."""
    async with held["database"].execute(QUERY, (customer,)) as cursor:
        rows = await cursor.fetchall()
    answer = await held["client"].get(f"{OTHER}/price")
    return {"regions": len(rows), "total": round(sum(row[2] for row in rows), 2), "price": answer.text}


@app.get("/ready")
async def ready() -> str:
    """Answer as soon as the app serves."""
    return "yes"


@app.get("/flood")
async def flood(start: int, count: int) -> dict[str, int]:
    """Offer so many distinct label values to a counter and a histogram."""
    for index in range(start, start + count):
        attributes = {"customer": f"customer-{index}"}
        if _orders is not None:
            _orders.add(1, attributes)
            _amounts.record(12.5, attributes)
    return {"offered": count}
