"""Each variable is an option; an option wins over the environment, and that over a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flx_otel_distro import __version__, environment
from flx_otel_distro.cli.options import Request, UsageError, parse
from tests.cli.conftest import Run

PYTHON = sys.executable
SHOW = "import os; print(os.environ.get('OTEL_SERVICE_NAME'), os.environ.get('OTHER'))"


@pytest.mark.parametrize(
    ("words", "settings", "command"),
    [
        (["app"], {}, ["app"]),
        (["--service-name", "x", "app", "--strict", "y"], {"OTEL_SERVICE_NAME": "x"}, ["app", "--strict", "y"]),
        (["--service_name=a=b", "app"], {"OTEL_SERVICE_NAME": "a=b"}, ["app"]),
        (["--service-name=", "app"], {"OTEL_SERVICE_NAME": ""}, ["app"]),
        (["--service-name", "1", "--service-name", "2", "app"], {"OTEL_SERVICE_NAME": "2"}, ["app"]),
        (["--traces-sampler-arg", "-1", "app"], {"OTEL_TRACES_SAMPLER_ARG": "-1"}, ["app"]),
        (["--strict", "app"], {"FLX_OTEL_STRICT": "true"}, ["app"]),
        (["--strict=false", "app"], {"FLX_OTEL_STRICT": "false"}, ["app"]),
        (["--strict", "false", "app"], {"FLX_OTEL_STRICT": "false"}, ["app"]),
        (["--strict", "true"], {"FLX_OTEL_STRICT": "true"}, ["true"]),
        (["--strict", "--", "true", "x"], {"FLX_OTEL_STRICT": "true"}, ["true", "x"]),
        (["--", "--strict"], {}, ["--strict"]),
        (["-m", "job", "-x"], {}, [PYTHON, "-m", "job", "-x"]),
        (["--disabled-instrumentations", "*", "app"], {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, ["app"]),
        (["--log-level", "debug", "app"], {"OTEL_LOG_LEVEL": "debug"}, ["app"]),
    ],
)  # fmt: skip
def test_options_end_at_the_command(words: list[str], settings: dict[str, str], command: list[str]) -> None:
    assert parse(words) == Request(settings, [], command)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--service-nam", "x", "app"], "unknown option --service-nam; did you mean --service-name?"),
        (["--stric", "app"], "unknown option --stric; did you mean --strict?"),
        (["-x", "app"], "unknown option -x; flx-instrument --help lists all"),
        (["--service-name"], "option --service-name needs a value: --service-name=VALUE"),
        (["--service-name", "--strict", "app"], "option --service-name needs a value: --service-name=VALUE"),
    ],
)
def test_a_wrong_option_is_told_with_the_closest(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert str(caught.value) == said


def test_every_variable_has_an_option_of_its_own() -> None:
    options = [each.option for each in environment.variables()]
    assert len(set(options)) == len(options)
    assert not {"--help", "--version", "--env-file"} & set(options)
    for variable in environment.variables():
        assert parse([f"{variable.option}=v", "app"]).settings == {variable.name: "v"}


def test_help_lists_every_option_with_default_and_meaning(run: Run) -> None:
    done = run("--help")
    text = " ".join(done.stdout.decode().split())
    assert (done.returncode, done.stderr) == (0, b"")
    for variable in environment.variables():
        assert variable.option in text and variable.name in text
        assert " ".join(variable.doc.split()) in text
        assert variable.general or not variable.default or f"Default: {variable.default}." in text
    assert max(map(len, done.stdout.decode().splitlines())) <= 120


def test_help_survives_a_narrow_world(run: Run) -> None:
    done = run("--help", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("sh", "-c", "flx-instrument --help | head -1; flx-instrument --help | true", wrapper=())
    assert (done.returncode, done.stderr) == (0, b"")


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"flx-instrument {__version__}\n".encode()


def test_option_beats_environment_beats_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("OTEL_SERVICE_NAME=file\nOTHER=file\n")
    arguments = (PYTHON, "-c", SHOW)
    env = {"OTEL_SERVICE_NAME": "environment"}
    assert run("--env-file", "env", *arguments).stdout == b"file file\n"
    assert run("--env-file=env", *arguments, env=env).stdout == b"environment file\n"
    assert run("--env-file", "env", "--service-name", "option", *arguments, env=env).stdout == b"option file\n"


def test_a_file_fills_an_empty_variable_of_ours_but_not_the_apps(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("OTEL_SERVICE_NAME=file\nOTHER=file\n")
    done = run("--env-file", "env", PYTHON, "-c", SHOW, env={"OTEL_SERVICE_NAME": "", "OTHER": ""})
    assert done.stdout == b"file \n"


def test_an_older_name_in_the_environment_beats_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("OTEL_EXPORTER_PROMETHEUS_PORT=9464\n")
    code = "import os; print(os.environ['OTEL_EXPORTER_PROMETHEUS_PORT'])"
    assert run("--env-file", "env", PYTHON, "-c", code, env={"PROMETHEUS_PORT": "9999"}).stdout == b"9999\n"


def test_later_files_win(run: Run, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("OTEL_SERVICE_NAME=one\nOTHER=one\n")
    (tmp_path / "2").write_text("OTEL_SERVICE_NAME=two\n")
    assert run("--env-file", "1", "--env-file", "2", PYTHON, "-c", SHOW).stdout == b"two one\n"
