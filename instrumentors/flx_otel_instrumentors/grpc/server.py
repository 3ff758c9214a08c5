"""A call on the server: how it opens, how it learns its outcome, and how its messages are counted.

One `ServerCall` stands in for the app's handler of one RPC: grpc is handed the call itself where nobody
else looks at it, else its bound methods, so a call costs one object and no closures. Messages are counted
where grpc serialises them, which holds for every style of handler and leaves the iterators and the servicer
context that the app sees grpc's own.
"""

from __future__ import annotations

import threading
from asyncio import CancelledError
from typing import Any
from urllib.parse import unquote

import grpc

from flx_otel_distro import semconv
from flx_otel_distro.contexts import attach
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.call import Call
from flx_otel_instrumentors.grpc.propagation import parent
from flx_otel_instrumentors.grpc.telemetry import NOTHING, SERVER, Metering, Method, Tracing

_MOST_NAME = 2048
_AbortError: Any = grpc.aio.AbortError
_NAMES: dict[Any, str] = {}
for _code in grpc.StatusCode:
    _NAMES[_code] = _code.name
    _NAMES[_code.value[0]] = _code.name


CANCELLED: tuple[str, int | None] = ("CANCELLED", None)


class Plan:
    """How the calls of one handler of the app are observed; kept with the method and never changed.

    `behavior` is the app's function, `read` and `write` its deserializer and serializer. `style` is the method
    of ours that calls it, `answer` the class of calls that grpc takes for a handler; None where there is none.
    """

    __slots__ = (
        "aio", "answer", "answer_of_limited", "behavior", "handler", "read", "request_streaming", "response_streaming",
        "style", "watched", "write",
    )  # fmt: skip

    def __init__(self, handler: Any, aio: bool) -> None:
        self.handler = handler
        self.aio = aio
        self.request_streaming = bool(handler.request_streaming)
        self.response_streaming = bool(handler.response_streaming)
        self.behavior: Any = getattr(handler, _ARITIES[self.request_streaming, self.response_streaming])
        self.read: Any = handler.request_deserializer
        self.write: Any = handler.response_serializer
        self.style = ""
        self.answer: Any = None
        self.answer_of_limited: Any = None
        """The same for a server that refuses calls beyond a maximum: it notes that grpc has looked at it."""
        self.watched = False
        """Whether the call ends with grpc's task at the latest."""


