"""A shop that takes orders over gRPC. It knows nothing of telemetry; see the README for how to run it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

orders: Any
services: Any
orders, services = grpc.protos_and_services("orders.proto")


class Orders(services.OrdersServicer):
    """The shop."""

    def __init__(self) -> None:
        self._placed: dict[str, int] = {}

    async def Place(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Take an order; there is no order of nothing."""
        if request.pieces < 1:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an order has at least one piece")
        number = f"{request.article}-{len(self._placed) + 1}"
        self._placed[number] = request.pieces
        return orders.Receipt(number=number)

    async def Track(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        """Tell each step of an order."""
        if request.number not in self._placed:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        for what in ("packed", "shipped", "delivered"):
            await asyncio.sleep(0.01)
            yield orders.Step(what=what)


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = grpc.aio.server()
    services.add_OrdersServicer_to_server(Orders(), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ.get('PORT', '50051')}")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(grace=1)


if __name__ == "__main__":
    asyncio.run(main())
