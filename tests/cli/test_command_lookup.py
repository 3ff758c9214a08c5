"""What counts as a command, and how one that cannot start is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import OBSERVED, Run

PYTHON = sys.executable


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["no-such-command", "./no-such-file", "/no/such/file", "nothing.py", "", "a\nb"])
def test_an_unknown_command_is_one_line_and_127(run: Run, name: str) -> None:
    done = run(name)
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr.startswith(b"flx-instrument: ") and done.stderr.count(b"\n") == 1


def test_a_command_that_is_not_executable_is_one_line_and_126(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("text")
    for name in ("./data.txt", str(tmp_path), "/"):
        done = run(name)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (126, b"", 1), name
    done = run("data.txt", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (126, b"flx-instrument: data.txt: permission denied\n")


def test_the_first_executable_on_path_wins(run: Run, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"bin{number}").mkdir()
    (tmp_path / "bin1" / "tool").write_text("not executable")
    executable(tmp_path / "bin2" / "tool", "#!/bin/sh\necho two\n")
    executable(tmp_path / "bin3" / "tool", "#!/bin/sh\necho three\n")
    assert run("tool", env={"PATH": "bin1::bin2:bin3:/usr/bin:/bin"}).stdout == b"two\n"


def test_a_missing_interpreter_is_told(run: Run, tmp_path: Path) -> None:
    executable(tmp_path / "tool", "#!/no/such/interpreter\n")
    done = run("./tool")
    assert (done.returncode, done.stderr.count(b"\n"), b"interpreter" in done.stderr) == (127, 1, True)


def test_a_script_without_first_line_runs_as_a_shell_would_run_it(run: Run, tmp_path: Path) -> None:
    executable(tmp_path / "tool", 'echo "$0" "$@"\nexit 4\n')
    done = run("./tool", "a b")
    assert (done.returncode, done.stdout) == (4, b"./tool a b\n")


def test_a_binary_that_cannot_run_is_126(run: Run, tmp_path: Path) -> None:
    executable(tmp_path / "tool", "#!/etc/passwd\n")
    assert run("./tool").returncode == 126


def test_a_script_is_run_by_our_python(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"import sys\nprint(sys.argv, __name__)\n{OBSERVED}")
    expected = b"['app.py', 'x'] __main__\nopentelemetry.sdk.trace\n"
    assert run("app.py", "x").stdout == expected
    (tmp_path / "app.py").chmod(0o755)
    assert run("./app.py", "x").stdout == expected.replace(b"'app.py'", b"'./app.py'")


def test_a_module_is_run_as_python_would(run: Run, tmp_path: Path) -> None:
    package = tmp_path / "job"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(f"import sys\nprint(sys.argv[1:], sys.path[0])\n{OBSERVED}\nsys.exit(5)")
    bare = run(PYTHON, "-m", "job", "--day", "1", wrapper=())
    for done in (run("-m", "job", "--day", "1"), run(PYTHON, "-m", "job", "--day", "1")):
        assert (done.returncode, done.stderr) == (5, b"")
        assert done.stdout.splitlines()[0] == bare.stdout.splitlines()[0]
        assert done.stdout.splitlines()[1] == b"opentelemetry.sdk.trace"


def test_a_console_script_finds_what_it_would_find_alone(run: Run, tmp_path: Path) -> None:
    executable(tmp_path / "tool", f"#!{PYTHON}\nimport sys\nprint(sys.argv, sys.path)\n{OBSERVED}")
    bare, ours = run("./tool", "a", wrapper=()), run("./tool", "a")
    assert ours.stdout.splitlines() == [bare.stdout.splitlines()[0], b"opentelemetry.sdk.trace"]


def test_no_command_is_a_usage_error(run: Run) -> None:
    for arguments in ((), ("--",), ("--strict",), ("-m",), ("--service-name", "x")):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), arguments
