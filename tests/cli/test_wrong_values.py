"""A wrong value is one line naming variable, value and what is allowed; strict mode stops the run."""

from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import Run
from tests.support.process import FLX_INSTRUMENT

PYTHON = sys.executable
WAYS = [(FLX_INSTRUMENT,), ("opentelemetry-instrument",)]
WRONG = {"OTEL_BSP_SCHEDULE_DELAY": "soon", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}
LINES = (
    "flx-otel: OTEL_EXPORTER_OTLP_PROTOCOL='smoke' is not valid: allowed is one of grpc, http/protobuf; "
    "using the default, grpc\n"
    "flx-otel: OTEL_BSP_SCHEDULE_DELAY='soon' is not valid: allowed is a whole number of at least 0 (milliseconds); "
    "using the default, 5000\n"
)
TREE = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'])"])
"""


def stopped(lines: str) -> str:
    for default in ("grpc", "5000"):
        lines = lines.replace(f"using the default, {default}\n", "the run stops (FLX_OTEL_STRICT)\n")
    return lines


@pytest.mark.parametrize("way", WAYS, ids=["flx", "upstream"])
def test_told_once_in_a_tree_of_processes(run: Run, way: tuple[str, ...]) -> None:
    done = run(PYTHON, "-c", TREE, wrapper=way, env=WRONG)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"1\n", LINES)


def test_told_once_where_configure_starts_us(run: Run) -> None:
    code = "from flx_observability import configure; configure(); configure(); print(1)"
    done = run(PYTHON, "-c", code, wrapper=(), env=WRONG)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"1\n", LINES)


@pytest.mark.parametrize("way", WAYS, ids=["flx", "upstream"])
def test_strict_stops_before_the_app(run: Run, way: tuple[str, ...]) -> None:
    done = run(PYTHON, "-c", "print('ran')", wrapper=way, env={**WRONG, "FLX_OTEL_STRICT": "true"})
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", stopped(LINES))


def test_strict_is_an_option(run: Run) -> None:
    done = run("--strict", PYTHON, "-c", "print('ran')", env=WRONG)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", stopped(LINES))
    assert run("--strict", PYTHON, "-c", "print('ran')").stdout == b"ran\n"


def test_strict_with_configure_raises(run: Run) -> None:
    code = """
from flx_observability import configure
from flx_otel_distro.errors import ConfigurationError
try:
    configure()
except ConfigurationError as error:
    print(error.variable, *error.__notes__, sep="\\n")
import sys; print("opentelemetry.sdk" in sys.modules)
"""
    done = run(PYTHON, "-c", code, wrapper=(), env={**WRONG, "FLX_OTEL_STRICT": "true"})
    second = stopped(LINES).splitlines()[1].removeprefix("flx-otel: ")
    assert (done.stdout.decode(), done.stderr) == (f"OTEL_EXPORTER_OTLP_PROTOCOL\n{second}\nFalse\n", b"")


def test_what_only_the_set_up_can_know_stops_a_strict_run_as_well(run: Run) -> None:
    """Whether an exporter of that name is installed is known only in the app's Python."""
    for way in WAYS:
        env = {"OTEL_TRACES_EXPORTER": "smoke", "FLX_OTEL_STRICT": "1"}
        done = run(PYTHON, "-c", "print('ran')", wrapper=way, env=env)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), way
        assert done.stderr.startswith(b"flx-otel: OTEL_TRACES_EXPORTER='smoke' is not valid: allowed is one of ")


def test_an_option_is_told_under_the_variables_name(run: Run) -> None:
    done = run("--bsp-schedule-delay", "soon", PYTHON, "-c", "print(1)")
    assert (done.stdout, done.stderr.decode()) == (b"1\n", LINES.splitlines(keepends=True)[1])


def test_an_inner_wrapper_tells_what_its_own_options_add(run: Run) -> None:
    inner = f"{FLX_INSTRUMENT} --bsp-schedule-delay never {PYTHON} -c 'print(1)'"
    done = run("sh", "-c", inner, env=WRONG)
    assert done.stderr.decode() == LINES + LINES.splitlines(keepends=True)[1].replace("soon", "never")


def test_secrets_and_control_characters_are_not_shown(run: Run) -> None:
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "hunter2", "OTEL_EXPORTER_OTLP_PROTOCOL": "a\nb\x1b[31m"}
    done = run(PYTHON, "-c", "print(1)", env=env)
    assert (done.stdout, done.stderr.count(b"\n")) == (b"1\n", 2)
    assert b"hunter2" not in done.stderr and b"\x1b" not in done.stderr


def test_an_address_from_kubernetes_is_not_a_port(run: Run) -> None:
    done = run(PYTHON, "-c", "print(1)", env={"PROMETHEUS_PORT": "tcp://10.0.0.7:9090", "FLX_OTEL_STRICT": "true"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_a_port_that_is_none_is_told_under_the_name_it_came_by(run: Run) -> None:
    done = run(PYTHON, "-c", "print(1)", env={"PROMETHEUS_PORT": "http"})
    assert done.stderr.startswith(b"flx-otel: PROMETHEUS_PORT='http' is not valid: ")


def test_nothing_is_told_on_stdout(run: Run) -> None:
    assert run("true", env=WRONG).stdout == b""
