"""`OTEL_SDK_DISABLED=true` leaves the process as if we were not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

PYTHON = sys.executable
STATE = """
import json, os, sys, threading
print(json.dumps([
    sorted(m for m in sys.modules if m.startswith(("opentelemetry", "flx_", "wrapt", "prometheus", "h2"))),
    os.environ.get("PYTHONPATH"), sorted(k for k in os.environ if k.startswith(("OTEL_", "FLX_"))),
    threading.active_count(), sys.path,
]))
"""


@pytest.mark.parametrize("value", ["true", "TRUE", " true ", "1"])
def test_nothing_is_loaded_and_nothing_is_set(run: Run, value: str) -> None:
    env = {"OTEL_SDK_DISABLED": value}
    bare, ours = run(PYTHON, "-c", STATE, wrapper=(), env=env), run(PYTHON, "-c", STATE, env=env)
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, bare.stdout, b"")
    assert json.loads(ours.stdout)[0] == []


def test_the_option_does_the_same(run: Run) -> None:
    modules, path, *_ = json.loads(run("--sdk-disabled", PYTHON, "-c", STATE).stdout)
    assert (modules, path) == ([], None)


def test_wrong_values_do_not_matter_then(run: Run) -> None:
    env = {"OTEL_SDK_DISABLED": "true", "OTEL_BSP_SCHEDULE_DELAY": "soon", "FLX_OTEL_STRICT": "true"}
    done = run(PYTHON, "-c", "print(1)", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_the_apps_own_variables_are_still_read_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("DATABASE=here\nOTEL_SDK_DISABLED=true\n")
    code = "import os, sys; print(os.environ['DATABASE'], 'opentelemetry' in sys.modules)"
    assert run("--env-file", "env", PYTHON, "-c", code).stdout == b"here False\n"


def test_a_child_that_disables_itself_loads_nothing(run: Run) -> None:
    code = "import sys; print([m for m in sys.modules if m.startswith(('opentelemetry', 'flx_'))])"
    assert run("env", "OTEL_SDK_DISABLED=true", PYTHON, "-c", code).stdout == b"[]\n"


def test_upstreams_wrapper_sets_up_nothing_either(run: Run) -> None:
    code = "import opentelemetry.trace as t; print(type(t._TRACER_PROVIDER).__name__)"
    env = {"OTEL_SDK_DISABLED": "true"}
    done = run(PYTHON, "-c", code, wrapper=("opentelemetry-instrument",), env=env)
    assert (done.stdout, done.stderr) == (b"NoneType\n", b"")


def test_a_value_that_is_neither_is_told_and_we_act(run: Run) -> None:
    code = "import sys; print('opentelemetry.sdk.trace' in sys.modules)"
    done = run(PYTHON, "-c", code, env={"OTEL_SDK_DISABLED": "maybe"})
    assert (done.stdout, done.stderr.count(b"\n")) == (b"True\n", 1)
    assert done.stderr.startswith(b"flx-otel: OTEL_SDK_DISABLED='maybe' is not valid: allowed is true or false")


def test_configure_does_nothing_either(run: Run) -> None:
    code = "from flx_observability import configure; configure(service_name='x'); configure(sdk_disabled=True)\n"
    code += "import os, sys; print('opentelemetry' in sys.modules, os.environ.get('OTEL_SERVICE_NAME'))"
    done = run(PYTHON, "-c", code, wrapper=(), env={"OTEL_SDK_DISABLED": "true"})
    assert (done.stdout, done.stderr) == (b"False None\n", b"")


def test_the_wrapper_itself_imports_next_to_nothing(run: Run) -> None:
    code = """
import sys
before = set(sys.modules)
import flx_otel_distro.cli.instrument
print(sorted(name for name in set(sys.modules) - before if not name.startswith("flx_otel_distro")))
print(sorted(name for name in set(sys.modules) - before if name.startswith("flx_otel_distro.")))
"""
    standard, ours = run(PYTHON, "-c", code, wrapper=()).stdout.decode().splitlines()
    heavy = {
        "argparse",
        "dataclasses",
        "inspect",
        "logging",
        "urllib.parse",
        "pathlib",
        "subprocess",
        "importlib.metadata",
    }
    assert not heavy & set(eval(standard))
    assert not [name for name in eval(standard) if name.startswith("opentelemetry")]
    assert set(eval(ours)) == {
        "flx_otel_distro.cli",
        "flx_otel_distro.cli.env_file",
        "flx_otel_distro.cli.instrument",
        "flx_otel_distro.cli.launch",
        "flx_otel_distro.cli.options",
        "flx_otel_distro.environment",
        "flx_otel_distro.errors",
    }


def test_importing_the_public_package_costs_nothing(run: Run) -> None:
    code = "import sys; before = set(sys.modules); import flx_observability; print(sorted(set(sys.modules) - before))"
    names = eval(run(PYTHON, "-c", code, wrapper=()).stdout)
    assert [name for name in names if name.startswith(("opentelemetry", "flx_otel"))] == []
