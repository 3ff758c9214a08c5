"""What a transport is: it sends one encoded request before a deadline and says what came of it.

Transports own their socket, so a deadline always holds, a forked child can drop the connection it
inherited without a word to the collector, and nothing of the app's own HTTP or gRPC stack is touched.
"""

from __future__ import annotations

import _socket
import importlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from flx_otel_distro.errors import printable
from flx_otel_distro.otlp.target import Target

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request.

    `kind`: "ok"; "retry" for a fault that may pass; "refused" for one that will not. `detail` is for
    people and holds no secret. `retry_after` is in seconds, where the collector named it. `body` is
    the collector's answer, which may tell of partial success.
    """

    kind: Literal["ok", "retry", "refused"]
    detail: str = ""
    retry_after: float | None = None
    body: bytes = b""


class Transport(Protocol):
    """Sends requests one at a time; used from one thread."""

    def send(self, body: bytes, deadline: float) -> Outcome:
        """Send `body` (an encoded Export request) before `deadline` (time.monotonic seconds); never raises OSError."""
        ...

    def close(self) -> None:
        """Drop the connection; the next `send` makes a new one. Safe in a forked child."""
        ...


class DeadlineError(OSError):
    """The deadline passed before the collector answered."""


def described(error: Exception) -> str:
    """Return an error of sending for people. What libraries say may quote a header or a URL: its kind is enough."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if type(error).__module__ == "ssl":
        return f"{type(error).__name__}: {printable(str(error))} (is it TLS there? http:// in the endpoint is without)"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {printable(str(error))}"
    return f"{type(error).__name__} while speaking to it"


def remaining(deadline: float) -> float:
    """Return the seconds left before `deadline`; raise DeadlineError where none is."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError("the collector did not answer in time")
    return left


def dial(target: Target, deadline: float, alpn: str | None = None) -> socket.socket:
    """Open a connection to the target, through `HTTP(S)_PROXY` where one applies, with TLS where asked.

    Raises OSError (ssl.SSLError included) where that is not possible before `deadline`.
    """
    proxy = _proxy(target)
    host, port = (target.host, target.port) if proxy is None else (proxy.hostname or "", proxy.port or 8080)
    sock = _connect(host, port, deadline)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None:
            _tunnel(sock, target, proxy.username, proxy.password, deadline)
        if target.tls:
            sock.settimeout(remaining(deadline))
            sock = _tls_context(target, alpn).wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise
    return sock


_Socket = socket.socket  # before anyone replaces it: the sender is a thread, under gevent too


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers; raise the last OSError where none does."""
    refused: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = _Socket(family, kind, protocol)
        try:
            sock.settimeout(remaining(deadline))
            sock.connect(address)
        except OSError as error:
            sock.close()
            refused = error
        else:
            return sock
    raise refused


def prepare(target: Target) -> None:
    """Import what `dial` needs for this target, codecs included, so that it imports nothing later."""
    for module in ("base64", "urllib.request", *(("ssl",) if target.tls else ())):
        importlib.import_module(module)
    "localhost".encode("idna")


def _tls_context(target: Target, alpn: str | None) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(cafile=target.certificate or None)
    if target.client_certificate:
        context.load_cert_chain(target.client_certificate, target.client_key or None)
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def _proxy(target: Target) -> SplitResult | None:
    from urllib.request import getproxies, proxy_bypass

    found = getproxies().get("https" if target.tls else "http")
    if not found or target.host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(target.host):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def _tunnel(sock: socket.socket, target: Target, user: str | None, password: str | None, deadline: float) -> None:
    request = f"CONNECT {target.authority} HTTP/1.1\r\nHost: {target.authority}\r\n"
    if user:
        from base64 import b64encode

        secret = b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        request += f"Proxy-Authorization: Basic {secret}\r\n"
    sock.settimeout(remaining(deadline))
    sock.sendall((request + "\r\n").encode("latin-1"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        sock.settimeout(remaining(deadline))
        piece = sock.recv(1)  # not a byte more than the proxy's own answer
        if not piece or len(answer) > 16_384:
            raise OSError("the proxy closed the connection")
        answer += piece
    line = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if line.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy refused: {printable(line, 100)}")
