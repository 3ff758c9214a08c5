"""What `flx-instrument --help` and `--version` print."""

from __future__ import annotations

import textwrap

from flx_otel_distro import __version__, environment

_INTRODUCTION = """\
Usage: flx-instrument [OPTION...] [--env-file FILE] [--] COMMAND [ARGUMENT...]
       flx-instrument [OPTION...] [--env-file FILE] -m MODULE [ARGUMENT...]

Run a program with metrics, traces and logs, without a change to it:

  flx-instrument uvicorn app:app
  flx-instrument --service-name orders gunicorn app:app
  flx-instrument -m my_package.job --day 2024-05-01

Options end at the command; what follows it belongs to the program. Each option sets one environment
variable for the program. An option wins over the environment, and the environment over --env-file.
A switch, as --strict, needs no value; --strict=false turns it off.

  --env-file FILE   read NAME=value lines; may be given again, the last file wins
  -m MODULE         run a module, as python -m MODULE
  -h, --help        show this
  --version         show the version

Exit code: the program's own; 2 for a wrong option or, under --strict, a wrong variable;
126 where the command cannot be executed; 127 where there is none of that name."""


def text() -> str:
    """Return the help, with every option under the heading of its section."""
    lines = [_INTRODUCTION]
    section = None
    for variable in environment.variables():
        if variable.section != section:
            section = variable.section
            lines += ["", f"{section}:"]
        switch = variable.kind is environment.BOOLEAN
        lines.append(f"  {variable.option}{'' if switch else ' VALUE'}")
        lines += textwrap.wrap(
            f"{variable.doc} {_default(variable)}",
            100,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines.append(f"      {variable.name}" + "".join(f", {alias}" for alias in variable.aliases))
    return "\n".join(lines)


def version() -> str:
    """Return the line `--version` prints."""
    return f"flx-instrument {__version__}"


def _default(variable: environment.Variable[object]) -> str:
    if variable.general:
        return f"Default: as {variable.general}."
    return f"Default: {variable.default}." if variable.default else "Default: unset."
