"""Keep our own faults away from the app: each is logged once, with the remedy, and then counted.

The app's own calls never run inside these blocks, so an exception of the app passes unchanged.
Tests set `on_fault` to a callable that re-raises what production swallows.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from flx_otel_distro.errors import ConfigurationError, printable

logger = logging.getLogger("flx_otel")

_MOST_PLACES = 256
_counts: dict[str, int] = {}
_lock = threading.RLock()  # a signal handler may interrupt its owner and have something to tell

on_fault: Callable[[str, BaseException], None] | None = None
"""Called with the place and the exception of every swallowed fault; production leaves it None."""


def fault(place: str, error: BaseException, remedy: str = "") -> None:
    """Log `error` of our own code at `place` once, and count it from then on.

    Never raises in production. Safe from any thread and after a fork. `place` comes from a bounded
    set of literals; beyond 256 places nothing more is logged.
    """
    with _lock:
        seen = _counts.get(place, 0)
        if seen or len(_counts) < _MOST_PLACES:
            _counts[place] = seen + 1
        first = not seen and len(_counts) <= _MOST_PLACES
    if first:
        said = printable(" ".join(f"{type(error).__name__}: {error}".split()), 500)
        tell_once(f"fault:{place}", f"{place} failed and goes on without it: {said}{_remedy(remedy)}")
        logger.debug("%s failed", place, exc_info=error)
    if on_fault is not None:
        on_fault(place, error)


def faults() -> dict[str, int]:
    """Return how often each place has failed since the process began (a copy)."""
    with _lock:
        return dict(_counts)


@contextmanager
def guarded(place: str, remedy: str = "") -> Generator[None]:
    """Run a block of our own code; a fault in it is logged once and goes no further.

    Never put the app's call inside: exceptions of the app must pass unchanged. KeyboardInterrupt,
    SystemExit, cancellation and strict mode's ConfigurationError are not faults of ours and pass.
    """
    try:
        yield
    except ConfigurationError:
        raise  # only under strict mode, which is there to stop the run
    except Exception as error:  # noqa: BLE001 - this is the one place that swallows
        fault(place, error, remedy)


_told: set[str] = set()


def tell_once(key: str, message: str, level: int = logging.WARNING) -> bool:
    """Log `message` unless `key` was told before in this process; return whether it was logged.

    A logging handler of the app that raises does not reach the caller.
    """
    with _lock:
        if key in _told or len(_told) >= 4 * _MOST_PLACES:
            return False
        _told.add(key)
    say(level, message)
    return True


def say(level: int, message: str) -> None:
    """Log one line of ours. Never raises, never blocks on a stderr that nobody reads, never spans lines.

    Where the app has configured no logging the line goes to stderr, as logging itself would send it, but
    without logging's lock: a process must not wait at its end for a reader of our warning.
    """
    text = f"flx-otel: {printable(message, 1500)}"
    try:
        logger.disabled = False  # dictConfig disables loggers it does not name
        if not logger.isEnabledFor(level) or not _writable(2):
            return
        if logger.hasHandlers() or sys.stderr is not sys.__stderr__:
            logger.log(level, "%s", text)
        elif level >= logging.WARNING:
            os.write(2, text.encode(errors="backslashreplace")[:4000] + b"\n")
    except Exception as error:  # noqa: BLE001 - an app's handler may raise anything
        if on_fault is not None:
            on_fault("logging", error)


def _writable(descriptor: int) -> bool:
    """Return whether a short write would neither block nor fail."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT and not event & select.POLLERR for _, event in asked.poll(0))


def _remedy(remedy: str) -> str:
    return f". {remedy}" if remedy else ""


def _forget_lock() -> None:
    """Give a forked child a fresh lock: another thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_lock)


_register()
