"""Imports on threads of ours, and the forks that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flx_otel_distro import imports
from flx_otel_distro.imports import _after_fork_in_parent, _before_fork, unforked


class Worker:
    """A thread that does one thing after the other, as it is told."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._told = [threading.Event() for _ in steps]
        self._done = [threading.Event() for _ in steps]
        self._steps = steps
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for told, step, done in zip(self._told, self._steps, self._done, strict=True):
            told.wait()
            step()
            done.set()

    def do(self, step: int) -> None:
        self._told[step].set()
        assert self._done[step].wait(60)


@pytest.fixture
def importing() -> Iterator[threading.Event]:
    """Someone imports for ever, until the event is set."""
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with unforked():
            begun.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    yield end
    end.set()
    thread.join()


def is_free() -> bool:
    """Return whether a thread that has nothing yet can import."""
    got: list[bool] = []

    def ask() -> None:
        got.append(imports._importing.acquire(blocking=False))
        if got[0]:
            imports._importing.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return got[0]


def test_threads_that_fork_at_once_leave_nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_LONGEST_WAIT", 0.05)
    first = Worker(_before_fork, _after_fork_in_parent)
    second = Worker(_before_fork, _after_fork_in_parent)
    first.do(0)
    assert not is_free()
    second.do(0)  # waits in vain for the first
    first.do(1)
    assert is_free()
    second.do(1)
    assert is_free()


def test_one_fork_alone_waits_in_vain(monkeypatch: pytest.MonkeyPatch, importing: threading.Event) -> None:
    monkeypatch.setattr(imports, "_LONGEST_WAIT", 0.05)
    _before_fork()
    _after_fork_in_parent()
    monkeypatch.setattr(imports, "_LONGEST_WAIT", 100.0)
    begun = time.monotonic()
    for _ in range(3):
        _before_fork()
        _after_fork_in_parent()
    assert time.monotonic() - begun < 50


def test_forks_wait_again_for_the_next_import(monkeypatch: pytest.MonkeyPatch, importing: threading.Event) -> None:
    monkeypatch.setattr(imports, "_LONGEST_WAIT", 0.05)
    _before_fork()
    _after_fork_in_parent()
    assert imports._waited_in_vain
    importing.set()
    with unforked():
        pass
    assert not imports._waited_in_vain


def test_a_fork_within_a_fork_gives_back_what_it_took() -> None:
    def nested() -> None:
        _before_fork()
        _before_fork()
        _after_fork_in_parent()
        _after_fork_in_parent()

    Worker(nested).do(0)
    assert is_free()
