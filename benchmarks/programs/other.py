"""The other process the service calls: answers everything with a number. Run: python other.py PORT."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n12.50"


class Other(asyncio.Protocol):
    """Enough of HTTP/1.1 for requests without a body."""

    def __init__(self) -> None:
        self._got = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *asked, self._got = (self._got + data).split(b"\r\n\r\n")
        self._transport.write(_ANSWER * len(asked))


async def main(port: int) -> None:
    """Listen until the process is ended."""
    listener = await asyncio.get_running_loop().create_server(Other, "127.0.0.1", port)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
