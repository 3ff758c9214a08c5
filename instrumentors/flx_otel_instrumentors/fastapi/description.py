"""What a server span tells of its request, by the stable HTTP conventions.

Only sampled requests come here, but for `path_of`. Nothing of this is ever a metric label. What an
outsider sends is cut to `MOST` characters.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from flx_otel_distro import semconv
from flx_otel_distro.errors import scrubbed
from flx_otel_instrumentors.fastapi.asgi import Scope
from flx_otel_instrumentors.fastapi.redaction import redacted

MOST: Final = 2048
"""Characters of an attribute whose value an outsider chooses."""

MOST_METHOD: Final = 64
_MOST_ADDRESS: Final = 255

Attributes = dict[str, str | int]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_USERINFO = re.compile(r"://[^/?#]*@")


def describe(scope: Scope) -> Attributes:
    """Return the attributes of a request or handshake that are known before it is routed.

    `http.request.method`, `url.scheme` and `url.path` are not among them: samplers see those first.
    """
    found: Attributes = {}
    query: bytes = scope.get("query_string") or b""
    if query:
        found[semconv.URL_QUERY] = redacted(query[:MOST].decode("latin-1"))[:MOST]
    client = scope.get("client")
    if client:
        address = scrubbed(client[0], _MOST_ADDRESS)
        found[semconv.CLIENT_ADDRESS] = address
        found[semconv.NETWORK_PEER_ADDRESS] = address
        if client[1]:
            found[semconv.NETWORK_PEER_PORT] = client[1]
    server = scope.get("server")
    if server:
        found[semconv.SERVER_ADDRESS] = scrubbed(server[0], _MOST_ADDRESS)
        if server[1]:
            found[semconv.SERVER_PORT] = server[1]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            found[semconv.USER_AGENT_ORIGINAL] = value[:MOST].decode("latin-1")
            break
    return found


def path_of(scope: Scope, root: str) -> str:
    """Return the path of a request without what a target may hold beside it: scheme, user, password, host.

    Some servers pass on an absolute-form target (RFC 9112 section 3.2.2) as the path, behind `root`.
    """
    path: str = scope["path"]
    if "://" in path or path[:1] != "/":
        path = _origin_form(path, scope.get("raw_path") or b"", root)
    return scrubbed(path, MOST)


def _origin_form(path: str, raw: bytes, root: str) -> str:
    before, mark, rest = path.partition("://")
    if not mark:  # as in OPTIONS * and CONNECT user@host:443
        return path.rpartition("@")[2]
    if _SCHEME.fullmatch(before.removeprefix(root).lstrip("/")) is None:
        return _USERINFO.sub("://", path)
    # Decoded, a slash in a password looks like the end of the authority.
    encoded = raw.decode("latin-1").partition("://")[2]
    return "/" + (unquote(encoded.partition("/")[2]) if encoded else rest.partition("/")[2])
