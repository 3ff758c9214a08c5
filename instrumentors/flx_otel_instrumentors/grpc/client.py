"""The client side: one observed call, and the sync channel's callables around grpc's own.

What the app is handed is grpc's own call object. Its end is learnt from grpc's callbacks, and messages
are counted where grpc serialises them, so nothing stands between the app and its call. Interceptors of
the app run outside; a retry of theirs is a call of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any
from urllib.parse import urlsplit

import grpc
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from flx_otel_distro import semconv
from flx_otel_distro.contexts import current
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.call import Call
from flx_otel_instrumentors.grpc.propagation import with_context
from flx_otel_instrumentors.grpc.telemetry import CLIENT, Metering, Method, Tracing

_METADATA = 2
"""Where a callable of grpc takes metadata by position: request, timeout, metadata."""


class Telemetry:
    """What the callables of observed channels share. `enabled` turns false when it is all undone."""

    __slots__ = ("enabled", "metering", "tracing")

    def __init__(self, tracing: Tracing | None, metering: Metering | None) -> None:
        self.tracing = tracing
        self.metering = metering
        self.enabled = True


class ClientCall(Call):
    """A call that this process makes."""

    __slots__ = ("_deserialize", "_reference", "_serialize", "request_streaming", "response_streaming")

    side = CLIENT

    def __init__(self, telemetry: Telemetry, method: Method) -> None:
        super().__init__(method, telemetry.tracing, telemetry.metering, perf_counter_ns())
        self.request_streaming = self.response_streaming = False
        self._serialize: Any = None
        self._deserialize: Any = None
        self._reference: weakref.ref[Any] | None = None

    def __del__(self) -> None:
        # grpc has dropped its callback without calling it: nobody can end this call any more.
        if not self.ended:
            self.end("CANCELLED")

    def open(self) -> None:
        """Start the span under the current one."""
        tracing, method = self.tracing, self.method
        if tracing is not None and method is not None:
            self.start(tracing, method, current())

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Open the span and return the arguments with its context in the metadata; `kwargs` may be changed."""
        try:
            self.open()
            if self.context is None:
                return args, kwargs
            if len(args) > _METADATA:
                metadata = with_context(args[_METADATA], self.context)
                return (*args[:_METADATA], metadata, *args[_METADATA + 1 :]), kwargs
            kwargs["metadata"] = with_context(kwargs.get("metadata"), self.context)
            return args, kwargs
        except Exception as problem:  # noqa: BLE001
            fault("opening a gRPC call", problem)
            return args, kwargs

    def raised(self, error: BaseException) -> None:
        """End the call with the status in `error`, or with none where it never became one of gRPC's."""
        try:
            code_of = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
            if code_of is None:
                self.end(None, error, f"{type(error).__name__}: {error}", record=False)
            else:
                self.settle(code_of(), getattr(error, "details", str)())
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def settle(self, code: Any, details: str | None) -> None:
        """End the call with a status of grpc's."""
        status = getattr(code, "name", "UNKNOWN")
        self.end(status, details=None if status == "OK" else details)

    # --- calls that go on after they were made ------------------------------------------------------

    def follow(self, rendezvous: Any) -> None:
        """End the call with a sync call object, or when the app drops it.

        The callback holds no reference to the object: grpc cancels a call whose object is dropped.
        """
        try:
            self._reference = weakref.ref(rendezvous, self._dropped)
            if not rendezvous.add_callback(self._terminated):
                self._terminated()
        except Exception as problem:  # noqa: BLE001
            fault("following a gRPC call", problem)

    def _terminated(self) -> None:
        try:
            rendezvous = self._reference() if self._reference is not None else None
            self._reference = None
            if rendezvous is None:
                self.end("CANCELLED")
            else:
                self.settle(rendezvous.code(), rendezvous.details())
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def _dropped(self, _: object) -> None:
        self._reference = None
        self.end("CANCELLED")

    # --- messages -----------------------------------------------------------------------------------

    def counting(self, serializers: tuple[Any, Any], requests: bool, responses: bool) -> tuple[Any, Any]:
        """Return serializer and deserializer that count the messages of this call in the streams named."""
        self._serialize, self._deserialize = serializers
        self.request_streaming, self.response_streaming = requests, responses
        return (
            self._write_request if requests else self._serialize,
            self._read_response if responses else self._deserialize,
        )

    def _write_request(self, message: Any) -> Any:
        self.requests += 1
        return message if self._serialize is None else self._serialize(message)

    def _read_response(self, data: bytes) -> Any:
        self.responses += 1
        return data if self._deserialize is None else self._deserialize(data)


