"""OTLP over HTTP/1.1 with protobuf bodies, on a kept-alive connection.

Statuses as the OTLP specification reads them: 2xx done; 429, 502, 503 and 504 may pass; every other
is final. Redirects are not followed: headers hold credentials.
"""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from flx_otel_distro import __version__
from flx_otel_distro.errors import printable
from flx_otel_distro.otlp.target import Target
from flx_otel_distro.otlp.transport import Outcome, described, dial, remaining

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MOST_ANSWER = 65_536
_MAY_PASS = frozenset({429, 502, 503, 504})


class _Timed(io.RawIOBase):
    """Reads and writes a socket before a deadline that counts for the whole exchange, not for each byte."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._sock.settimeout(remaining(self.deadline))
        return self._sock.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(remaining(self.deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what http.client reads one answer from."""
        return io.BufferedReader(self)

    def close(self) -> None:
        """Leave the socket open: http.client closes before it reads an answer that ends with the connection."""

    def hang_up(self) -> None:
        """Close the socket."""
        self._sock.close()


class HttpTransport:
    """Sends Export requests to one HTTP target. Used from one thread; dropped and made anew after a fork."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: http.client.HTTPConnection | None = None
        self._timed: _Timed | None = None
        self._headers: dict[str, str | bytes] = {
            "content-type": "application/x-protobuf",
            "user-agent": f"flx-otel-distro/{__version__}",
            **({"content-encoding": target.compression} if target.compression != "none" else {}),
            **{name: value.encode() for name, value in target.headers.items()},
        }

    def send(self, body: bytes, deadline: float) -> Outcome:
        """See `Transport.send`."""
        if self._target.compression == "gzip":
            body = gzip.compress(body, 6, mtime=0)
        elif self._target.compression == "deflate":
            body = zlib.compress(body)
        kept = self._connection is not None
        try:
            try:
                return self._exchange(body, deadline)
            except (http.client.BadStatusLine, ConnectionError):
                if not kept:
                    raise
                self.close()  # the collector had closed the idle connection: once more on a new one
                return self._exchange(body, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return Outcome("retry", described(error))

    def _exchange(self, body: bytes, deadline: float) -> Outcome:
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPConnection(self._target.host, self._target.port)
            connection.sock = self._timed = _Timed(dial(self._target, deadline))
            self._connection = connection
        if self._timed is not None:
            self._timed.deadline = deadline
        connection.request("POST", self._target.path, body, {"host": self._target.authority, **self._headers})
        answer = connection.getresponse()
        content = answer.read(_MOST_ANSWER + 1)
        if len(content) > _MOST_ANSWER or answer.will_close:
            self.close()
        if 200 <= answer.status < 300:
            return Outcome("ok", body=content[:_MOST_ANSWER])
        detail = f"HTTP {answer.status} {printable(answer.reason or '', 100)}".strip()
        if answer.status in _MAY_PASS:
            return Outcome("retry", detail, _retry_after(answer.getheader("retry-after")))
        return Outcome("refused", detail)

    def close(self) -> None:
        """See `Transport.close`."""
        connection, self._connection = self._connection, None
        timed, self._timed = self._timed, None
        if connection is not None:
            connection.close()
        if timed is not None:
            timed.hang_up()


def _retry_after(text: str | None) -> float | None:
    if not text:
        return None
    if text.isdecimal():
        return float(min(int(text[:9]), 3600))
    try:
        import time

        return max(0.0, min(parsedate_to_datetime(text).timestamp() - time.time(), 3600.0))
    except (ValueError, TypeError):
        return None
