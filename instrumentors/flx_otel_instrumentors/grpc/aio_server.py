"""The handlers of the asyncio server: coroutines, async generators, and plain functions on its threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any, Final, cast

from flx_otel_distro.contexts import attach, current, detach, reset
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.server import ServerCall
from flx_otel_instrumentors.grpc.sync_server import Responses

COROUTINE: Final = "aio_unary"
WRITER: Final = "aio_writer"
GENERATOR: Final = "aio_generator"
POOLED: Final = "pooled_unary"
POOLED_STREAM: Final = "pooled_stream"


def style_of(behavior: Any, streaming: bool) -> str:
    """Return the name of the `AioServerCall` method that stands in for `behavior`, told apart as grpc does."""
    if not streaming:
        awaited = (
            inspect.isawaitable(behavior)
            or inspect.iscoroutinefunction(behavior)
            or inspect.isasyncgenfunction(behavior)
        )
        return COROUTINE if awaited else POOLED
    if inspect.iscoroutinefunction(behavior):
        return WRITER
    return GENERATOR if inspect.isasyncgenfunction(behavior) else POOLED_STREAM


class AioServerCall(ServerCall):
    """A call that an asyncio server has received. Each RPC is a task of its own, made by grpc."""

    __slots__ = ()

    async def aio_unary(self, request: Any, rpc: Any) -> Any:
        """Await the app's coroutine."""
        token = self.begin(rpc)
        try:
            response = await self.plan.behavior(request, rpc)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                try:
                    reset(token)
                except (ValueError, RuntimeError):  # closed by whoever had the last reference
                    detach(token)
        self.returned(last=False)
        return response

    async def aio_writer(self, request: Any, rpc: Any) -> None:
        """Await the app's coroutine, which writes its responses to the servicer context."""
        token = self.begin(rpc)
        try:
            await self.plan.behavior(request, rpc)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                detach(token)
        self.returned(last=True)

    async def aio_generator(self, request: Any, rpc: Any) -> AsyncIterator[Any]:
        """Pass on the app's responses, with the context current at each step and never between two.

        A generator that is dropped is closed later, by another task, which could not detach what this
        one attached.
        """
        token = self.begin(rpc)
        if token is not None:
            detach(token)
        try:
            # The task of the RPC, whose end is what grpc's own callbacks wait for: those would tie the servicer
            # context to itself, and leave each call to the garbage collector.
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(self.terminated)
        except Exception as problem:  # noqa: BLE001
            fault("watching a gRPC call", problem)
        context = self.context
        responses = self.plan.behavior(request, rpc)
        while True:
            token = None if context is None else attach(context)
            try:
                message = await responses.__anext__()
            except StopAsyncIteration:
                self.returned(last=True)
                return
            except BaseException as error:
                self.raised(error)
                raise
            finally:
                if token is not None:
                    context = current()
                    detach(token)
            yield message

    def pooled_unary(self, request: Any, rpc: Any) -> Any:
        """Run the app's plain function on a thread of the migration pool."""
        seen = PooledContext(rpc)
        token = self.begin(seen)
        try:
            response = self.plan.behavior(request, seen)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                detach(token)
        self.returned(last=False)
        return response

    def pooled_stream(self, request: Any, rpc: Any) -> Any:
        """Call the app's plain function on the loop, as grpc does; its steps run on the migration pool."""
        seen = PooledContext(rpc)
        token = self.begin(seen)
        try:
            responses = self.plan.behavior(request, seen)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                detach(token)
        self.awaited = True  # the pool runs ahead of the loop, which writes
        return Responses(self, responses)


class PooledContext:
    """grpc's servicer context for plain functions, which has no `code()` to ask: remember what is set.

    Everything else is grpc's, also what `isinstance` says.
    """

    __slots__ = ("_flx_code", "_flx_context", "_flx_details")

    _flx_code: Any
    _flx_context: Any
    _flx_details: Any

    def __init__(self, context: Any) -> None:
        object.__setattr__(self, "_flx_context", context)
        object.__setattr__(self, "_flx_code", None)
        object.__setattr__(self, "_flx_details", None)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - object's can be set as well
        return cast("Any", type(self._flx_context))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flx_context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._flx_context, name, value)

    def set_code(self, code: Any) -> None:
        """Set the status, as grpc does."""
        self._flx_context.set_code(code)
        object.__setattr__(self, "_flx_code", code)

    def set_details(self, details: str) -> None:
        """Set the details, as grpc does."""
        self._flx_context.set_details(details)
        object.__setattr__(self, "_flx_details", details)

    def abort(self, code: Any, *args: Any, **kwargs: Any) -> None:
        """Abort the call, as grpc does."""
        object.__setattr__(self, "_flx_code", code)
        if args or "details" in kwargs:
            object.__setattr__(self, "_flx_details", args[0] if args else kwargs["details"])
        self._flx_context.abort(code, *args, **kwargs)

    def code(self) -> Any:
        """Return the status that was set, as the coroutine's context does."""
        return self._flx_code

    def details(self) -> Any:
        """Return the details that were set."""
        return self._flx_details
