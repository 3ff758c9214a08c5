"""Run code when a library is imported by the app, and not before.

A library that the app never imports costs nothing. A finder of ours stands first on `sys.meta_path`; for
the modules that somebody waits for it asks the finders behind it and looks on as the module is executed.
Other import hooks, before or behind, work as without it, and the module keeps its own loader.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flx_otel_distro.guard import fault

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def when_imported(name: str, then: Callable[[ModuleType], None], remedy: str = "", *, again: bool = False) -> None:
    """Call `then(module)` once `name` has been imported; at once if it is already.

    With `again`, also after each reload of it. A fault of `then` is logged once and never reaches the app's
    import statement. Thread-safe; a forked child inherits pending hooks.
    """

    def hook(module: ModuleType) -> None:
        try:
            then(module)
        except Exception as error:  # noqa: BLE001 - the app's import statement must not fail
            fault(f"instrumenting {name}", error, remedy)

    loaded = sys.modules.get(name)
    ready = loaded is not None and getattr(getattr(loaded, "__spec__", None), "_initializing", False) is False
    if not ready or again:
        _waiting.setdefault(name, []).append((hook, again))
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
    if ready and loaded is not None:
        hook(loaded)


_waiting: dict[str, list[tuple[Callable[[ModuleType], None], bool]]] = {}
"""By the module's name: what waits, and whether it waits again."""


class _Searching(threading.local):
    """Modules that a thread is looking for through the other finders."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_searching = _Searching()


class _Finder:
    """Finds what the others find, with a loader that tells us."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's spec, or None for a module that nobody waits for."""
        names = _searching.names
        if name not in _waiting or name in names:
            return None
        names.add(name)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find is not None and finder is not self else None
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        loader: Any = _Loader(spec.loader)
                        spec.loader = loader
                    return spec
            return None
        finally:
            names.discard(name)


_FINDER: Any = _Finder()


class _Loader:
    """A module's own loader, and our hooks after it."""

    def __init__(self, loader: Any) -> None:
        self._flx_loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._flx_loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        loader: Any = self._flx_loader
        spec: Any = module.__spec__
        if spec is not None and spec.loader is self:
            spec.loader = loader  # whoever looks at the module finds what would be there without us
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = loader
        loader.exec_module(module)
        _executed(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flx_loader, name)


def _executed(module: ModuleType) -> None:
    """Call what waits for the module, and what begins to wait meanwhile."""
    name = module.__name__
    lasting: list[tuple[Callable[[ModuleType], None], bool]] = []
    while waiting := _waiting.pop(name, None):
        for hook, again in waiting:
            if again:
                lasting.append((hook, again))
            hook(module)
    if lasting:
        _waiting.setdefault(name, [])[:0] = lasting


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
