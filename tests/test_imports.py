"""Imports on threads of ours, and the forks that wait for them."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def module_at(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("VALUE = 1\n")


def test_hooks_run_once_after_the_module_and_again_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_at(tmp_path, "flx_hooked")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []
    imports.when_imported("flx_hooked", lambda module: seen.append(f"once {module.VALUE}"))
    imports.when_imported("flx_hooked", lambda module: seen.append(f"again {module.VALUE}"), again=True)
    imports.when_imported("flx_hooked", lambda _: imports.when_imported("flx_hooked", lambda _: seen.append("late")))
    module = importlib.import_module("flx_hooked")
    assert seen == ["once 1", "again 1", "late"]
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    importlib.reload(module)
    assert seen == ["once 1", "again 1", "late", "again 1"]
    imports.when_imported("flx_hooked", lambda _: seen.append("at once"))
    assert seen[-1] == "at once"
    imports._waiting.pop("flx_hooked")
    sys.modules.pop("flx_hooked")


@pytest.mark.parametrize("ours_first", [True, False])
def test_other_import_hooks_before_and_behind_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours_first: bool
) -> None:
    import wrapt

    name = f"flx_shared_{ours_first}"
    module_at(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []
    imports.when_imported(name, lambda _: seen.append("ours"))
    wrapt.register_post_import_hook(lambda _: seen.append("theirs"), name)
    others = [finder for finder in sys.meta_path if finder is not imports._FINDER]
    hooks = [imports._FINDER, *others] if ours_first else [others[0], imports._FINDER, *others[1:]]
    monkeypatch.setattr(sys, "meta_path", hooks)
    importlib.import_module(name)
    assert sorted(seen) == ["ours", "theirs"]
    sys.modules.pop(name)


def test_a_fault_of_a_hook_is_told_and_the_import_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults_fail_tests: list[Any]
) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("broken")

    module_at(tmp_path, "flx_broken")
    monkeypatch.syspath_prepend(tmp_path)
    imports.when_imported("flx_broken", broken)
    assert importlib.import_module("flx_broken").VALUE == 1
    assert [place for place, _ in faults_fail_tests] == ["instrumenting flx_broken"]
    faults_fail_tests.clear()
    sys.modules.pop("flx_broken")


def test_a_module_that_fails_or_is_not_there_fails_as_without_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flx_failing.py").write_text("raise ValueError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("flx_failing", "flx_absent"):
        imports.when_imported(name, lambda _: pytest.fail("called"))
    with pytest.raises(ValueError, match="at import"):
        importlib.import_module("flx_failing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flx_absent")
    for name in ("flx_failing", "flx_absent"):
        imports._waiting.pop(name)
