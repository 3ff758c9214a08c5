"""Answer scrapers over HTTP, from one thread and with bounded means, however many ask and however they behave.

Nobody keeps a scraper out: a connection that idles, drips or does not read what it asked for has a
deadline, and gives way to a new one when every place is taken.
"""

from __future__ import annotations

import errno
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus

from flx_otel_distro.guard import fault

Render = Callable[[str], tuple[bytes, str]]
"""Takes a scraper's Accept header; returns the body and its content type."""

_MOST_CLIENTS = 64
_AT_ONCE = 16
_MOST_HEAD = 65_536
_READ, _IDLE, _WRITE, _LEAVE = 5.0, 10.0, 10.0, 2.0
"""Seconds for a whole request, between two requests, for a whole answer, and for the peer to close."""
_GRACE = 0.25
"""Seconds in which a new connection does not give way: its request may be under way."""
_STUCK = 2.0
"""Seconds after which an answer that is not read gives way."""
_PAUSE = 0.5
"""Seconds without accepting when the process is out of descriptors or memory."""
_LONGEST_POLL = None if sys.platform == "linux" else 1.0
"""Seconds between looks at `stop()` where shutting the listening socket down does not end a poll."""

_SHORT_OF_MEANS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NOT_OURS = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL})
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class _Phase(Enum):
    READING = auto()
    WRITING = auto()
    IDLE = auto()
    LEAVING = auto()


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    since: float
    deadline: float
    phase: _Phase = _Phase.READING
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview = field(default_factory=lambda: memoryview(b""))
    keep: bool = False

    def enter(self, phase: _Phase, now: float, seconds: float) -> None:
        self.phase, self.since, self.deadline = phase, now, now + seconds


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    keep: bool = False
    with_body: bool = True

    def encode(self) -> bytes:
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nserver: flx-otel\r\n"
            f"date: {formatdate(usegmt=True)}\r\ncontent-type: {self.kind}\r\ncontent-length: {len(self.body)}\r\n"
            + ("allow: GET, HEAD\r\n" if self.status is HTTPStatus.METHOD_NOT_ALLOWED else "")
            + ("\r\n" if self.keep else "connection: close\r\n\r\n")
        )
        return head.encode("latin-1", "replace") + (self.body if self.with_body else b"")


