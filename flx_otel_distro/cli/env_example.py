"""Write `.env.example`: every variable with its default, ready for `flx-instrument --env-file`."""

from __future__ import annotations

import textwrap

from flx_otel_distro import environment

_HEAD = """\
# Every variable of flx-otel-distro with its default. Copy, edit, run:
#
#   cp .env.example .env
#   flx-instrument --env-file .env uvicorn app:app
#
# The environment wins over this file, and an option of flx-instrument over both.
# A variable without a value counts as unset.
# Written by `flx-otel env`."""


def text() -> str:
    """Return the file. A variable that follows another one where it is unset is left empty."""
    lines = [_HEAD]
    section = None
    for variable in environment.variables():
        if variable.section != section:
            section = variable.section
            lines += ["", "", f"# {section}"]
        lines += ["", *_comment(variable), f"{variable.name}={_written(variable)}"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print the file; return 0, or 2 where arguments are given."""
    if arguments:
        print("Usage: flx-otel env > .env\n\nPrint every variable with its default, as a file to edit.")
        return 0 if arguments == ["--help"] else 2
    print(text(), end="")
    return 0


def _comment(variable: environment.Variable[object]) -> list[str]:
    said = variable.doc
    if variable.kind is not environment.TEXT:
        said += f" Allowed: {variable.kind.allowed}."
    if variable.general:
        said += f" Unset: as {variable.general}."
    if variable.aliases:
        said += f" Also read: {', '.join(variable.aliases)}."
    return textwrap.wrap(said, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _written(variable: environment.Variable[object]) -> str:
    value = "" if variable.general else variable.default
    return f'"{value}"' if any(c in value for c in " #'\"\\") else value


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
