"""The bounded part of a request: method, scheme and protocol version, each from a known set.

One `Kind` a combination, at most a few hundred in a process. Nothing an outsider sends becomes a new value:
what is not in the known set is `_OTHER`, as the conventions ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flx_otel_distro import semconv

_SCHEMES: Final = {each: each for each in ("http", "https", "ws", "wss")}
_VERSIONS: Final = {"1.0": "1.0", "1.1": "1.1", "2": "2", "2.0": "2", "3": "3", "3.0": "3"}
_METHODS: Final = {each: each for each in semconv.HTTP_METHODS}
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_MOST_NAMES: Final = 4096

Labels = Mapping[str, str | int]


class Kind:
    """Names and label sets shared by all requests of one method, scheme and version.

    The mappings it holds must not be changed. Threads may race to fill its cache and then make the same
    name twice, which does no harm.
    """

    __slots__ = ("_names", "active", "labels", "may_have_body", "method", "scheme", "sends_body", "verb")

    def __init__(self, method: str, scheme: str, version: str) -> None:
        self.method = method
        self.scheme = scheme
        self.verb = "HTTP" if method == semconv.OTHER else method
        self.may_have_body = method not in _WITHOUT_BODY
        self.sends_body = method != "HEAD"
        self.active: Labels = {semconv.HTTP_REQUEST_METHOD: method, semconv.URL_SCHEME: scheme}
        self.labels: Labels = {**self.active, semconv.NETWORK_PROTOCOL_VERSION: version}
        self._names: dict[str, str] = {}

    def series(self, route: str | None, status: int | None, error: str | None) -> Labels:
        """Return the labels of a finished request."""
        made = dict(self.labels)
        if route is not None:
            made[semconv.HTTP_ROUTE] = route
        if status is not None:
            made[semconv.HTTP_RESPONSE_STATUS_CODE] = status
        if error is not None:
            made[semconv.ERROR_TYPE] = error
        return made

    def name(self, route: str) -> str:
        """Return the name of a span whose route is known, as `GET /items/{id}`."""
        found = self._names.get(route)
        if found is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            found = self._names[route] = f"{self.verb} {route}"
        return found


_kinds: dict[tuple[str, str, str], Kind] = {}


def kind(method: str, scheme: str, version: str) -> Kind:
    """Return the kind of a request, from what the server said of it. Safe from any thread."""
    found = _kinds.get((method, scheme, version))
    if found is not None:
        return found
    key = (
        _METHODS.get(method, semconv.OTHER),
        _SCHEMES.get(scheme, semconv.OTHER),
        _VERSIONS.get(version, semconv.OTHER),
    )
    found = _kinds.get(key)
    if found is None:
        found = _kinds[key] = Kind(*key)
    return found
