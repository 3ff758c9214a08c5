"""Files of variables: the syntax, the errors, and our own `.env.example`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flx_otel_distro import environment
from flx_otel_distro.cli import env_example
from flx_otel_distro.cli.env_file import EnvFileError, read
from tests.cli.conftest import Run
from tests.support.process import BIN

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", {}),
        (b"\n# only\n   # comments\n\n", {}),
        (b"A=1\nB=2", {"A": "1", "B": "2"}),
        (b"A=1\nA=2\n", {"A": "2"}),
        (b"\xef\xbb\xbfA=1\r\nB = 2 \r\n", {"A": "1", "B": "2"}),
        (b"export A=1\nexport\tB=2\n", {"A": "1", "B": "2"}),
        (b"A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        (b"A=a b # c\nB=a#b\nC=#x\n", {"A": "a b", "B": "a#b", "C": ""}),
        (b"A='a # b' # c\nB=\"a # b\"", {"A": "a # b", "B": "a # b"}),
        (b'A=\'a\\nb\'\nB="a\\nb\\t\\"\\\\\\x"', {"A": "a\\nb", "B": 'a\nb\t"\\\\x'}),
        (b"A=k=v,k2=v2\nB=$HOME\n", {"A": "k=v,k2=v2", "B": "$HOME"}),
        ("A=ß漢\n".encode(), {"A": "ß漢"}),
        (b"A=it's\n", {"A": "it's"}),
    ],
)
def test_reads(tmp_path: Path, text: bytes, found: dict[str, str]) -> None:
    path = tmp_path / "env"
    path.write_bytes(text)
    assert read(str(path)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"A=1\nsecret", "2: expected NAME=value"),
        (b"=secret", "1: the name before = is not the name of a variable"),
        (b"A B=secret", "1: the name before = is not the name of a variable"),
        (b"\n\nA='secret", "3: a quote is not closed"),
        (b"A='x' secret", "1: text after the closing quote"),
        (b"A=x\0secret", "1: A holds a NUL byte"),
    ],
)
def test_a_bad_line_is_told_without_its_value(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "env"
    path.write_bytes(text)
    with pytest.raises(EnvFileError) as caught:
        read(str(path))
    assert str(caught.value) == f"{path}:{said}"


def test_an_unreadable_file_stops_the_run_with_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad").write_text("A=1\npassword hunter2\n")
    for name, said in (
        ("missing", "cannot read missing: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("binary", "cannot read binary: it is not UTF-8 text"),
        ("bad", "bad:2: expected NAME=value"),
    ):
        done = run("--env-file", name, PYTHON, "-c", "print('ran')")
        assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"flx-instrument: {said}\n")


def test_env_example_is_what_the_variables_say() -> None:
    assert (ROOT / ".env.example").read_text() == env_example.text(), "flx-otel env > .env.example"
    done = subprocess.run([str(BIN / "flx-otel"), "env"], capture_output=True, check=True)
    assert done.stdout.decode() == env_example.text()


def test_env_example_holds_every_variable_with_its_default() -> None:
    found = read(str(ROOT / ".env.example"))
    assert found == {each.name: "" if each.general else each.default for each in environment.variables()}
    assert environment.problems(found) == []


def test_running_with_env_example_changes_nothing_but_what_it_names(run: Run) -> None:
    code = "import os; print(os.environ['OTEL_SERVICE_NAME'], os.environ['OTEL_BSP_SCHEDULE_DELAY'])"
    done = run("--env-file", str(ROOT / ".env.example"), PYTHON, "-c", code, env={"OTEL_SERVICE_NAME": "mine"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"mine 5000\n", b"")
