"""A service of four arities in the sync and the asyncio style, whose handlers end as the request asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry import trace

WORK = 0.05
"""Seconds every handler works before it ends."""

SERVICE = "test.Service"
ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Status:
    """What `abort_with_status` takes."""

    code = grpc.StatusCode.INTERNAL
    details = "lost a screw"
    trailing_metadata = (("why", "screw"),)


class Service:
    """What the handlers tell the test: that they were entered, and the span ids current at each step."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.span_ids: list[int] = []
        self.left = threading.Event()

    def note(self) -> None:
        self.span_ids.append(trace.get_current_span().get_span_context().span_id)


class SyncService(Service):
    """Plain functions and generators."""

    def settle(self, wish: bytes, context: Any) -> None:
        self.note()
        over = threading.Event()
        context.add_callback(over.set)
        self.entered.set()
        if wish == b"hang":
            over.wait(20)
            self.left.set()
            return
        over.wait(WORK)
        if wish == b"abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if wish == b"abort_with_status":
            context.abort_with_status(Status)
        if wish == b"raise":
            raise ValueError("broken")

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        self.settle(request, context)
        return b"done"

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.note()
        yield b"1"
        self.note()
        yield b"2"
        self.settle(request, context)
        yield b"3"

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        *_, last = requests
        self.settle(last, context)
        return b"done"

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        *_, last = requests
        yield from self.unary_stream(last, context)


class AioService(Service):
    """Coroutines and async generators."""

    async def settle(self, wish: bytes, context: Any) -> None:
        self.note()
        self.entered.set()
        if wish == b"hang":
            try:
                await asyncio.sleep(20)
            finally:
                self.left.set()
        await asyncio.sleep(WORK)
        if wish == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if wish == b"abort_with_status":
            await context.abort_with_status(Status)
        if wish == b"raise":
            raise ValueError("broken")

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        await self.settle(request, context)
        return b"done"

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.note()
        yield b"1"
        self.note()
        yield b"2"
        await self.settle(request, context)
        yield b"3"

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        received = [each async for each in requests]
        await self.settle(received[-1], context)
        return b"done"

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        received = [each async for each in requests]
        async for each in self.unary_stream(received[-1], context):
            yield each


def handlers_of(service: Any, name: str = SERVICE) -> grpc.GenericRpcHandler:
    """Return the generic handler with each arity's method under its own name."""
    return grpc.method_handlers_generic_handler(
        name, {arity: getattr(grpc, f"{arity}_rpc_method_handler")(getattr(service, arity)) for arity in ARITIES}
    )


class SyncServer:
    """A sync server on loopback. A context manager that gives its port."""

    def __init__(self, *handlers: grpc.GenericRpcHandler, **options: Any) -> None:
        self.pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self.pool, handlers=handlers, **options)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> SyncServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self.pool.shutdown(wait=True)


class AioServer:
    """An asyncio server on loopback, on a loop and a thread of its own."""

    def __init__(self, *handlers: grpc.GenericRpcHandler, pool: ThreadPoolExecutor | None = None, **options: Any):
        self.port = 0
        self._make: Callable[[], Any] = lambda: grpc.aio.server(pool, handlers=handlers, **options)
        self._server: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        self._server = self._make()
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    def __enter__(self) -> AioServer:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._server.stop(None))
        self._server = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
