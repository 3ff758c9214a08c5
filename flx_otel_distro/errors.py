"""Errors of the distro: each names what is wrong, where, and the remedy, in one line."""

from __future__ import annotations

import re


class FlxError(Exception):
    """Base of every error this distribution raises on purpose."""


class ConfigurationError(FlxError):
    """Tell that a setting holds a value nobody can act on.

    `variable` names the environment variable, `value` what it held (already hidden where it is
    a secret), `allowed` what would be right and `remedy` what happens now.
    """

    def __init__(self, variable: str, value: str, allowed: str, remedy: str = "") -> None:
        self.variable = variable
        self.value = value
        self.allowed = allowed
        self.remedy = remedy
        super().__init__(self._line())

    def _line(self) -> str:
        line = f"{self.variable}={printable(self.value)!r} is not valid: allowed is {self.allowed}"
        return f"{line}; {self.remedy}" if self.remedy else line


class MissingDependencyError(FlxError):
    """Tell that an optional library is absent, with the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} is not installed: pip install 'flx-otel-distro[{extra}]'")


def printable(text: str, limit: int = 200) -> str:
    """Return `text` on one line and at most `limit` characters, so that it cannot forge a log line."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "..."


def scrubbed(text: object, limit: int | None = None) -> str:
    """Return `text`, cut to `limit` characters, as UTF-8 can carry it: lone surrogates become U+FFFD.

    One such character in an attribute would make the encoder lose the whole batch of spans.
    """
    said = text if isinstance(text, str) else str(text)
    if limit is not None and len(said) > limit:
        said = said[:limit]
    return said if said.isascii() else _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", said)


_SURROGATES = re.compile("[\ud800-\udfff]")
