"""Orders: a small shop API. There is no line of OpenTelemetry in it."""

from __future__ import annotations

import os

import uvicorn
from fastapi import BackgroundTasks, FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI(title="orders")


class Order(BaseModel):
    """What a customer asks for."""

    item: str
    quantity: int = 1


PRICES = {"tea": 4, "coffee": 5}
orders: list[Order] = []
receipts: list[int] = []


@app.get("/health")
async def health() -> str:
    """Answer the probe; it leaves no trace and no metric."""
    return "ok"


@app.post("/orders", status_code=201)
async def place(order: Order, tasks: BackgroundTasks) -> int:
    """Take an order, and send its receipt after the answer."""
    if order.item not in PRICES:
        raise HTTPException(404, "no such item")
    orders.append(order)
    tasks.add_task(receipts.append, len(orders))
    return len(orders)


@app.get("/orders/{number}")
async def look_up(number: int) -> Order:
    """Return one order."""
    if not 0 < number <= len(orders):
        raise HTTPException(404, "no such order")
    return orders[number - 1]


@app.get("/orders/{number}/total")
def total(number: int) -> int:
    """Compute the total in the thread pool."""
    order = orders[number - 1]
    return PRICES[order.item] * order.quantity


@app.delete("/orders/{number}")
async def cancel(number: int) -> None:
    """Fail, as code does that nobody has finished."""
    raise RuntimeError(f"cannot cancel order {number}")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
