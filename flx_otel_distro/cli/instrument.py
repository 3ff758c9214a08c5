"""`flx-instrument COMMAND …`: run a program observed, without a change to it.

The wrapper reads options, an env file and the environment, tells what is wrong with them, and then
becomes the command. The observing itself begins in `boot/sitecustomize.py`, inside the app's Python.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from flx_otel_distro import environment
from flx_otel_distro.cli import env_file, launch, options

USAGE_ERROR = 2


def main() -> None:
    """Run the wrapper on `sys.argv`."""
    run(sys.argv[1:])


def run(arguments: list[str]) -> None:
    """Become the command that `arguments` name; SystemExit where that is impossible."""
    try:
        _run(arguments)
    except (options.UsageError, env_file.EnvFileError) as error:
        _end(str(error), USAGE_ERROR)
    except launch.LaunchError as error:
        _end(str(error), error.code)
    except KeyboardInterrupt:  # before the command has begun: end as the command itself would
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _run(arguments: list[str]) -> None:
    request = options.parse(arguments)
    if request.show:
        from flx_otel_distro.cli import usage

        try:
            print(usage.text() if request.show == "help" else usage.version(), flush=True)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return
    environ = dict(os.environ)
    given = _apply(request, environ)
    if not environment.disabled(environ):
        _check(environ, given)
        launch.add_boot(environ)
    launch.run(request.command, environ)


def _apply(request: options.Request, environ: dict[str, str]) -> set[str]:
    """Put files and options into `environ`; return the names they set. Option > environment > file."""
    from_files: dict[str, str] = {}
    for path in request.env_files:
        from_files.update(env_file.read(path))
    ours = {variable.name: variable for variable in environment.variables()}
    new = {
        name: value
        for name, value in from_files.items()
        # An empty variable of ours counts as unset, and an older name in the environment as set.
        if (value and ours[name].source(environ) is None if name in ours else name not in environ)
    }
    new.update(request.settings)
    environ.update(new)
    return set(new)


def _check(environ: dict[str, str], given: set[str]) -> None:
    """Tell each wrong variable, once in a tree of processes; under strict mode end with exit code 2."""
    errors = environment.problems(environ)
    if not errors:
        return
    if environment.strict(environ):
        environment.stop(errors)
    known = environment.told(environ) - given
    new = [error for error in errors if error.variable not in known]
    environment.write_error("".join(f"flx-otel: {error}\n" for error in new))
    environment.remember_told([error.variable for error in new], environ)


def _end(message: str, code: int) -> NoReturn:
    from flx_otel_distro.errors import printable

    environment.write_error(f"flx-instrument: {printable(message, 500)}\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
