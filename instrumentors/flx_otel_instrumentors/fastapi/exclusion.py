"""Which requests leave no trace and no metric: probes, the metrics endpoint, excluded URLs.

The variables are read once, when the layer is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flx_otel_distro import environment
from flx_otel_distro.environment import report
from flx_otel_distro.errors import ConfigurationError
from flx_otel_instrumentors.fastapi.asgi import Scope


class Exclusion:
    """Decide for a scope. Immutable, hence safe from any thread and after a fork."""

    __slots__ = ("_pattern", "_probes")

    def __init__(self, probes: frozenset[str], pattern: re.Pattern[str] | None = None) -> None:
        self._probes = probes
        self._pattern = pattern

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, urls: str | None = None) -> Exclusion:
        """Make it from the environment; `urls`, comma-separated regular expressions, wins over it.

        A pattern that does not compile is told once, or raised as ConfigurationError under strict mode.
        """
        source = environment.FASTAPI_EXCLUDED_URLS
        if source.source(environ) is None:
            source = environment.EXCLUDED_URLS
        said = source.read(environ) if urls is None else urls
        parts = [part.strip() for part in said.split(",") if part.strip()]
        try:
            pattern = re.compile("|".join(parts)) if parts else None
        except re.error as error:
            wrong = ConfigurationError(source.name, said, "regular expressions, comma-separated", f"ignored: {error}")
            report(wrong, environ)
            pattern = None
        return cls(frozenset(environment.PROBE_PATHS.read(environ)), pattern)

    def covers(self, scope: Scope, root: str) -> bool:
        """Return whether the request is left out; `root` is the application root, maybe part of its path."""
        path: str = scope["path"]
        if path in self._probes:
            return True
        if root and path.startswith(root) and path[len(root) :] in self._probes:
            return True
        return self._pattern is not None and self._pattern.search(_url(scope)) is not None


def _url(scope: Scope) -> str:
    """Return the URL as upstream's exclusion sees it: scheme, Host header or else server, path."""
    authority = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
    if authority is None:
        host, port = scope.get("server") or ("0.0.0.0", 80)
        authority = host if port in (80, None) else f"{host}:{port}"
    return f"{scope.get('scheme', 'http')}://{authority}{scope['path']}"