class ServerCall(Call):
    """A call that a server has received. `tracing` and `metering` may still be set by an inner interceptor."""

    __slots__ = ("awaited", "outcome", "plan", "received", "unheard")

    side = SERVER
    aio = False

    plan: Plan
    received: Any
    """grpc's call details, with path and metadata."""
    awaited: bool
    """Whether the handler may be done before its last message is written, and the RPC's end is awaited."""
    outcome: tuple[str, BaseException | None, str | None] | None
    """What such a handler ended in."""
    unheard: tuple[str, int | None] | None
    """What it means when the handler is dropped and was never called: a status, and the thread for which
    it holds. None where that says nothing, as other interceptors are around us."""

    def __init__(
        self,
        details: Any,
        method: Method | None,
        tracing: Tracing | None,
        metering: Metering | None,
        started: int,
    ) -> None:
        # What Call does, without the call of it.
        self._started = started
        self._open = self.ended = self.awaited = False
        self.method = method
        self.tracing = tracing
        self.metering = metering
        self.span = self.context = self.rpc = self.outcome = self.unheard = None
        self.requests = self.responses = 0
        self.received = details

    def __del__(self) -> None:
        # The last resort for calls that grpc drops: cancelled before the first message, or refused.
        if self.ended:
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
        if tracing is not None and method is not None:
            try:
                above = parent(self.received.invocation_metadata)
            except Exception as problem:  # noqa: BLE001 - what an outsider sends must not cost us the span
                fault("reading trace context from gRPC metadata", problem)
                above = NOTHING
            self.start(tracing, method, above)

    def particulars(self) -> dict[str, Any]:
        """Return the other end, and the name that was called where it is not one of the app's."""
        found: dict[str, Any] = {}
        method = self.method
        if method is not None and method.name == semconv.OTHER:
            found[semconv.RPC_METHOD_ORIGINAL] = scrubbed(self.received.method.removeprefix("/"), _MOST_NAME)
        if self.rpc is not None:
            try:
                found.update(peer_attributes(self.rpc.peer()))
            except Exception as problem:  # noqa: BLE001 - the span is worth more than its peer
                fault("reading the peer of a gRPC call", problem)
        return found

    def begin(self, rpc: Any) -> Any:
        """Take grpc's servicer context, open the span and make it current; return what `detach` takes."""
        self.rpc = rpc
        tracing = self.tracing
        if tracing is None:
            return None
        method = self.method
        if method is None:
            return None
        try:
            above = parent(self.received.invocation_metadata)
        except Exception as problem:  # noqa: BLE001 - what an outsider sends must not cost us the span
            fault("reading trace context from gRPC metadata", problem)
            above = NOTHING
        try:
            return attach(self.start(tracing, method, above))
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
        rpc = self.rpc
        remaining = rpc.time_remaining() if rpc is not None else None
        if remaining is None:
            return "CANCELLED"
        allowed = remaining + self.elapsed
        early = min(0.1, allowed * 0.2) + min(10.0, allowed * 0.01)
        return "DEADLINE_EXCEEDED" if remaining <= early else "CANCELLED"

    def terminated(self, *_: Any) -> None:
        """End the call as the RPC is over, and the handler may not be; grpc calls this, from any thread."""
        if self.ended:
            return
        try:
            status, error, details = self.outcome or (self.interrupted(), None, None)
            self.end(status, error, details)
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def returned(self, last: bool) -> None:
        """Note that the handler returned; where it is not the `last` step, an OK is left to `serialize`."""
        try:
            code_of = getattr(self.rpc, "code", None)
            if code_of is None or code_of() is None:
                if last:
                    self._conclude("OK", None, None)
                return
            status = self.status("OK")
            if last or status != "OK":
                self._conclude(status, None, self.details() if status != "OK" else None)
        except Exception as problem:  # noqa: BLE001
            fault("ending a gRPC call", problem)

    def raised(self, error: BaseException) -> None:
        """End the call with the status that grpc sends for what the handler raised."""
        if self.ended:
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
        read = self.plan.read
        if read is None:
            return data
        try:
            message = read(data)
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
        """Write one of a stream of responses with the app's serializer."""
        self.responses += 1
        write = self.plan.write
        try:
            data = message if write is None else write(message)
        except Exception as error:
            if not self.aio:
                self.end("INTERNAL", error)
            raise
        if data is None and not self.aio:
            self.end("INTERNAL")
        return data

    def serialize_one(self, message: Any) -> Any:
        """Write the only response of a call, which is also its end."""
        data = message
        write = self.plan.write
        if write is not None:
            try:
                data = write(message)
            except Exception as error:
                self.end("UNKNOWN" if self.aio else "INTERNAL", error)
                raise
        self.end("OK" if data is not None or self.aio else "INTERNAL")  # asyncio servers send nothing as b""
        return data

    def stand_in(self, behavior: Any) -> Any:
        """Return a handler for grpc that calls `behavior`, a method of ours, with messages counted."""
        plan = self.plan
        deserialize = self.deserialize if plan.request_streaming or plan.read is not None else None
        serialize = self.serialize if plan.response_streaming else self.serialize_one
        return _MAKERS[plan.request_streaming, plan.response_streaming](behavior, deserialize, serialize)


_ARITIES = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_MAKERS: dict[tuple[bool, bool], Any] = {
    shape: getattr(grpc, f"{arity}_rpc_method_handler") for shape, arity in _ARITIES.items()
}


def answering(
    base: type[ServerCall],
    style: str,
    request_streaming: bool,
    response_streaming: bool,
    reading: bool,
    limited: bool = False,
) -> Any:
    """Return a class of calls that are their own handler: grpc is handed the call, and no handler is made for it.

    It has what grpc looks at of an `RpcMethodHandler`; `style` names the method of `base` that is called.
    Requests do not pass by us unless `reading`. In a `limited` server, a call that is dropped was refused, unless grpc
    had looked at what streams: it looks after it has asked whether the maximum is reached.
    """

    def looked_at(call: Any) -> bool:
        call.unheard = CANCELLED
        return request_streaming

    arity = _ARITIES[request_streaming, response_streaming]
    return type(
        f"{base.__name__}_{style}_{arity}",
        (base,),
        {
            "__slots__": (),
            "aio": not style.startswith("sync"),
            "request_streaming": property(looked_at) if limited else request_streaming,
            "response_streaming": response_streaming,
            "request_deserializer": ServerCall.deserialize if reading else None,
            "response_serializer": ServerCall.serialize if response_streaming else ServerCall.serialize_one,
            **dict.fromkeys(_ARITIES.values()),
            arity: getattr(base, style),
        },
    )


_MOST_PEERS = 512
_peers: dict[str, dict[str, str | int]] = {}


def peer_attributes(peer: str) -> dict[str, str | int]:
    """Return the attributes of the other end, which grpc writes as `ipv4:host:port`, `ipv6:%5Bhost%5D:port`
    or `unix:path`. The same dict for each call of a connection; never write to it.
    """
    found = _peers.get(peer)
    if found is None:
        if len(_peers) >= _MOST_PEERS:
            _peers.clear()
        found = _peers[peer] = _parsed(peer)
    return found


def _parsed(peer: str) -> dict[str, str | int]:
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
