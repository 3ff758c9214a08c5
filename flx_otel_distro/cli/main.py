"""`flx-otel COMMAND …`: one command a module, each imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import cast

_COMMANDS = {
    "demo": ("flx_otel_distro.cli.demo:main", "run a small observed service and show what is seen of it"),
    "env": ("flx_otel_distro.cli.env_example:main", "print every variable with its default, as a file to edit"),
    "serve-metrics": ("flx_otel_distro.cli.serve_metrics:main", "serve metrics of prometheus_client files"),
    "try-tracing": ("flx_otel_distro.cli.try_tracing:main", "send one span to the collector and say how it went"),
}
"""Name, `module:function` and one line. The function takes the arguments and returns the exit code."""


def main() -> int:
    """Run the command that `sys.argv` names; return its exit code."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("", "-h", "--help"):
        print(_usage(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    if name == "--version":
        from flx_otel_distro import __version__

        print(f"flx-otel {__version__}")
        return 0
    if name not in _COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, _COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else "; flx-otel --help lists all"
        print(f"flx-otel: unknown command {name!r}{hint}", file=sys.stderr)
        return 2
    module, _, function = _COMMANDS[name][0].partition(":")
    command = cast("Callable[[list[str]], int]", getattr(import_module(module), function))
    try:
        return command(arguments)
    except KeyboardInterrupt:
        return 130


def _usage() -> str:
    width = max(map(len, _COMMANDS)) + 2
    lines = [f"  {name:{width}}{summary}" for name, (_, summary) in _COMMANDS.items()]
    return "\n".join(
        ["Usage: flx-otel COMMAND [ARGUMENT...]", "", *lines, "", "flx-otel COMMAND --help says more of each."]
    )


if __name__ == "__main__":
    sys.exit(main())
