"""A small order service that knows nothing of OpenTelemetry but the `@trace` decorator: `flx-otel demo`.

flx-instrument python -m flx_otel_instrumentors.fastapi.demo_app PORT
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

import uvicorn
from fastapi import BackgroundTasks, FastAPI, HTTPException

from flx_otel_instrumentors.tracing import trace

app = FastAPI(title="Orders")

_ORDERS: dict[int, dict[str, Any]] = {number: {"id": number, "items": number % 4 + 1} for number in range(1, 6)}


@trace("load order")
async def load(number: int) -> dict[str, Any]:
    """Pretend to ask a database."""
    await asyncio.sleep(random.uniform(0.001, 0.01))
    if number not in _ORDERS:
        raise HTTPException(404, "no such order")
    return _ORDERS[number]


@trace("price order")
def price(order: dict[str, Any]) -> float:
    """Pretend to compute."""
    time.sleep(0.002)
    return 9.99 * order["items"]


@trace("send receipt")
async def send_receipt(number: int) -> None:
    """Run after the response, in the same trace."""
    await asyncio.sleep(0.003)


@app.get("/orders/{number}")
async def order(number: int, tasks: BackgroundTasks) -> dict[str, Any]:
    """Answer with one order and its price."""
    found = await load(number)
    tasks.add_task(send_receipt, number)
    return {**found, "price": price(found)}


@app.get("/orders")
def orders() -> list[dict[str, Any]]:
    """Answer with all orders, from the thread pool."""
    return list(_ORDERS.values())


@app.post("/orders", status_code=201)
async def create(items: int = 1) -> dict[str, Any]:
    """Take an order."""
    number = max(_ORDERS) + 1
    _ORDERS[number] = {"id": number, "items": items}
    return _ORDERS[number]


@app.get("/broken")
async def broken() -> None:
    """Fail, as services do."""
    raise RuntimeError("the warehouse does not answer")


def main() -> None:
    """Serve on the port that is the first argument, on the loopback interface."""
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")


if __name__ == "__main__":
    main()
