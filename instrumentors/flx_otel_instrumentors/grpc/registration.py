"""The names of the methods that servers of this process have handlers for, as the app registered them.

A generic handler of the app's own may answer whatever name an outsider calls, so that a handler was found
says nothing about the name. Names are noted where handlers are given to a server: its `__init__`,
`add_generic_rpc_handlers` and `add_registered_method_handlers`, for both kinds of server. The same in
grpcio 1.71 to 1.85. What is noted stays noted; it is as much as the app registers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from flx_otel_distro.guard import fault

_GENERIC = 1
"""Where the `__init__` of servers takes generic handlers by position, after `self`."""


class Gathered(Protocol):
    """What is given the handlers of a server instead of the server."""

    generic: list[Any]
    registered: dict[str, Any]
    started: bool
    """Whether the server has started: grpc takes no handler for a single method after that."""


_gathered: WeakKeyDictionary[Any, Gathered] = WeakKeyDictionary()
_names: set[str] = set()
_undo: list[tuple[Any, str, Any, Any]] = []
_kept = False


def knows(path: str) -> bool:
    """Return whether the app registered a handler for `path`, as `/package.Service/Method`."""
    return path in _names


def _start(original: Any) -> Any:
    async def start(self: Any) -> None:
        gathered = _gathered.get(self)
        if gathered is not None:
            gathered.started = True
        await original(self)

    return start


def gather(server: Any, into: Gathered) -> None:
    """Give what `server` is asked to add to `into` instead, as long as this module watches."""
    _gathered[server] = into


def watch(by_hand: bool = False) -> None:
    """Note the names that servers are given from now on; idempotent.

    What an interceptor placed by hand needs (`by_hand`) stays when the automatic part is removed.
    """
    global _kept
    _kept = _kept or by_hand
    if _undo:
        return
    for owner in (import_module("grpc._server")._Server, import_module("grpc.aio._server").Server):
        _replace(owner, "__init__", _initialise)
        _replace(owner, "add_generic_rpc_handlers", _add_generic)
        _replace(owner, "add_registered_method_handlers", _add_registered)
    _replace(import_module("grpc.aio._server").Server, "start", _start)


def remove() -> None:
    """Put grpc's methods back, except where someone has replaced them since or an interceptor needs them."""
    if _kept:
        return
    for owner, name, original, ours in _undo:
        if getattr(owner, name) is ours:
            setattr(owner, name, original)
    _undo.clear()


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    ours = functools.wraps(original)(make(original))
    setattr(owner, name, ours)
    _undo.append((owner, name, original, ours))


def _initialise(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        note(args[_GENERIC] if len(args) > _GENERIC else kwargs.get("generic_handlers"))
        original(self, *args, **kwargs)

    return __init__


def _add_generic(original: Any) -> Any:
    def add_generic_rpc_handlers(self: Any, generic_rpc_handlers: Any) -> None:
        handlers: Any = generic_rpc_handlers
        if hasattr(handlers, "__next__"):  # an iterator can be read only once
            handlers = tuple(handlers)
        note(handlers)
        gathered = _gathered.get(self)
        if gathered is not None:
            gathered.generic.extend(handlers)
        else:
            original(self, handlers)

    return add_generic_rpc_handlers


def _add_registered(original: Any) -> Any:
    def add_registered_method_handlers(self: Any, service_name: str, method_handlers: Any) -> None:
        try:
            _names.update(f"/{service_name}/{method}" for method in method_handlers)
        except Exception as problem:  # noqa: BLE001 - grpc says what is wrong with it
            fault("noting gRPC methods", problem)
        gathered = _gathered.get(self)
        if gathered is not None and not gathered.started:
            gathered.registered.update({f"/{service_name}/{name}": each for name, each in method_handlers.items()})
        else:
            original(self, service_name, method_handlers)

    return add_registered_method_handlers


def note(handlers: object) -> None:
    """Note the methods of what `grpc.method_handlers_generic_handler` makes; other handlers name none."""
    try:
        for each in cast("Iterable[Any]", handlers) if isinstance(handlers, Collection) else ():
            methods = getattr(each, "_method_handlers", None)
            if isinstance(methods, Mapping):
                _names.update(str(name) for name in cast("Mapping[Any, Any]", methods))
    except Exception as problem:  # noqa: BLE001 - a handler of anyone
        fault("noting gRPC methods", problem)
