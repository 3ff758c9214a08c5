"""Take secrets out of what goes on a span: values of query parameters and headers whose name tells of one.

The HTTP conventions name the signature parameters of AWS, Azure and Google; names that speak of tokens,
passwords, keys, codes, sessions or credentials are added. Everything else stays byte for byte.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_plus

_ROUNDS = 3
_MOST_CACHED = 64

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET = re.compile(
    # whole names
    r"^(?:code|pass)$"
    # words of a name
    r"|(?<![a-z])(?:sig|pwd?|pins?|s?sid|[ht]?otp|jwt|jws|auth|key|creds?|cvv2?|cvc2?|mfa|hmac|nonce)(?![a-z])"
    # parts of a name
    r"|awsaccesskeyid|signature|credential|token|passw|pass[-_]?phrase|pass[-_]?code|secret|cookie|bearer|session"
    r"|authori[sz]ation|assertion|hmac|jsessionid|phpsessid"
    r"|(?:api|access|private|priv|licen[sc]e|subscription|master|shared|sign(?:ing)?|encryption|ssh|auth)[-_.]?key"
    r"|(?:auth|device|user|verif(?:y|ication)|reset|invite|invitation|security|login|access|sms|otp|mfa)[-_.]?code",
    re.IGNORECASE,
)
_SECRET_HEADER = re.compile(
    r"authori[sz]ation|cookie|token|secret|passw|credential|signature|session|csrf|xsrf|jwt|hmac|assertion|client-cert"
    r"|(?:api|access|private|subscription|functions|auth)[-_]?key|(?<![a-z])(?:auth|otp|pin|pwd?|sid)(?![a-z])",
    re.IGNORECASE,
)


def redacted(query: str) -> str:
    """Return `query` with the value of every parameter whose key tells of a secret as `REDACTED`."""
    return "&".join(_pair(pair) for pair in query.split("&"))


def secret_header(name: str) -> bool:
    """Return whether a header of this name holds a secret, as `authorization` and `set-cookie` do."""
    return _SECRET_HEADER.search(name) is not None


def _pair(pair: str) -> str:
    key, equals, _ = pair.partition("=")
    if not equals:
        return pair
    # A `;` separates parameters for some servers, so what stands behind it is judged as a key, too.
    if ";" in pair:
        return ";".join(_pair(part) for part in pair.split(";"))
    return f"{key}=REDACTED" if (_kept_secret if len(key) <= _MOST_CACHED else _secret)(key) else pair


def _secret(key: str) -> bool:
    """Return whether a key tells of a secret, decoded as often as somebody behind us may decode it."""
    for _ in range(_ROUNDS):
        decoded = unquote_plus(key)
        if decoded == key:
            break
        key = decoded
    else:
        if unquote_plus(key) != key:
            return True  # nobody encodes a harmless name that often
    return _SECRET.search(key) is not None or _SECRET.search(_CAMEL.sub("_", key)) is not None


_kept_secret = lru_cache(maxsize=1024)(_secret)
