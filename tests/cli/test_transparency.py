"""The app under the wrapper is the app without it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import OBSERVED, Run
from tests.support.process import FLX_INSTRUMENT, clean_environment

PYTHON = sys.executable
WAYS = [(FLX_INSTRUMENT,), ("opentelemetry-instrument",)]


def same(run: Run, *command: str, env: dict[str, str] | None = None, **kwargs: object) -> bytes:
    """Return stdout of the command, having compared exit code, stdout and stderr with and without us."""
    bare = run(*command, wrapper=(), env=env, **kwargs)
    ours = run(*command, env=env, **kwargs)
    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    return ours.stdout


@pytest.mark.parametrize("way", WAYS, ids=lambda way: Path(way[0]).name)
def test_it_is_observed_and_nothing_more_is_written(run: Run, way: tuple[str, ...]) -> None:
    done = run(PYTHON, "-c", OBSERVED, wrapper=way)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"opentelemetry.sdk.trace\n", b"")


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a message')",
        "import os; os._exit(7)",
        "raise ValueError('of the app')",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(30)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(30)",
        "import os; os.abort()",
    ],
)
def test_ends_alike(run: Run, code: str) -> None:
    same(run, PYTHON, "-c", code)


def test_arguments_pass_byte_for_byte(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "with space.py"
    script.write_text("import sys\nprint(ascii(sys.argv))")
    arguments = ["", " ", "a b", "--strict", "-m", "--", "--env-file", "ß∂ 漢", "*", "$HOME", "a\nb", "\udcff"]
    assert same(run, PYTHON, str(script), *arguments) == f"{[str(script), *arguments]!a}\n".encode()


def test_stdin_and_binary_stdout_are_the_apps(run: Run) -> None:
    blob = bytes(range(256)) * 512
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1]); sys.stderr.buffer.write(b'\\xff')"
    assert same(run, PYTHON, "-c", code, input=blob) == blob[::-1]


@pytest.mark.parametrize("path", [None, "", "a:b", ":a", "a:", ":", "/nowhere"])
def test_sys_path_is_the_apps(run: Run, path: str | None) -> None:
    env = {} if path is None else {"PYTHONPATH": path}
    ours = "[p for p in sys.path_importer_cache if 'flx_otel_distro/cli' in p]"
    same(run, PYTHON, "-c", f"import sys; print(sys.path, {ours})", env=env)
    same(run, PYTHON, "-P", "-c", "import sys; print(sys.path)", env=env)


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_a_python_that_ignores_us_works(run: Run, flag: str) -> None:
    assert same(run, PYTHON, flag, "-c", "print('fine')") == b"fine\n"


DISPOSITIONS = """
import json, signal, sys
def name(handler):
    return getattr(handler, "__qualname__", None) or str(handler)
print(json.dumps({str(s): name(signal.getsignal(s)) for s in sorted(signal.valid_signals()) if s != signal.SIGTERM}))
"""


def test_signal_dispositions_are_the_apps(run: Run) -> None:
    same(run, PYTHON, "-c", DISPOSITIONS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(run: Run, number: signal.Signals) -> None:
    code = f"import signal; print(signal.getsignal({int(number)}) is signal.SIG_IGN)"
    shell = f"trap '' {number.name.removeprefix('SIG')}; exec \"$@\""
    done = run("sh", "-c", shell, "sh", FLX_INSTRUMENT, PYTHON, "-c", code, wrapper=())
    assert done.stdout == b"True\n"


def test_a_command_that_is_not_python_dies_of_a_closed_pipe(run: Run) -> None:
    """Python ignores SIGPIPE; a command that inherited that would write on for ever."""
    with subprocess.Popen(
        [FLX_INSTRUMENT, "yes"], env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == -signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize("locale", [{}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}], ids=str)
def test_the_environment_gains_only_what_starts_us(run: Run, locale: dict[str, str], tmp_path: Path) -> None:
    def variables(wrapper: tuple[str, ...]) -> dict[str, str]:
        env = {k: v for k, v in clean_environment(**locale).items() if k in locale or not k.startswith(("LC_", "LANG"))}
        done = subprocess.run([*wrapper, "env", "-0"], env=env, cwd=tmp_path, capture_output=True, check=True)
        entries = (entry.partition(b"=") for entry in done.stdout.rstrip(b"\0").split(b"\0"))
        return {name.decode(): value.decode() for name, _, value in entries}

    bare, ours = variables(()), variables((FLX_INSTRUMENT,))
    assert set(ours) - set(bare) == {"PYTHONPATH", "FLX_OTEL_WRAPPED_PID"}
    assert {name: value for name, value in ours.items() if name in bare} == bare


def test_the_process_is_the_one_that_was_started() -> None:
    with subprocess.Popen(
        [FLX_INSTRUMENT, PYTHON, "-c", "import os; print(os.getpid())"],
        env=clean_environment(OTEL_SDK_DISABLED="true"),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid


def test_children_of_the_app_are_observed_as_well(run: Run) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {OBSERVED!r}], check=True)"
    done = run(PYTHON, "-c", code)
    assert (done.stdout, done.stderr) == (b"opentelemetry.sdk.trace\n", b"")


def test_what_the_app_sees_of_itself(run: Run) -> None:
    code = """
import json, sys
print(json.dumps([sys.executable, sys.orig_argv, sys.argv, sys.prefix, sys.flags[:], __name__, "sitecustomize" in
    sys.modules, sys.meta_path.__len__() > 0, sys.gettrace() is None, sys.getprofile() is None,
    sys.excepthook is sys.__excepthook__, sys.stdout is sys.__stdout__]))
"""
    assert json.loads(same(run, "python", "-c", code, "x"))[2] == ["-c", "x"]


def test_logging_and_warnings_are_as_the_app_expects(run: Run) -> None:
    code = """
import logging, warnings
logging.warning("to stderr %s", 1)
print(logging.root.handlers, logging.root.level, warnings.filters)
"""
    done = run(PYTHON, "-c", code, wrapper=())
    ours = run(PYTHON, "-c", code)
    assert ours.stderr == done.stderr
    assert ours.stdout.partition(b"[(")[2] == done.stdout.partition(b"[(")[2]


def test_warnings_as_errors_do_not_reach_our_imports(run: Run) -> None:
    done = run(PYTHON, "-W", "error", "-c", OBSERVED)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"opentelemetry.sdk.trace\n", b"")
