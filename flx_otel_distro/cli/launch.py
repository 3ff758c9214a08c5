"""Turn this process into the command, so that the app starts as it would have without us.

The app keeps the process id, the standard streams, the signal dispositions and the environment; only
`PYTHONPATH` gains one directory, whose `sitecustomize` takes itself out of the app's `sys.path`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from typing import NoReturn

BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot")  # noqa: PTH100, PTH118, PTH120 - start-up
WRAPPED = "FLX_OTEL_WRAPPED_PID"
"""The process the wrapper turned into the command; the boot removes it, so children never see it."""

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class LaunchError(Exception):
    """Tell, in one line, why a command cannot start; `code` is what a shell would exit with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def add_boot(environ: MutableMapping[str, str]) -> None:
    """Put the boot directory first on `PYTHONPATH`; every other entry stays, empty ones as well."""
    entries = environ.get("PYTHONPATH", "")
    others = [each for each in entries.split(os.pathsep) if each != BOOT] if entries else []
    environ["PYTHONPATH"] = os.pathsep.join([BOOT, *others])
    environ[WRAPPED] = str(os.getpid())


def run(command: Sequence[str], environ: MutableMapping[str, str]) -> NoReturn:
    """Replace this process by `command`. Raises LaunchError where that is impossible."""
    _undo_start_up_of_python(environ)
    path, arguments = _resolve(command, environ)
    try:
        os.execve(path, arguments, environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise _failed(command[0], error) from None
    # Text without a #! line: a shell, env(1) and execvp(3) hand it to sh.
    interpreter = sys.executable if path.endswith(".py") else "/bin/sh"
    try:
        os.execve(interpreter, [interpreter, path, *command[1:]], environ)
    except OSError as error:
        raise _failed(command[0], error) from None


def _resolve(command: Sequence[str], environ: MutableMapping[str, str]) -> tuple[str, list[str]]:
    """Return the file to execute and its argument list, the name as given first."""
    name, *arguments = command
    if not name:
        raise LaunchError("'': command not found", NOT_FOUND)
    if os.sep in name:
        candidates = [name]
    else:
        candidates = [os.path.join(folder or os.curdir, name) for folder in os.get_exec_path(environ)]  # noqa: PTH118
    for path in candidates:
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 - start-up
            return path, [name, *arguments]
    if name.endswith(".py") and os.path.isfile(name):  # noqa: PTH113
        return sys.executable, [sys.executable, name, *arguments]
    if os.sep in name and os.path.isdir(name):  # noqa: PTH112
        raise LaunchError(f"{name}: is a directory", NOT_EXECUTABLE)
    if any(os.path.isfile(path) for path in candidates):  # noqa: PTH113
        raise LaunchError(f"{name}: permission denied", NOT_EXECUTABLE)
    if os.sep in name:
        raise LaunchError(f"{name}: no such file", NOT_FOUND)
    raise LaunchError(f"{name}: command not found", NOT_FOUND)


def _failed(name: str, error: OSError) -> LaunchError:
    if error.errno == errno.ENOENT:  # the file is there: its #! line names an interpreter that is not
        return LaunchError(f"{name}: the interpreter of its first line does not exist", NOT_FOUND)
    return LaunchError(f"{name}: {error.strerror}", NOT_EXECUTABLE)


def _undo_start_up_of_python(environ: MutableMapping[str, str]) -> None:
    """Give back what this Python changed at its own start and an exec'd command would inherit."""
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores both
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    if environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):  # PEP 538 sets it under the C locale
        try:
            with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
                given = file.read().split(b"\0")
        except OSError:
            return
        if not any(entry.startswith(b"LC_CTYPE=") for entry in given):
            del environ["LC_CTYPE"]
