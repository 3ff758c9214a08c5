"""A bounded queue before a transport: `put` never blocks, one thread sends, the end has a deadline.

The thread lives while there is something to send, so that idle processes and supervisors have none. A
forked child begins with an empty queue: what was queued before the fork is the parent's to send.

Threads and locks are those of the interpreter itself, taken before anyone could replace them: under
gevent the sender stays a thread, and a greenlet that ends a span never waits. A bell is a lock that is
released to ring and acquired to wait; ringing never blocks and has no owner, so that greenlets and
signal handlers may ring it at any moment.
"""

from __future__ import annotations

import _thread
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from flx_otel_distro.guard import fault
from flx_otel_distro.imports import unforked
from flx_otel_distro.otlp.transport import Outcome

T = TypeVar("T")

_FIRST_BACKOFF = 1.0
_MOST_BACKOFF = 30.0
_GLANCE = 0.05

_jitter = random.Random()
"""A generator of our own: an app that seeds the module's gets its numbers, and all of them."""

_start_thread = _thread.start_new_thread
_new_lock = _thread.allocate_lock

Deliver = Callable[[Sequence[T], float], Outcome]
"""Sends a batch before a deadline (time.monotonic seconds)."""


class _Bell:
    """Wakes one waiter; rings before the wait count."""

    def __init__(self) -> None:
        self._lock = _new_lock()
        self._lock.acquire()

    def ring(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            return  # rung already

    def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=max(0.0, min(seconds, 3600.0)))


