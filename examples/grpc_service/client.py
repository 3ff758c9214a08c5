"""A customer: places an order, follows it, and asks for one that does not exist."""

from __future__ import annotations

import os
from typing import Any

import grpc

orders: Any
services: Any
orders, services = grpc.protos_and_services("orders.proto")


def main() -> None:
    """Print what the shop says."""
    with grpc.insecure_channel(f"127.0.0.1:{os.environ.get('PORT', '50051')}") as channel:
        shop = services.OrdersStub(channel)
        receipt = shop.Place(orders.Order(article="lamp", pieces=2), timeout=10, wait_for_ready=True)
        print(receipt.number, *(step.what for step in shop.Track(receipt, timeout=10)))
        try:
            list(shop.Track(orders.Receipt(number="none"), timeout=10))
        except grpc.RpcError as error:
            print(error.code().name)


if __name__ == "__main__":
    main()
