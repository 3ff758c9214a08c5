"""Run code when a library is imported by the app, and not before.

A library that the app never imports costs nothing. Built on wrapt's post-import hooks, which chain
with other import hooks, are thread-safe and fire at once for a library already imported.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from flx_otel_distro.guard import fault


def when_imported(name: str, then: Callable[[ModuleType], None], remedy: str = "") -> None:
    """Call `then(module)` once `name` has been imported; at once if it is already.

    A fault of `then` is logged once and never reaches the app's import statement. Thread-safe;
    a forked child inherits pending hooks.
    """

    def hook(module: ModuleType) -> None:
        try:
            then(module)
        except Exception as error:  # noqa: BLE001 - the app's import statement must not fail
            fault(f"instrumenting {name}", error, remedy)

    loaded = sys.modules.get(name)
    if loaded is not None and getattr(getattr(loaded, "__spec__", None), "_initializing", False) is False:
        hook(loaded)
        return
    wrapt: Any = importlib.import_module("wrapt")
    wrapt.register_post_import_hook(hook, name)


_importing = threading.RLock()
_LONGEST_WAIT = 1.0
_waited_in_vain = False
"""Whether a fork has waited for whoever is importing now: no other fork does."""


class _Forks(threading.local):
    """The locks that the forks of one thread hold; a signal handler may fork in the middle of a fork."""

    def __init__(self) -> None:
        self.held: list[threading.RLock | None] = []


_forks = _Forks()


@contextmanager
def unforked() -> Generator[None]:
    """Import on a background thread of ours, with forks of the process held back until it is done.

    A child forked in the middle of another thread's import keeps the half-made module for ever. The
    forks wait at most a second, should a forking thread itself hold a module we import: put nothing
    here that waits for the world outside.
    """
    global _waited_in_vain
    with _importing:
        try:
            yield
        finally:
            _waited_in_vain = False


def _before_fork() -> None:
    global _waited_in_vain
    importing = _importing
    got = importing.acquire(timeout=0 if _waited_in_vain else _LONGEST_WAIT)
    if not got:
        _waited_in_vain = True
    _forks.held.append(importing if got else None)


def _after_fork_in_parent() -> None:
    held = _forks.held.pop() if _forks.held else None
    if held is not None:
        held.release()


def _after_fork_in_child() -> None:
    global _importing, _waited_in_vain
    _importing = threading.RLock()
    _waited_in_vain = False
    _forks.held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
