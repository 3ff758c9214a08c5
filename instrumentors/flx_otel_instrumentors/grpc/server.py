"""A call on the server: how it opens, how it learns its outcome, and how its messages are counted.

One `ServerCall` stands in for the app's handler of one RPC: grpc is handed its bound methods, so a call
costs one object and no closures. Messages are counted where grpc serialises them, which holds for every
style of handler and leaves the iterators and the servicer context that the app sees grpc's own.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from typing import Any
from urllib.parse import unquote

import grpc
from opentelemetry.context import Context, attach
from opentelemetry.trace import set_span_in_context

from flx_otel_distro import semconv
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.call import Call
from flx_otel_instrumentors.grpc.propagation import parent
from flx_otel_instrumentors.grpc.telemetry import SERVER, Metering, Tracing

_MOST_NAME = 2048
_AbortError: Any = grpc.aio.AbortError
_NAMES: dict[Any, str] = {}
for _code in grpc.StatusCode:
    _NAMES[_code] = _code.name
    _NAMES[_code.value[0]] = _code.name


class ServerCall(Call):
    """A call that a server has received. `tracing` and `metering` may still be set by an inner interceptor."""

    __slots__ = (
        "_deserialize",
        "_serialize",
        "aio",
        "awaited",
        "behavior",
        "metadata",
        "outcome",
        "path",
        "rpc",
        "unheard",
    )

    def __init__(self, path: str, metadata: Any, tracing: Tracing | None, metering: Metering | None) -> None:
        super().__init__(SERVER, tracing, metering)
        self.path = path
        self.metadata = metadata
        self.aio = False
        self.behavior: Any = None
        self.awaited = False
        """Whether the handler may be done before its last message is written, and the RPC's end is awaited."""
        self.outcome: tuple[str, BaseException | None, str | None] | None = None
        """What such a handler ended in."""
        self.rpc: Any = None
        self.unheard: tuple[str, int | None] | None = None
        """What it means when the handler is dropped and was never called: a status, and the thread for which
        it holds. None where that says nothing, as other interceptors are around us."""
        self._deserialize: Any = None
        self._serialize: Any = None

    def __del__(self) -> None:
        # The last resort for calls that grpc drops: cancelled before the first message, or refused.
        if self._once.locked():
            return
        try:
            if self.rpc is not None:
                self.terminated()
            elif self.unheard is not None:
                status, thread = self.unheard
                self.end(status if thread in (None, threading.get_ident()) else "CANCELLED")
        except Exception as problem:  # noqa: BLE001 - a finalizer has nobody to tell
            fault("ending a dropped gRPC call", problem)

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the span under the caller's, as of the moment the call arrived."""
        tracing, method = self.tracing, self.method
        if tracing is None or method is None:
            return
        try:
            remote = parent(self.metadata)
        except Exception as problem:  # noqa: BLE001 - what an outsider sends must not cost us the span
            fault("reading trace context from gRPC metadata", problem)
            remote = Context()
        span = tracing.tracer.start_span(
            method.name, remote, self.side.kind, method.attributes, start_time=self.start_time
        )
        self.span = span
        self.context = set_span_in_context(span, remote)
        if span.is_recording():
            if method.name == semconv.OTHER:
                span.set_attribute(semconv.RPC_METHOD_ORIGINAL, scrubbed(self.path.removeprefix("/"), _MOST_NAME))
            if self.rpc is not None:
                span.set_attributes(peer_attributes(self.rpc.peer()))

    def begin(self, rpc: Any) -> Any:
        """Take grpc's servicer context, open the span and make it current; return what `leave` takes."""
        self.rpc = rpc
        try:
            if self.tracing is not None:
                self.open()
                if self.context is not None:
                    return attach(self.context)
        except Exception as problem:  # noqa: BLE001
            fault("opening a gRPC call", problem)
        return None

    # --- outcome ---------------------------------------------------------------------------------

    def status(self, default: str) -> str:
        """Return the name of the status the app has set, or `default`."""
        code_of = getattr(self.rpc, "code", None)
        code = code_of() if code_of is not None else None
        if code is None:
            return default
        return _NAMES.get(code, "UNKNOWN") if self.aio or isinstance(code, grpc.StatusCode) else "UNKNOWN"

    def details(self) -> str | None:
        """Return the details the app has set."""
        details_of = getattr(self.rpc, "details", None)
        details = details_of() if details_of is not None else None
        return details.decode("utf-8", "replace") if isinstance(details, bytes) else details

    def interrupted(self) -> str:
        """Return why a call ends that nobody finished: its deadline has passed, or the client cancelled it.

        A client cancels at its own deadline, which can reach us shortly before ours: the transport
        rounds timeouts up by as much as 1 %, and the request spent time on its way.
        """
        remaining = self.rpc.time_remaining() if self.rpc is not None else None
        if remaining is None:
            return "CANCELLED"
        allowed = remaining + self.elapsed
        early = min(0.1, allowed * 0.2) + min(10.0, allowed * 0.01)
        return "DEADLINE_EXCEEDED" if remaining <= early else "CANCELLED"

    def terminated(self, *_: Any) -> None:
        """End the call as the RPC is over, and the handler may not be; grpc calls this, from any thread."""
        if self._once.locked():
            return
        try:
            status, error, details = self.outcome or (self.interrupted(), None, None)
            self.end(status, error, details)
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def returned(self, last: bool) -> None:
        """Note that the handler returned; where it is not the `last` step, an OK is left to `serialize`."""
        try:
            status = self.status("OK")
            if last or status != "OK":
                self._conclude(status, None, self.details() if status != "OK" else None)
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def raised(self, error: BaseException) -> None:
        """End the call with the status that grpc sends for what the handler raised."""
        if self._once.locked():
            return
        try:
            if isinstance(error, CancelledError | GeneratorExit) or not self._active():
                self.end(self.interrupted())
                return
            status = self.status("UNKNOWN")
            aborted = isinstance(error, _AbortError) or getattr(
                getattr(self.rpc, "_state", None), "aborted", False
            )  # the sync server aborts with a bare Exception
            if aborted:
                self._conclude(status, None, self.details())
            else:
                self._conclude(status, error, f"{type(error).__name__}: {error}")
        except Exception as problem:  # noqa: BLE001 - also an exception that cannot be printed
            fault("ending a gRPC call", problem)
            self.end("UNKNOWN", error, record=False)

    def _conclude(self, status: str, error: BaseException | None, details: str | None) -> None:
        if self.awaited:
            self.outcome = (status, error, details)
        else:
            self.end(status, error, details)

    def _active(self) -> bool:
        active = getattr(self.rpc, "is_active", None)
        return True if active is None else bool(active())

    # --- messages --------------------------------------------------------------------------------

    def deserialize(self, data: bytes) -> Any:
        """Read a request with the app's deserializer; one that fails is how a call ends before its handler."""
        self.requests += 1
        if self._deserialize is None:
            return data
        try:
            message = self._deserialize(data)
        except Exception as error:
            if not self.aio:
                self.end("INTERNAL", error)
            elif not self.request_streaming:
                self.end("UNKNOWN", error)
            raise
        if message is None and not self.aio:
            self.end("INTERNAL")
        return message

    def serialize(self, message: Any) -> Any:
        """Write a response with the app's serializer; the only response of a call is also its end."""
        self.responses += 1
        try:
            data = message if self._serialize is None else self._serialize(message)
        except Exception as error:
            if not self.aio:
                self.end("INTERNAL", error)
            elif not self.response_streaming:
                self.end("UNKNOWN", error)
            raise
        if not self.response_streaming:
            if data is None:
                self.end("UNKNOWN" if self.aio else "INTERNAL")
            else:
                self.end("OK")
        elif data is None and not self.aio:
            self.end("INTERNAL")
        return data

    def stand_in(self, handler: Any, behavior: Any) -> Any:
        """Return a handler for grpc that calls `behavior`, a method of ours, with messages counted."""
        self._deserialize = handler.request_deserializer
        self._serialize = handler.response_serializer
        self.request_streaming = bool(handler.request_streaming)
        self.response_streaming = bool(handler.response_streaming)
        deserialize = self.deserialize if self.request_streaming or self._deserialize is not None else None
        return _MAKERS[self.request_streaming, self.response_streaming](behavior, deserialize, self.serialize)


_makers: Any = grpc  # the module's functions carry no types
_MAKERS: dict[tuple[bool, bool], Any] = {
    (False, False): _makers.unary_unary_rpc_method_handler,
    (False, True): _makers.unary_stream_rpc_method_handler,
    (True, False): _makers.stream_unary_rpc_method_handler,
    (True, True): _makers.stream_stream_rpc_method_handler,
}


def peer_attributes(peer: str) -> dict[str, str | int]:
    """Return the attributes of the other end, which grpc writes as `ipv4:host:port`, `ipv6:%5Bhost%5D:port`
    or `unix:path`.
    """
    kind, _, rest = scrubbed(peer, _MOST_NAME).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return {semconv.NETWORK_PEER_ADDRESS: rest} if rest else {}
    host, _, port = unquote(rest).rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        return {}
    number = int(port)
    return {
        semconv.NETWORK_PEER_ADDRESS: host,
        semconv.NETWORK_PEER_PORT: number,
        semconv.CLIENT_ADDRESS: host,
        semconv.CLIENT_PORT: number,
    }
