"""The end of a process and the start of a forked one.

Whatever way a process ends in which Python still runs - its last line, an exception, `sys.exit`,
SIGTERM, SIGINT, `os._exit`, the end of a multiprocessing child - what was finished before is sent, and
the end waits at most `FLX_OTEL_EXIT_TIMEOUT` milliseconds for it. The exit code, the signal the parent
sees, and the app's own handlers stay what they were.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, NoReturn, Protocol

from flx_otel_distro import environment as env
from flx_otel_distro.guard import guarded
from flx_otel_distro.imports import when_imported


class Part(Protocol):
    """Something with data still to be sent."""

    def begin(self, seconds: float) -> None:
        """Begin to send, without waiting."""
        ...

    def finish(self, seconds: float) -> None:
        """Wait until all is sent, sending is given up, or `seconds` have passed."""
        ...

    def pending(self) -> bool:
        """Return whether there may be something to send."""
        ...

    def after_fork(self) -> None:
        """Begin anew in a forked child, with nothing of the parent's."""
        ...


class OutboxPart:
    """A span or log processor with an `outbox`."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def begin(self, seconds: float) -> None:
        self._processor.outbox.hurry(seconds)

    def finish(self, seconds: float) -> None:
        self._processor.outbox.settle(seconds)

    def pending(self) -> bool:
        return bool(self._processor.outbox.waiting)

    def after_fork(self) -> None:
        self._processor.after_fork()


class CallPart:
    """Anything of upstream's or a third party's that blocks while it flushes: called on a thread of its own."""

    def __init__(
        self,
        name: str,
        flush: Callable[[float], object],
        forked: Callable[[], object] | None = None,
        pending: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._flush = flush
        self._forked = forked
        self._pending = pending
        self._thread: threading.Thread | None = None
        self._here = False

    def begin(self, seconds: float) -> None:
        def run() -> None:
            with guarded(f"flushing {self._name}"):
                self._flush(seconds)

        thread = threading.Thread(target=run, name=f"flx-otel-flush-{self._name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending: from Python 3.12 on it starts no more threads
            self._here = True
            return
        self._thread = thread

    def finish(self, seconds: float) -> None:
        if self._here:
            self._here = False
            with guarded(f"flushing {self._name}"):
                self._flush(seconds)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(seconds)

    def pending(self) -> bool:
        return self._pending()

    def after_fork(self) -> None:
        self._thread = None
        if self._forked is not None:
            self._forked()


class Lifecycle:
    """Flushes its parts at every end of the process, and renews them in forked children.

    One for a process. `install` may be called from any thread; SIGTERM is looked after only where that is
    the main thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: list[Part] = []
        self._on_fork: list[Callable[[], None]] = []
        self._installed = False
        self._ending = False
        self._signal: int | None = None
        """A signal that came while the process was ending already; it acts when that is done."""

    def add(self, part: Part) -> None:
        """Flush `part` at the end from now on."""
        self._parts.append(part)

    def on_fork(self, renew: Callable[[], None]) -> None:
        """Call `renew` in every forked child."""
        self._on_fork.append(renew)

    def install(self) -> None:
        """Hook into the ends of the process, once."""
        if self._installed:
            return
        self._installed = True
        atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
            if sys.version_info >= (3, 12):
                os.register_at_fork(before=_keep_fork_quiet)
        self._wrap_exit()
        when_imported("multiprocessing.util", self._end_with_multiprocessing_child)
        if threading.current_thread() is threading.main_thread():
            self._handle_sigterm()

    def end(self) -> None:
        """Send what is left, within `FLX_OTEL_EXIT_TIMEOUT` milliseconds for all parts together. Never raises."""
        if self._ending:
            return
        self._ending = True
        try:
            parts = [part for part in self._parts if _is_pending(part)]
            if not parts:
                return
            seconds = env.EXIT_TIMEOUT.read() / 1000
            deadline = self._clock() + seconds
            for part in parts:
                with guarded("flushing at the end"):
                    part.begin(seconds)
            for part in parts:
                with guarded("flushing at the end"):
                    part.finish(max(0.0, deadline - self._clock()))
        finally:
            self._ending = False
            if self._signal is not None:
                _die(self._signal)

    def _at_exit(self) -> None:
        interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
        try:
            self.end()
        except KeyboardInterrupt:  # a second Ctrl-C: no more waiting
            interrupted = True
        if interrupted:
            _remember_interrupt()

    def _after_fork(self) -> None:
        self._ending = False
        self._signal = None
        for part in self._parts:
            with guarded("renewing after a fork"):
                part.after_fork()
        for renew in self._on_fork:
            with guarded("renewing after a fork"):
                renew()

    def _handle_sigterm(self) -> None:
        """Flush where SIGTERM would end the process by its default action, now or later.

        Servers set handlers of their own, put the default back and raise the signal again when they are
        done (uvicorn, under gunicorn), so the default is ours whenever it is set; the app still sees
        `SIG_DFL`. A handler of the app's is never touched.
        """
        set_handler, get_handler = signal.signal, signal.getsignal
        if getattr(set_handler, "_flx_otel", False):
            return

        def terminate(number: int, frame: FrameType | None) -> None:
            if self._ending:
                self._signal = number
                return
            self.end()
            _die(number)

        def seen(handler: Any) -> Any:
            return signal.SIG_DFL if handler is terminate else handler

        @functools.wraps(set_handler)
        def signal_(signalnum: Any, handler: Any) -> Any:
            ours = signalnum == signal.SIGTERM and handler == signal.SIG_DFL
            return seen(set_handler(signalnum, terminate if ours else handler))

        @functools.wraps(get_handler)
        def getsignal(signalnum: Any) -> Any:
            return seen(get_handler(signalnum))

        signal_._flx_otel = True  # pyright: ignore[reportAttributeAccessIssue]
        _set_default[:] = [lambda number: set_handler(number, signal.SIG_DFL)]
        signal.signal, signal.getsignal = signal_, getsignal
        if get_handler(signal.SIGTERM) is signal.SIG_DFL:
            set_handler(signal.SIGTERM, terminate)

    def _wrap_exit(self) -> None:
        """Flush before `os._exit`, by which forked children end: nothing else runs there."""
        original: Callable[[int], NoReturn] = os._exit
        if getattr(original, "_flx_otel", False):
            return

        def _exit(status: int) -> NoReturn:
            if not sys.is_finalizing():
                with guarded("flushing at os._exit"):
                    self.end()
            original(status)

        _exit.__doc__ = original.__doc__
        _exit._flx_otel = True  # pyright: ignore[reportFunctionMemberAccess]
        os._exit = _exit

    def _end_with_multiprocessing_child(self, util: ModuleType) -> None:
        """Flush when a multiprocessing child ends; it clears every finalizer it inherited when it begins."""
        module: Any = util

        def register(lifecycle: Lifecycle) -> None:
            module.Finalize(None, lifecycle.end, exitpriority=-100)

        module.register_after_fork(self, register)


