"""A collector that takes everything: OTLP over HTTP and gRPC, and Datadog's agent protocol.

Run: python sink.py HTTP_PORT GRPC_PORT. It looks into nothing until `GET /spans` asks how many spans came since it was
asked last, so that it takes little of the core it shares with the load.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from collections.abc import Iterator
from typing import Any, cast

import grpc.aio

_TRACES = list[bytes]()
_counted = 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield where each length-delimited field of a number lies in a protobuf message."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                if key >> 3 == wanted:
                    yield at, at + size
                at += size
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other}")


def spans_in(data: bytes) -> int:
    """Return how many spans an ExportTraceServiceRequest holds."""
    return sum(
        1
        for resource in _fields(data, 0, len(data), 1)
        for scope in _fields(data, *resource, 2)
        for _ in _fields(data, *scope, 2)
    )


def _asked() -> int:
    global _counted
    found, _counted = _counted + sum(spans_in(each) for each in _TRACES), 0
    _TRACES.clear()
    return found


class Http(asyncio.Protocol):
    """Enough of HTTP/1.1 for clients that send a content length."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        while True:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head, *lines = bytes(self._got[:end]).split(b"\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
            }
            size = int(headers.get(b"content-length", b"0"))
            if len(self._got) < end + 4 + size:
                return
            body = bytes(self._got[end + 4 : end + 4 + size])
            del self._got[: end + 4 + size]
            self._transport.write(self._answer(head, headers, body))

    def _answer(self, head: bytes, headers: dict[bytes, bytes], body: bytes) -> bytes:
        global _counted
        method, path = head.split(b" ")[:2]
        if path == b"/spans":
            text = str(_asked()).encode()
        elif method == b"GET":
            return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        elif path.endswith(b"/v1/traces"):
            match headers.get(b"content-encoding"):
                case b"gzip":
                    body = gzip.decompress(body)
                case b"deflate":
                    body = zlib.decompress(body)
                case _:
                    pass
            _TRACES.append(body)
            text = b""
        else:
            _counted += int(headers.get(b"x-datadog-trace-count", b"0"))
            text = b"{}" if path.startswith(b"/v0") else b""
        kind = b"application/json" if text else b"application/x-protobuf"
        return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(text), text)


class Grpc(grpc.GenericRpcHandler):
    """Every unary method; traces are kept for counting."""

    def service(self, handler_call_details: Any) -> Any:
        keep = str(handler_call_details.method).endswith("TraceService/Export")

        async def take(request: bytes, context: Any) -> bytes:
            if keep:
                _TRACES.append(request)
            return b""

        return cast(Any, grpc).unary_unary_rpc_method_handler(take)


async def main(http: int, rpc: int) -> None:
    """Listen until the process is ended."""
    server: Any = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Grpc(),))
    server.add_insecure_port(f"127.0.0.1:{rpc}")
    await server.start()
    listener = await asyncio.get_running_loop().create_server(Http, "127.0.0.1", http)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
