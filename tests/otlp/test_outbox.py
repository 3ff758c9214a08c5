"""The queue before a transport: bounded, never blocking, and with a deadline at its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from flx_otel_distro.otlp.outbox import Outbox
from flx_otel_distro.otlp.transport import Outcome
from tests.support.waiting import eventually


class Receiver:
    """Delivers to a list; answers with what `outcomes` holds, then with "ok"; blocks while `closed`."""

    def __init__(self, *outcomes: str) -> None:
        self.batches: list[list[int]] = []
        self._outcomes = list(outcomes)
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    def deliver(self, items: Sequence[int], deadline: float) -> Outcome:
        self.asked.set()
        if not self.open.wait(max(0.0, deadline - time.monotonic())):
            return Outcome("retry", "late")
        kind = self._outcomes.pop(0) if self._outcomes else "ok"
        if kind == "ok":
            self.batches.append(list(items))
        return Outcome(kind)  # pyright: ignore[reportArgumentType]


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 5))
def test_every_item_is_sent_once_in_order_in_batches_of_at_most_the_size(puts: list[int], batch: int) -> None:
    receiver = Receiver()
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=batch, most=1000, delay=3600)
    sent = list(range(sum(puts)))
    for item in sent:
        outbox.put(item)
    assert outbox.close(10)
    assert [item for each in receiver.batches for item in each] == sent
    assert all(len(each) <= batch for each in receiver.batches)


def test_a_full_queue_drops_and_counts_and_never_blocks() -> None:
    receiver = Receiver()
    receiver.open.clear()
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=2, most=10, delay=0, timeout=60)
    outbox.put(0)
    assert receiver.asked.wait(10)
    for item in range(1, 1000):
        outbox.put(item)
    assert (outbox.waiting, outbox.dropped) == (10, 990)
    receiver.open.set()
    assert outbox.close(10)
    assert sum(map(len, receiver.batches)) == 10


def test_what_may_pass_is_sent_again_and_what_will_not_is_dropped() -> None:
    receiver = Receiver("retry", "refused")
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=1, delay=0)
    outbox.put(1)  # retried after a backoff, then refused
    eventually("the refusal", lambda: outbox.dropped == 1)
    outbox.put(2)
    assert outbox.close(10)
    assert receiver.batches == [[2]]


def test_a_flush_sends_at_once_and_gives_up_where_nobody_answers() -> None:
    receiver = Receiver(*["retry"] * 100)
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=10, delay=3600)
    outbox.put(1)
    began = time.monotonic()
    assert outbox.flush(60) is False
    assert time.monotonic() - began < 30  # gave up after its one attempt, not after a minute
    assert outbox.waiting == 1


def test_a_flush_waits_no_longer_than_asked() -> None:
    receiver = Receiver()
    receiver.open.clear()
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=1, delay=0, timeout=3600)
    outbox.put(1)
    assert receiver.asked.wait(10)
    assert outbox.flush(0.1) is False
    receiver.open.set()


def test_an_item_put_while_the_thread_goes_to_sleep_is_not_forgotten() -> None:
    receiver = Receiver()
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=1, delay=0)
    for item in range(3000):
        outbox.put(item)
        if item % 7 == 0:
            eventually("sent", lambda: outbox.waiting == 0)
    eventually("all sent", lambda: sum(map(len, receiver.batches)) == 3000 - outbox.dropped)


def test_many_threads_lose_nothing() -> None:
    receiver = Receiver()
    outbox: Outbox[int] = Outbox("test", receiver.deliver, batch=16, most=100_000, delay=0.001)

    def work(first: int) -> None:
        for item in range(first, first + 1000):
            outbox.put(item)

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.close(30)
    assert sorted(item for each in receiver.batches for item in each) == list(range(8000))


def test_waiting_to_try_again_takes_none_of_the_apps_random_numbers() -> None:
    receiver = Receiver("retry")
    outbox: Outbox[int] = Outbox("test", receiver.deliver, delay=0)
    before = random.getstate()
    outbox.put(1)
    eventually("it is sent again", lambda: receiver.batches == [[1]])
    assert random.getstate() == before
    assert outbox.close(10)