class _ForkWarning:
    """Matches Python's warning of a fork with threads where the only other threads are ours.

    Ours hold nothing over a fork that is not renewed in the child. With a thread of the app's own the
    warning is what it would be without us.
    """

    def match(self, text: str) -> bool:
        if "use of fork() may lead to deadlocks" not in text:
            return False
        main = threading.main_thread()
        return all(each is main or each.name.startswith(_OUR_THREADS) for each in threading.enumerate())


_OUR_THREADS = ("flx-otel", "OtelPeriodicExportingMetricReader", "OtelBatch", "Dummy-")


_FORK_WARNING: Any = ("ignore", _ForkWarning(), DeprecationWarning, None, 0)


def _keep_fork_quiet() -> None:
    """Put our filter first before each fork; whoever resets the filters resets it too."""
    with guarded("keeping a fork quiet"):
        filters: Any = warnings.filters
        if not filters or filters[0] is not _FORK_WARNING:
            warnings.filterwarnings("ignore", "flx-otel", DeprecationWarning)
            warnings.filters[0] = _FORK_WARNING  # pyright: ignore[reportIndexIssue, reportUnknownMemberType]


_set_default: list[Callable[[int], object]] = [lambda number: signal.signal(number, signal.SIG_DFL)]
"""How the default action is really set, past our own `signal.signal`."""


def _die(number: int) -> None:
    """End by the signal's default action, so that the parent sees the signal, as without us."""
    _set_default[0](number)
    os.kill(os.getpid(), number)


def _remember_interrupt() -> None:
    """Let the interpreter end by SIGINT, as it does after a KeyboardInterrupt nobody caught.

    CPython keeps that in a flag which every `exec` of source text overwrites, and imports on the sending
    thread do that (dataclasses and named tuples are made so). The same way sets it again.
    """
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")


def _is_pending(part: Part) -> bool:
    with guarded("flushing at the end"):
        return part.pending()
    return False
