"""The HTTP endpoint a scraper asks: on a thread of its own, bounded, and never in the app's way.

A taken port costs nothing but the endpoint: it is told once with the remedy, recording goes on, and
the port is tried again until it is free.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flx_otel_distro.guard import fault, logger, tell_once
from flx_otel_distro.imports import unforked
from flx_otel_distro.prometheus.listener import Listener, Render

_RETRY = 2.0
_BACKLOG = 128

_endpoints: weakref.WeakSet[MetricsEndpoint] = weakref.WeakSet()


class MetricsEndpoint:
    """Serve `/metrics` (and `/`) on `host:port` from a daemon thread, until `stop()` or the program's end.

    Thread-safe. A forked child drops the inherited sockets at once, so that the port is free when the
    parent ends, and starts again by `ensure_started`. Bodies come from `render`, one at a time.
    """

    def __init__(self, host: str, port: int, render: Render, retry: float = _RETRY) -> None:
        self.host = host
        self.port = port
        self._render = render
        self._retry = retry
        self._parent_serves = False
        self._begin()
        _endpoints.add(self)

    def _begin(self) -> None:
        self._listener: Listener | None = None
        self._unstarted = [True]
        self._stopped = threading.Event()
        self._lock = threading.RLock()

    def ensure_started(self) -> None:
        """Start once, in the background; cheap when started. Never raises. Safe in a signal handler."""
        if self._unstarted and self._claim():
            self._spawn(self._keep_trying)

    def start(self) -> bool:
        """Bind and serve; return False where the port cannot be had (told once, with the remedy)."""
        self._claim()
        if not self._bind():
            return False
        self._spawn(self._keep_serving)
        return True

    def stop(self, seconds: float = 1.0) -> None:
        """Stop serving and free the port; wait at most `seconds` for a render that is under way."""
        with self._lock:
            self._stopped.set()
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop(seconds)

    def after_fork(self) -> None:
        """Close, in a forked child, the sockets it inherited; the parent's stay open."""
        listener = self._listener
        self._begin()
        if listener is not None:
            self._parent_serves = True
            listener.abandon()

    def _claim(self) -> bool:
        """Return True to one caller alone. Without a lock, which a signal handler's thread may hold already."""
        try:
            return self._unstarted.pop()
        except IndexError:
            return False

    def _spawn(self, target: Callable[[], None]) -> None:
        try:
            threading.Thread(target=target, name="flx-otel-metrics", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            fault("starting the metrics endpoint", error)

    def _keep_trying(self) -> None:
        try:
            # A program that ends before the second try could not have been scraped: it need not be told.
            if self._bind(tell=False) or not self._stopped.wait(self._retry):
                self._keep_serving()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            fault("the metrics endpoint", error)

    def _keep_serving(self) -> None:
        try:
            stopped = self._stopped
            while not stopped.is_set():
                if self._listener is not None or self._bind():
                    self._serve()
                if stopped.wait(self._retry):
                    return
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            fault("the metrics endpoint", error)

    def _serve(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            listener.serve()
        except OSError:  # such as a program that closes every descriptor to become a daemon
            logger.debug("the metrics endpoint lost its socket and takes another", exc_info=True)
        with self._lock:
            if self._listener is listener:
                self._listener = None

    def _bind(self, *, tell: bool = True) -> bool:
        try:
            with unforked():
                "localhost".encode("idna")  # looking a name up imports this codec
            family, address = _resolved(self.host, self.port)
            with unforked(), self._lock:  # no child is to inherit a socket that it does not know of
                if self._stopped.is_set():
                    return False
                self._listener = Listener(_listening(family, address), self._render)
                self.port = self._listener.port
        except (OSError, UnicodeError, OverflowError) as error:
            if not tell:
                return False
            tell_once(
                f"port:{self.host}:{self.port}",
                f"metrics are recorded but not served: {self.host}:{self.port} cannot be listened on "
                f"({getattr(error, 'strerror', None) or error}). Set OTEL_EXPORTER_PROMETHEUS_PORT to a free port, "
                "or stop what holds this one: it is tried again until it is free",
                logging.DEBUG if self._parent_serves else logging.WARNING,
            )
            return False
        return True


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and address to listen on, IPv4 first. It may wait for a resolver for long."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] is not socket.AF_INET)
    return family, address


def _listening(family: socket.AddressFamily, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it lets two programs have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _after_fork_in_child() -> None:
    for endpoint in list(_endpoints):
        endpoint.after_fork()


@atexit.register
def _stop_all() -> None:
    """End our threads before the interpreter does.

    glibc ends a thread that outlives the interpreter by loading libgcc, and aborts the process where
    that fails, such as for want of a descriptor.
    """
    for endpoint in list(_endpoints):
        endpoint.stop(0.5)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
