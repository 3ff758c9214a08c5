"""Types of the ASGI interface, and the keys under which a request carries what we know of it.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OBSERVED: Final = "flx.observed"
"""Scope key: the `Observed` of this request, or None where the request leaves no trace. An inner
layer that finds the key adds nothing."""

OUTERMOST: Final = "flx.outermost"
"""Scope key: the app at which the request was taken up; its base class's `__call__` gets the request again."""

PREFIX: Final = "flx.route_prefix"
"""Scope key: the application root and the templates of the mounts passed so far, as `/api/shop`."""


class Observed(Protocol):
    """What a request or a connection offers to those who route it."""

    def routed(self, template: str) -> None:
        """Take the full template of the route that was selected, as `/shop/items/{id}`."""
        ...

    def cede(self) -> None:
        """Record no metric: an inner app that is instrumented by others does."""
        ...
