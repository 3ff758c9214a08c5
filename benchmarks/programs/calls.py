"""A gRPC server of one method, asyncio or sync, without generated code. Run: python calls.py aio|sync PORT."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import grpc.aio

NAME = "shop.Orders"


async def _answer_later(request: bytes, context: Any) -> bytes:
    return request


def _answer(request: bytes, context: Any) -> bytes:
    return request


def _register(server: Any, behavior: Any) -> None:
    handler = cast(Any, grpc).unary_unary_rpc_method_handler(behavior)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, {"Get": handler}),))


async def serve(port: str) -> None:
    server: Any = grpc.aio.server()
    _register(server, _answer_later)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    kind, port = sys.argv[1:]
    if kind == "aio":
        asyncio.run(serve(port))
        return
    server: Any = grpc.server(ThreadPoolExecutor(4))
    _register(server, _answer)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
