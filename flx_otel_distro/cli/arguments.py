"""Read `--name value` and `--name=value` of the small commands."""

from __future__ import annotations

from collections.abc import Sequence


class ArgumentError(Exception):
    """Tell, in one line, what is wrong with the arguments of a command."""


def read(arguments: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the values of the options `names`, without their dashes.

    Raises ArgumentError for any other argument and for an option without a value.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        name = option.removeprefix("--")
        if name not in names or option == name:
            raise ArgumentError(f"unexpected argument {option!r}; --help shows what is allowed")
        if not equals:
            if not rest:
                raise ArgumentError(f"option {option} needs a value")
            value = rest.pop(0)
        found[name] = value
    return found
