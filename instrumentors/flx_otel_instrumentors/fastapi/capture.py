"""Headers the user asked to see on spans, with the sanitised ones shown as `[REDACTED]`.

Headers that hold secrets by their name are sanitised whatever the user named. Names are regular
expressions matched against whole header names, case-insensitively, as upstream's
`opentelemetry.util.http` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from flx_otel_distro import environment
from flx_otel_instrumentors.fastapi.description import MOST
from flx_otel_instrumentors.fastapi.redaction import secret_header

_MOST_NAME = 128
_MOST_NAMES = 64
_MOST_VALUES = 16
"""Values of one header; names may be matched by a pattern, so their number and length are bounded as well."""

Pairs = Iterable[tuple[bytes, bytes]]


class HeaderCapture:
    """Turn headers into span attributes. Immutable, hence safe from any thread and after a fork."""

    __slots__ = ("_prefix", "_sanitised", "_wanted")

    def __init__(self, prefix: str, wanted: Sequence[str], sanitised: Sequence[str] = ()) -> None:
        """Take header names as regular expressions. Raises re.error for one that does not compile."""
        self._prefix = prefix
        self._wanted = re.compile("|".join(wanted), re.IGNORECASE)
        self._sanitised = re.compile("|".join(sanitised), re.IGNORECASE) if sanitised else None

    def attributes(self, headers: Pairs) -> dict[str, list[str]]:
        """Return `http.….header.<name>` with the list of values, each cut, for each header that is wanted."""
        found: dict[str, list[str]] = {}
        for raw_name, raw_value in headers:
            if len(raw_name) > _MOST_NAME:
                continue
            name = raw_name.decode("latin-1").lower()
            if self._wanted.fullmatch(name) is None:
                continue
            key = self._prefix + name.replace("-", "_")
            values = found.get(key)
            if values is None:
                if len(found) >= _MOST_NAMES:
                    continue
                values = found[key] = []
            if len(values) < _MOST_VALUES:
                values.append("[REDACTED]" if self._hides(name) else raw_value[:MOST].decode("latin-1"))
        return found

    def _hides(self, name: str) -> bool:
        return secret_header(name) or (self._sanitised is not None and self._sanitised.search(name) is not None)


def read(environ: Mapping[str, str] | None = None) -> tuple[HeaderCapture | None, HeaderCapture | None]:
    """Return the capture of request and of response headers, None for what nobody asked for."""
    sanitised = environment.SANITIZE_HEADERS.read(environ)

    def make(prefix: str, wanted: Sequence[str]) -> HeaderCapture | None:
        return HeaderCapture(prefix, wanted, sanitised) if wanted else None

    return (
        make("http.request.header.", environment.CAPTURE_REQUEST_HEADERS.read(environ)),
        make("http.response.header.", environment.CAPTURE_RESPONSE_HEADERS.read(environ)),
    )
