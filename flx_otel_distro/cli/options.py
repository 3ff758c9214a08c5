"""The options of `flx-instrument`: one for each variable, then the command, untouched."""

from __future__ import annotations

import sys
from typing import NamedTuple

from flx_otel_distro import environment

_BOOLEAN_WORDS = ("true", "false")


class UsageError(Exception):
    """Tell, in one line, what is wrong with the command line."""


class Request(NamedTuple):
    """What a command line asks for."""

    settings: dict[str, str]
    """Variables set by options."""
    env_files: list[str]
    command: list[str]
    """The command and its arguments; empty only where help or version is asked for."""
    show: str = ""
    """`help`, `version` or nothing."""


def parse(arguments: list[str]) -> Request:
    """Read `[OPTION…] [--] COMMAND [ARGUMENT…]` or `[OPTION…] -m MODULE [ARGUMENT…]`.

    Raises UsageError for an unknown option, a missing value and a missing command.
    """
    settings: dict[str, str] = {}
    env_files: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word == "-m":
            if not rest:
                raise UsageError("-m needs the name of a module")
            return Request(settings, env_files, [sys.executable, "-m", *rest])
        if word in ("-h", "--help"):
            return Request(settings, env_files, [], "help")
        if word == "--version":
            return Request(settings, env_files, [], "version")
        option, equals, value = word.partition("=")
        if option == "--env-file":
            env_files.append(value if equals else _next(option, rest))
            continue
        name, boolean = _variable(option)
        if equals:
            settings[name] = value
        elif boolean:
            # A lone `true` at the end is the command of that name.
            settings[name] = rest.pop(0) if len(rest) > 1 and rest[0].lower() in _BOOLEAN_WORDS else "true"
        else:
            settings[name] = _next(option, rest)
    if not rest:
        raise UsageError("no command given; flx-instrument --help shows how")
    return Request(settings, env_files, rest)


def _next(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"option {option} needs a value: {option}=VALUE")
    return rest.pop(0)


def _variable(option: str) -> tuple[str, bool]:
    """Return the variable that `option` sets, and whether it needs no value."""
    spelled = option.replace("_", "-")
    for variable in environment.variables():
        if variable.option == spelled:
            return variable.name, variable.kind is environment.BOOLEAN
    from flx_otel_distro.cli import foreign_options

    known = foreign_options.names()
    if spelled in known:
        return known[spelled], False
    import difflib

    ours = ["--env-file", "--help", "--version", *(each.option for each in environment.variables())]
    close = difflib.get_close_matches(spelled, [*ours, *known], 1)
    hint = f"; did you mean {close[0]}?" if close else "; flx-instrument --help lists all"
    raise UsageError(f"unknown option {option}{hint}")