class Outbox(Generic[T]):
    """Queue items and deliver them in batches.

    `delay` and `timeout` are in seconds: the longest wait before a batch is sent, and the time one
    attempt may take; `prepare` runs once on the sending thread, with forks held back, and does its
    imports. `most` bounds the items held, those of a failed batch included; what comes beyond is dropped
    and counted in `dropped`. Thread-safe, and safe from signal handlers and greenlets.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver[T],
        *,
        batch: int = 512,
        most: int = 2048,
        delay: float = 5.0,
        timeout: float = 10.0,
        prepare: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._deliver = deliver
        self._batch = min(batch, most)
        self._most = most
        self._delay = delay
        self._timeout = timeout
        self._prepare = prepare
        self._clock = clock
        self.dropped = 0
        self._begin()

    def _begin(self) -> None:
        self._queue: deque[T] = deque()
        self._held = 0  # items of the batch under way
        self._sender = _new_lock()  # held by whoever sends: the thread, or the end of the process
        self._bell = _Bell()  # for the sender: more to send, or hurry
        self._news = _Bell()  # for who waits: a batch is done
        self._prepared = False
        self._closed = False
        self._hurry_until = 0.0
        self._hurries = 0
        self._gave_up = False
        self._asked_wait = 0.0  # seconds the collector asked for

    def has_room(self) -> bool:
        """Return whether one more item would be taken; where not, count it as dropped."""
        if len(self._queue) + self._held >= self._most or self._closed:
            self.dropped += 1
            return False
        return True

    def put(self, item: T) -> None:
        """Queue one item. Never blocks, never raises; about a microsecond."""
        if not self.has_room():
            return
        queue = self._queue
        queue.append(item)
        if not self._sender.locked():
            self._start()
        elif len(queue) == self._batch:
            self._bell.ring()

    @property
    def waiting(self) -> int:
        """Return how many items are not sent yet."""
        return len(self._queue) + self._held

    def flush(self, seconds: float) -> bool:
        """Send what is queued; return whether all was sent within `seconds`.

        Returns early when the collector cannot be reached: the end of a process does not wait for it.
        """
        self.hurry(seconds)
        return self.settle(seconds)

    def hurry(self, seconds: float) -> None:
        """Begin to send at once, without waiting for the outcome."""
        self._hurry_until = self._clock() + seconds
        self._hurries += 1
        self._gave_up = False
        if self.waiting:
            self._start()
        self._bell.ring()

    def settle(self, seconds: float) -> bool:
        """Wait until all is sent, the sender gave up, or `seconds` have passed; return whether all was sent."""
        deadline = self._clock() + seconds
        while self.waiting and not self._gave_up:
            left = deadline - self._clock()
            if left <= 0:
                break
            if not self._sender.locked() and not self._start() and self._sender.acquire(blocking=False):
                # No thread can be started any more: the interpreter is ending, or the system has none left.
                self._send_here(deadline)
                break
            self._news.wait(min(left, _GLANCE))
        return not self.waiting

    def close(self, seconds: float) -> bool:
        """Flush, then take no more items; return whether all was sent."""
        sent = self.flush(seconds)
        self._closed = True
        self._bell.ring()
        return sent

    def after_fork(self) -> None:
        """Begin anew in a forked child: empty queue, fresh locks, no thread."""
        self.dropped = 0
        self._begin()

    # --- the sender --------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Start the sending thread unless one sends already; return False where none can be started."""
        if not self._sender.acquire(blocking=False):
            return True
        try:
            _start_thread(self._run, ())
        except RuntimeError:
            self._sender.release()
            return False
        return True

    def _run(self) -> None:
        queue, sender, bell = self._queue, self._sender, self._bell
        try:
            if not self._prepared:
                with unforked():
                    self._prepare()
                self._prepared = True
            while queue and not self._closed:
                self._gather(bell)
                self._drain()
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to
            fault(f"sending {self._name}", error)
        finally:
            sender.release()
            self._news.ring()
        if queue and not self._closed and sender is self._sender:
            self._start()  # an item came between the last look and the release

    def _gather(self, bell: _Bell) -> None:
        """Wait until a batch is full, the delay has passed or somebody hurries."""
        due = self._clock() + self._delay
        while len(self._queue) < self._batch and not self._hurried() and not self._closed:
            left = due - self._clock()
            if left <= 0:
                return
            bell.wait(left)

    def _hurried(self) -> bool:
        return self._clock() < self._hurry_until

    def _drain(self) -> None:
        """Send all that is queued, batch after batch, retrying what may pass."""
        while self._queue:
            items = self._take()
            try:
                self._send(items)
            finally:
                self._held = 0
                self._news.ring()

    def _take(self) -> list[T]:
        queue = self._queue
        items = [queue.popleft() for _ in range(min(self._batch, len(queue)))]
        self._held = len(items)
        return items

    def _send(self, items: list[T]) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            hurries = self._hurries
            timeout = min(self._timeout, max(_GLANCE, self._hurry_until - self._clock())) if self._hurried() else None
            outcome = self._attempt(items, self._clock() + (self._timeout if timeout is None else timeout))
            if outcome == "ok":
                return
            if outcome == "refused" or self._closed:
                self.dropped += len(items)
                return
            if self._hurried():
                self._gave_up = True
                self._news.ring()
            until = self._clock() + max(backoff * _jitter.uniform(0.8, 1.2), self._asked_wait)
            while (left := until - self._clock()) > 0 and self._hurries == hurries and not self._closed:
                self._bell.wait(left)
            backoff = min(backoff * 2, _MOST_BACKOFF)

    def _send_here(self, deadline: float) -> None:
        """Send on the calling thread, each batch once, until one fails or the deadline has passed."""
        try:
            while self._queue and self._clock() < deadline:
                items = self._take()
                outcome = self._attempt(items, deadline)
                self._held = 0
                if outcome == "retry":
                    self._queue.extendleft(reversed(items))
                    return
        finally:
            self._sender.release()

    def _attempt(self, items: Sequence[T], deadline: float) -> Literal["ok", "retry", "refused"]:
        try:
            outcome = self._deliver(items, deadline)
        except Exception as error:  # noqa: BLE001 - an item nobody can encode must not stop the others
            fault(f"sending {self._name}", error)
            return "refused"
        self._asked_wait = outcome.retry_after or 0.0
        return outcome.kind
