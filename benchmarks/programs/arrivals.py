"""Requests at a constant rate, whether or not earlier ones have been answered: an open loop.

Run: python arrivals.py PORT RATE SECONDS PATH. Prints a JSON list of latencies in microseconds, each counted from the
moment the request was due, so that a stall of the server counts for every request that fell into it (coordinated
omission is thereby avoided). A request without a 200 makes it fail.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connected(port: int, idle: list[Connection]) -> Connection:
    return idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)


async def main(port: int, rate: float, seconds: float, path: str) -> list[int]:
    """Return the latencies of all requests in microseconds, in order of arrival."""
    idle: list[Connection] = []
    count = int(rate * seconds)
    latencies = [0] * count

    async def ask(index: int, due: float) -> None:
        reader, writer = await _connected(port, idle)
        where = path.replace("{n}", str(index % 50))
        writer.write(b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % where.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        lines = head.lower().split(b"\r\n")
        size = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(size)
        latencies[index] = round((time.perf_counter() - due) * 1e6)
        idle.append((reader, writer))

    started = time.perf_counter() + 0.05
    async with asyncio.TaskGroup() as group:
        for index in range(count):
            due = started + index / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(ask(index, due))
    for _, writer in idle:
        writer.close()
    return latencies


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))))
