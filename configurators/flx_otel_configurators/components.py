"""Named parts from entry points: exporters, samplers, id generators that others ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flx_otel_distro import environment as env
from flx_otel_distro.entries import entries
from flx_otel_distro.environment import Variable
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import guarded

T = TypeVar("T")


def names(variable: Variable[tuple[str, ...]]) -> list[str]:
    """Return the exporters a variable names, without repetition; none of them where it says `none`."""
    wanted = list(dict.fromkeys(variable.read()))
    return [] if "none" in (name.lower() for name in wanted) else wanted


def built(variable: Variable[tuple[str, ...]], signal: str, build: Callable[[str], T | None]) -> list[T]:
    """Return what `build` makes of each exporter a variable names; one that fails is told and left out."""
    made: list[T] = []
    for name in names(variable):
        with guarded(f"{signal} exporter {name}", f"Other exporters go on; see {variable.name}"):
            part = build(name)
            if part is not None:
                made.append(part)
    return made


def load(variable: Variable[Any], name: str, group: str, own: Sequence[str], instead: str = "leaving it out") -> Any:
    """Return what entry point `name` of `group` holds, or None: told once, with what would be right.

    Raises whatever the entry point's module raises when it is imported.
    """
    for entry in entries(group, name):
        return entry.load()
    known = sorted({*own, *(each.name for each in entries(group))})
    env.report(ConfigurationError(variable.name, name, "one of " + ", ".join(known), instead))
    return None