class Listener:
    """Serve `/metrics` (and `/`) on a listening socket, which it owns, by the thread that calls `serve`.

    `stop` and `abandon` may come from any thread. Requests that are there when a render begins share it.
    """

    def __init__(self, listening: socket.socket, render: Render, clock: Callable[[], float] = time.monotonic) -> None:
        listening.setblocking(False)
        self._socket = listening
        self._render = render
        self._clock = clock
        self._clients: set[_Client] = set()
        self._deaf_until: float | None = None
        self._turn = threading.RLock()
        self._stopping = False
        self._thread: int | None = None
        self._finished = threading.Event()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def serve(self) -> None:
        """Answer until `stop()`; returns at once after it. Raises OSError where the app took our socket away."""
        with self._turn:
            if self._stopping:
                return
            self._thread = threading.get_ident()
        try:
            with _selector() as self._selector:
                self._selector.register(self._socket, selectors.EVENT_READ)
                while not self._stopping:
                    self._pass()
        except OSError as error:
            if not self._stopping:
                if error.errno in _NOT_OURS:
                    self._socket.detach()  # the number may be a file of the app's by now
                raise
        finally:
            self._close()
            self._finished.set()

    def stop(self, seconds: float = 1.0) -> None:
        """Free the port and close the connections; wait at most `seconds` for a render that is under way."""
        with self._turn:
            self._stopping = True
            thread = self._thread
        if thread is None:
            self._close()
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if thread != threading.get_ident():
            self._finished.wait(seconds)

    def abandon(self) -> None:
        """Close what a forked child inherited, without a word to the peers: they are the parent's."""
        self._stopping = True
        self._close()

    def _close(self) -> None:
        for client in list(self._clients):
            client.socket.close()
        self._clients.clear()
        self._socket.close()

    def _pass(self) -> None:
        ready = self._selector.select(self._patience())
        if self._stopping:
            return
        now = self._clock()
        knocked = False
        asked: list[_Client] = []
        for key, _ in ready:
            client: _Client | None = key.data
            if client is None:
                knocked = True
            elif client.phase is _Phase.WRITING:
                self._send(client, now)
            elif self._receive(client, now):
                asked.append(client)
        if asked:
            self._answer(asked)
            spent = self._clock() - now  # while nobody was listened to
            for client in self._clients:
                client.deadline += spent
            now += spent
        for client in [client for client in self._clients if client.deadline <= now]:
            self._drop(client)
        if self._deaf_until is not None and self._deaf_until <= now:
            self._deaf_until = None
            self._selector.register(self._socket, selectors.EVENT_READ)
        elif knocked:
            self._admit(now)

    def _patience(self) -> float | None:
        due = [client.deadline for client in self._clients]
        if self._deaf_until is not None:
            due.append(self._deaf_until)
        return max(0.0, min(due) - self._clock()) if due else _LONGEST_POLL

    def _admit(self, now: float) -> None:
        for _ in range(_AT_ONCE):
            if len(self._clients) >= _MOST_CLIENTS and not self._make_room(now):
                self._turn_deaf(now + _GRACE)
                return
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if error.errno in _SHORT_OF_MEANS:
                    self._turn_deaf(now + _PAUSE)
                elif error.errno in _NOT_OURS:
                    raise
                return
            client = _Client(connection, now, now + _READ)
            self._clients.add(client)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # gone already
                connection.close()
                self._clients.discard(client)
                continue
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _turn_deaf(self, until: float) -> None:
        self._deaf_until = until
        self._selector.unregister(self._socket)

    def _make_room(self, now: float) -> bool:
        for phases, age in (
            ((_Phase.IDLE, _Phase.LEAVING), 0.0),
            ((_Phase.READING,), _GRACE),
            ((_Phase.WRITING,), _STUCK),
        ):
            found = [each for each in self._clients if each.phase in phases and now - each.since >= age]
            if found:
                self._drop(min(found, key=lambda each: each.since))
                return True
        return False

    def _drop(self, client: _Client, ours: bool = True) -> None:
        self._clients.discard(client)
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(client.socket)
        if ours:
            client.socket.close()
        else:
            client.socket.detach()

    def _receive(self, client: _Client, now: float) -> bool:
        """Take what has come; return whether a request is complete (or too long to be one)."""
        try:
            data = client.socket.recv(_MOST_HEAD)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._drop(client, error.errno not in _NOT_OURS)
            return False
        if not data:
            self._drop(client)
            return False
        if client.phase is _Phase.LEAVING:
            return False
        if client.phase is _Phase.IDLE:
            client.enter(_Phase.READING, now, _READ)
        client.received += data
        if client.received.startswith((b"\r", b"\n")):  # between two requests; RFC 9112, 2.2
            client.received = client.received.lstrip(b"\r\n")
        return len(client.received) > _MOST_HEAD or _END_OF_HEAD.search(client.received) is not None

    def _answer(self, asked: list[_Client]) -> None:
        rendered: dict[str, _Answer] = {}
        for client in asked:
            answer = self._respond(bytes(client.received), rendered)
            client.received.clear()
            client.keep = answer.keep
            client.answer = memoryview(answer.encode())
            now = self._clock()
            client.enter(_Phase.WRITING, now, _WRITE)
            self._send(client, now)

    def _send(self, client: _Client, now: float) -> None:
        try:
            while client.answer:
                client.answer = client.answer[client.socket.send(client.answer) :]
        except (BlockingIOError, InterruptedError):
            self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
            return
        except OSError as error:
            self._drop(client, error.errno not in _NOT_OURS)
            return
        self._selector.modify(client.socket, selectors.EVENT_READ, client)
        if client.keep:
            client.enter(_Phase.IDLE, now, _IDLE)
            return
        client.enter(_Phase.LEAVING, now, _LEAVE)  # closing with bytes unread would destroy the answer on its way
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(client)

    def _respond(self, received: bytes, rendered: dict[str, _Answer]) -> _Answer:
        end = _END_OF_HEAD.search(received)
        if end is None or end.start() > _MOST_HEAD:
            return _Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"the request is too long\n")
        text = received[: end.start()].decode("latin-1").replace("\r\n", "\n")
        first, *lines = text.split("\n")
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or _CONTROL.search(text):
            return _Answer(HTTPStatus.BAD_REQUEST, b"this is not an HTTP/1 request\n")
        method, target, version = words
        if method not in ("GET", "HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"the metrics are read by GET\n")
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = f"{fields[name]},{value.strip()}" if name in fields else value.strip()
        keep = (
            version != "HTTP/1.0"
            and "close" not in fields.get("connection", "").lower()
            and not {"content-length", "transfer-encoding"} & fields.keys()
            and end.end() == len(received)
        )
        if target.split("?", 1)[0] not in ("/metrics", "/"):
            answer = _Answer(HTTPStatus.NOT_FOUND, b"not found: the metrics are at /metrics\n")
        else:
            accept = fields.get("accept", "")
            answer = rendered.get(accept) or rendered.setdefault(accept, self._rendered(accept))
        return _Answer(answer.status, answer.body, answer.kind, keep, method == "GET")

    def _rendered(self, accept: str) -> _Answer:
        try:
            return _Answer(HTTPStatus.OK, *self._render(accept))
        except Exception as error:  # noqa: BLE001 - a scraper gets a status, the app goes on
            fault("rendering metrics", error)
            message = b"metrics cannot be rendered: see the application's log\n"
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def _selector() -> selectors.BaseSelector:
    """Return a selector that takes no descriptor of its own."""
    kind: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
    return kind()
