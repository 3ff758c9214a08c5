"""Call the gRPC server for some seconds, or a number of times, and print the calls answered.

Run: python caller.py PORT SECONDS [CALLS].
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, cast

import grpc.aio

AT_A_TIME = 8


async def main(port: str, seconds: float, calls: int = 0) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        get = cast(Any, channel).unary_unary("/shop.Orders/Get")
        end = time.monotonic() + seconds
        answered = 0

        async def call() -> None:
            nonlocal answered
            while answered < calls if calls else time.monotonic() < end:
                answered += 1
                await get(b"x" * 32)

        await asyncio.gather(*(call() for _ in range(AT_A_TIME)))
        return answered


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:]))))
