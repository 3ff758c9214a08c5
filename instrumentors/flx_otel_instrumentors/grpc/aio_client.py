"""The asyncio channel's callables around grpc's own. The app is handed grpc's own call object."""

from __future__ import annotations

import weakref
from collections.abc import Coroutine, Mapping
from typing import Any

import grpc

from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.client import ClientCall, Observed


def settled(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing to wait for; None where it would wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        coroutine.close()
    return None


class _AioCallable(Observed):
    """Calls whose end grpc tells by a callback on the loop, which must not wait."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call, inner = self.start()
        if call is None:
            return inner(*args, **kwargs)
        args, kwargs = call.begin(args, kwargs)
        try:
            running = inner(*args, **kwargs)
        except BaseException as error:
            call.raised(error)
            raise
        try:
            # grpc's own add_done_callback ties the call object to itself: under grpcio 1.63 a call that
            # the app drops would then not be cancelled.
            core = getattr(running, "_cython_call", None)
            (running if core is None else core).add_done_callback(_Done(call, weakref.ref(running)))
        except Exception as problem:  # noqa: BLE001
            fault("following a gRPC call", problem)
        return running


class _Done:
    """What grpc calls when a call is done; it holds no reference to grpc's object."""

    __slots__ = ("_call", "_reference")

    def __init__(self, call: ClientCall, reference: weakref.ref[Any]) -> None:
        self._call = call
        self._reference = reference

    def __call__(self, *_: object) -> None:
        call, running = self._call, self._reference()
        if call.ended:
            return
        if running is None:
            call.end("CANCELLED")
            return
        try:
            # What `code()` says as a coroutine, where grpc says it at once: most calls end well.
            succeeded = getattr(getattr(running, "_cython_call", None), "is_ok", None)
            if succeeded is not None and succeeded():
                call.end("OK")
                return
            code = settled(running.code())
        except Exception as error:  # noqa: BLE001 - an interceptor of the app raised it
            call.raised(error)
            return
        try:
            call.settle(code, None if code is grpc.StatusCode.OK else settled(running.details()))
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)


_bases: Any = grpc.aio
_UnaryUnaryBase: Any = _bases.UnaryUnaryMultiCallable
_UnaryStreamBase: Any = _bases.UnaryStreamMultiCallable
_StreamUnaryBase: Any = _bases.StreamUnaryMultiCallable
_StreamStreamBase: Any = _bases.StreamStreamMultiCallable


class AioUnaryUnary(_AioCallable, _UnaryUnaryBase):
    """One request, one response."""


class AioUnaryStream(_AioCallable, _UnaryStreamBase):
    """One request, a stream of responses."""

    responses = True


class AioStreamUnary(_AioCallable, _StreamUnaryBase):
    """A stream of requests, one response."""

    requests = True


class AioStreamStream(_AioCallable, _StreamStreamBase):
    """A stream of requests, a stream of responses."""

    requests = responses = True


AIO_CALLABLES: Mapping[str, type[Observed]] = {
    "unary_unary": AioUnaryUnary,
    "unary_stream": AioUnaryStream,
    "stream_unary": AioStreamUnary,
    "stream_stream": AioStreamStream,
}