class Observed:
    """An observed callable of a channel. `make(serializer, deserializer)` makes grpc's own again.

    A stream gets a callable of grpc's for itself, which is how its messages are told from those of
    another. Attributes that are not here are grpc's.
    """

    requests = False
    responses = False

    def __init__(self, inner: Any, make: Any, serializers: tuple[Any, Any], telemetry: Telemetry, method: Method):
        self._inner = inner
        self._make = make
        self._serializers = serializers
        self._telemetry = telemetry
        self._observed_method = method

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def start(self) -> tuple[ClientCall | None, Any]:
        """Return a new call and grpc's callable for it; no call where none is to be observed."""
        try:
            if not self._telemetry.enabled or (current() and not is_instrumentation_enabled()):
                return None, self._inner
            call = ClientCall(self._telemetry, self._observed_method)
            if not self.requests and not self.responses:
                return call, self._inner
            return call, self._make(*call.counting(self._serializers, self.requests, self.responses))
        except Exception as problem:  # noqa: BLE001
            fault("making a gRPC call", problem)
            return None, self._inner


class _Blocking(Observed):
    """Calls with one response: waited for, with the call object beside it, or as a future."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call, inner = self.start()
        return inner(*args, **kwargs) if call is None else _wait(call, inner, args, kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        """Return response and call object, as grpc does."""
        call, inner = self.start()
        return inner.with_call(*args, **kwargs) if call is None else _wait(call, inner.with_call, args, kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """Return grpc's future."""
        call, inner = self.start()
        return inner.future(*args, **kwargs) if call is None else _follow(call, inner.future, args, kwargs)


class _Streaming(Observed):
    """Calls with a stream of responses."""

    responses = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call, inner = self.start()
        return inner(*args, **kwargs) if call is None else _follow(call, inner, args, kwargs)


def _wait(call: ClientCall, invoke: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = call.begin(args, kwargs)
    try:
        answer = invoke(*args, **kwargs)
    except BaseException as error:
        call.raised(error)
        raise
    call.end("OK")
    return answer


def _follow(call: ClientCall, invoke: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = call.begin(args, kwargs)
    try:
        rendezvous = invoke(*args, **kwargs)
    except BaseException as error:
        call.raised(error)
        raise
    call.follow(rendezvous)
    return rendezvous


_bases: Any = grpc  # the module's classes carry no types
_UnaryUnaryBase: Any = _bases.UnaryUnaryMultiCallable
_UnaryStreamBase: Any = _bases.UnaryStreamMultiCallable
_StreamUnaryBase: Any = _bases.StreamUnaryMultiCallable
_StreamStreamBase: Any = _bases.StreamStreamMultiCallable


class UnaryUnary(_Blocking, _UnaryUnaryBase):
    """One request, one response."""


class UnaryStream(_Streaming, _UnaryStreamBase):
    """One request, a stream of responses."""


class StreamUnary(_Blocking, _StreamUnaryBase):
    """A stream of requests, one response."""

    requests = True


class StreamStream(_Streaming, _StreamStreamBase):
    """A stream of requests, a stream of responses."""

    requests = True


CALLABLES: Mapping[str, type[Observed]] = {
    "unary_unary": UnaryUnary,
    "unary_stream": UnaryStream,
    "stream_unary": StreamUnary,
    "stream_stream": StreamStream,
}


def target_attributes(target: str) -> dict[str, str | int]:
    """Return the attributes of a channel's target, as the app wrote it: `host:port` or a URI of grpc's."""
    target = scrubbed(target)
    scheme, colon, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract") and colon:
        return {semconv.SERVER_ADDRESS: rest.removeprefix("//")}
    if scheme in ("dns", "ipv4", "ipv6", "xds", "passthrough", "google-c2p") and colon and not rest.isdigit():
        target = rest.rpartition("/")[2] if rest.startswith("//") else rest
    target = target.lstrip("/").partition(",")[0]
    try:
        parts = urlsplit(f"//{target}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {semconv.SERVER_ADDRESS: target}
    if not host:
        return {}
    return {semconv.SERVER_ADDRESS: host} if port is None else {semconv.SERVER_ADDRESS: host, semconv.SERVER_PORT: port}
