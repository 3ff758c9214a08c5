"""OTLP over gRPC: one unary call at a time on one HTTP/2 connection, on the `h2` library.

Not on grpcio: its C core has threads and locks of its own that do not survive a fork, writes to the
app's stderr, retries past every deadline at exit and adds 18 MB to an app that serves no gRPC. A
unary Export needs of gRPC a frame of five bytes and a status in the trailers.
"""

from __future__ import annotations

import gzip
import socket
import struct
import zlib
from base64 import b64decode

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from flx_otel_distro import __version__
from flx_otel_distro.errors import printable
from flx_otel_distro.otlp.target import Target
from flx_otel_distro.otlp.transport import Outcome, described, dial, remaining

_MOST_ANSWER = 1_048_576
_STATUS = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_MAY_PASS = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})


class _GoneError(ConnectionError):
    """The collector closed the connection before it answered."""


class GrpcTransport:
    """Sends Export requests to one gRPC target. Used from one thread; dropped and made anew after a fork."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None
        self._h2 = H2Connection()

    def send(self, body: bytes, deadline: float) -> Outcome:
        """See `Transport.send`."""
        if self._target.compression == "gzip":
            body = gzip.compress(body, 6, mtime=0)
        elif self._target.compression == "deflate":
            body = zlib.compress(body)
        compressed = self._target.compression != "none"
        message = struct.pack(">BI", compressed, len(body)) + body
        kept = self._socket is not None
        try:
            try:
                return self._exchange(message, deadline)
            except (ConnectionError, ProtocolError):
                if not kept:
                    raise
                self.close()  # the collector had closed the idle connection: once more on a new one
                return self._exchange(message, deadline)
        except (OSError, ProtocolError, ValueError) as error:
            self.close()
            return Outcome("retry", described(error))

    def close(self) -> None:
        """See `Transport.close`."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _connect(self, deadline: float) -> socket.socket:
        sock = self._socket
        if sock is None or self._h2.state_machine.state is ConnectionState.CLOSED:
            self.close()
            sock = self._socket = dial(self._target, deadline, alpn="h2")
            self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
            self._h2.initiate_connection()
            self._flush(sock, deadline)
        return sock

    def _exchange(self, message: bytes, deadline: float) -> Outcome:
        sock = self._connect(deadline)
        h2 = self._h2
        stream = h2.get_next_available_stream_id()
        encoding = () if self._target.compression == "none" else (("grpc-encoding", self._target.compression),)
        h2.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "https" if self._target.tls else "http"),
                (":path", self._target.path),
                (":authority", self._target.authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", f"flx-otel-distro/{__version__}"),
                ("grpc-timeout", f"{max(1, int(remaining(deadline) * 1000))}m"),
                *encoding,
                *self._target.headers.items(),
            ],
        )
        call = _Call(stream)
        sent = 0
        while sent < len(message) and not call.ended:
            room = min(h2.local_flow_control_window(stream), h2.max_outbound_frame_size)
            if room <= 0:
                self._flush(sock, deadline)
                self._read(sock, call, deadline)
                continue
            piece = message[sent : sent + room]
            sent += len(piece)
            h2.send_data(stream, piece, end_stream=sent >= len(message))
            self._flush(sock, deadline)
        while not call.ended:
            self._read(sock, call, deadline)
        if sent < len(message):
            self.close()  # answered before all was sent: the stream is still half open
        return call.outcome()

    def _flush(self, sock: socket.socket, deadline: float) -> None:
        data = self._h2.data_to_send()
        if data:
            sock.settimeout(remaining(deadline))
            sock.sendall(data)

    def _read(self, sock: socket.socket, call: _Call, deadline: float) -> None:
        sock.settimeout(remaining(deadline))
        data = sock.recv(65_536)
        if not data:
            raise _GoneError("the collector closed the connection")
        for event in self._h2.receive_data(data):
            call.take(event)
            if isinstance(event, DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._flush(sock, deadline)


class _Call:
    """The answer to one call, as its events come in."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self.ended = False

    def take(self, event: Event) -> None:
        """Take one event of the connection; raises ConnectionError where the call cannot be answered any more."""
        if isinstance(event, ConnectionTerminated):
            # Streams up to last_stream_id are still answered after a graceful GOAWAY.
            if (event.last_stream_id or 0) < self._stream or event.error_code != ErrorCodes.NO_ERROR:
                raise _GoneError("the collector went away")
            return
        if getattr(event, "stream_id", None) != self._stream:
            return
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers or ():
                self._headers[_text(name)] = _text(value)
        elif isinstance(event, DataReceived):
            self._body += event.data or b""
            if len(self._body) > _MOST_ANSWER:
                raise _GoneError("the collector's answer is too long")
        elif isinstance(event, StreamReset):
            if "grpc-status" not in self._headers:
                raise _GoneError(f"the collector reset the call ({event.error_code})")
            self.ended = True
        elif isinstance(event, StreamEnded):
            self.ended = True

    def outcome(self) -> Outcome:
        """Return what came of the ended call."""
        number = self._headers.get("grpc-status")
        if number is None:
            status = self._headers.get(":status", "")
            kind = "retry" if status in ("429", "502", "503", "504") else "refused"
            return Outcome(kind, f"HTTP {printable(status, 20)} without a gRPC status (is this a gRPC port?)")
        code = int(number) if number.isdecimal() and len(number) < 3 else 2
        name = _STATUS[code] if code < len(_STATUS) else "UNKNOWN"
        if name == "OK":
            body = bytes(self._body)
            return Outcome("ok", body=body[5:] if len(body) > 5 and body[0] == 0 else b"")
        detail = f"{name} {printable(self._headers.get('grpc-message', ''), 200)}".strip()
        may_pass = name in _MAY_PASS or (name == "RESOURCE_EXHAUSTED" and self._names_a_delay())
        return Outcome("retry" if may_pass else "refused", detail)

    def _names_a_delay(self) -> bool:
        """Return whether the status details hold a RetryInfo: only then is RESOURCE_EXHAUSTED worth a retry."""
        text = self._headers.get("grpc-status-details-bin", "")
        try:
            return b"google.rpc.RetryInfo" in b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return False


def _text(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
