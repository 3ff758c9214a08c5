"""`configure()`: the wrapper's effect in one line of the app."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.process import FLX_INSTRUMENT

PYTHON = sys.executable
START = "from flx_observability import configure\n"
SHOW = """
import os
import opentelemetry.trace as t
print(dict(t.get_tracer_provider().resource.attributes).get("service.name"), os.environ["OTEL_TRACES_SAMPLER_ARG"],
      os.environ["OTEL_RESOURCE_ATTRIBUTES"], t.get_tracer_provider().sampler.get_description())
"""


def test_options_win_over_the_environment(run: Run) -> None:
    code = f"""{START}
configure(service_name="mine", traces_sampler="traceidratio", traces_sampler_arg=0.25, metrics_exporter=None,
          resource_attributes={{"team": "a b", "x": "1,2"}})
{SHOW}"""
    done = run(PYTHON, "-c", code, wrapper=(), env={"OTEL_SERVICE_NAME": "other"})
    assert done.stdout.decode() == "mine 0.25 team=a%20b,x=1%2C2 TraceIdRatioBased{0.25}\n"
    assert done.stderr == b""


def test_a_second_call_does_nothing(run: Run) -> None:
    code = f"""{START}
configure(service_name="one")
import opentelemetry.trace as t
first = t.get_tracer_provider()
configure(service_name="two")
import os
print(t.get_tracer_provider() is first, os.environ["OTEL_SERVICE_NAME"])
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.stdout, done.stderr) == (b"True one\n", b"")


def test_threads_that_call_at_once_start_once(run: Run) -> None:
    code = f"""{START}
import threading
threads = [threading.Thread(target=configure) for _ in range(8)]
[each.start() for each in threads]; [each.join() for each in threads]
import opentelemetry.trace as t
print(type(t.get_tracer_provider()).__module__)
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.stdout, done.stderr) == (b"opentelemetry.sdk.trace\n", b"")


@pytest.mark.parametrize("way", [(FLX_INSTRUMENT,), ("opentelemetry-instrument",)])
def test_under_a_wrapper_it_is_silent(run: Run, way: tuple[str, ...]) -> None:
    code = f"{START}configure(service_name='mine')\nimport os; print(os.environ.get('OTEL_SERVICE_NAME'))"
    done = run(PYTHON, "-c", code, wrapper=way)
    assert (done.stdout, done.stderr) == (b"None\n", b"")


def test_an_unknown_option_names_the_closest(run: Run) -> None:
    code = f"{START}\ntry:\n    configure(sevice_name='x')\nexcept TypeError as error:\n    print(error)"
    done = run(PYTHON, "-c", code, wrapper=())
    assert done.stdout == b"configure() has no option 'sevice_name'; did you mean 'service_name'?\n"


def test_a_wrong_option_is_told_and_the_default_used(run: Run) -> None:
    code = f"{START}configure(bsp_schedule_delay='soon')\nprint('runs')"
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.stdout, done.stderr.count(b"\n")) == (b"runs\n", 1)
    assert done.stderr.startswith(b"flx-otel: OTEL_BSP_SCHEDULE_DELAY='soon' is not valid: ")


def test_strict_is_an_option_that_raises(run: Run) -> None:
    code = f"""{START}
from flx_otel_distro.errors import ConfigurationError
for options in ({{"bsp_schedule_delay": "soon"}}, {{"traces_exporter": "smoke"}}):
    try:
        configure(strict=True, **options)
    except ConfigurationError as error:
        print(error.variable)
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.stdout, done.stderr) == (b"OTEL_BSP_SCHEDULE_DELAY\nOTEL_TRACES_EXPORTER\n", b"")


ACTIVE = """
import opentelemetry.trace as t
from opentelemetry.sdk.trace import TracerProvider
mine = TracerProvider()
t.set_tracer_provider(mine)
"""
SAID = (
    "flx-otel: OpenTelemetry is already active in this process (a tracer provider, "
    "opentelemetry.sdk.trace.TracerProvider, is set): this distro does nothing. Remove the other set-up to use it\n"
)


def test_an_active_opentelemetry_is_left_alone_and_that_is_said_once(run: Run) -> None:
    code = f"""{ACTIVE}{START}
import os
before = dict(os.environ)
configure(service_name="x"); configure()
import opentelemetry.metrics._internal as metrics
print(t.get_tracer_provider() is mine, metrics._METER_PROVIDER, dict(os.environ) == before)
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.stdout.decode(), done.stderr.decode()) == ("True None True\n", SAID)


def test_one_that_is_active_before_the_wrapper_starts_us_is_left_alone(run: Run, tmp_path: Path) -> None:
    """The app's own sitecustomize may have set OpenTelemetry up; upstream's wrapper would not run it at all."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text(ACTIVE)
    code = f"{START}configure()\nimport sitecustomize, opentelemetry.trace as t\n"
    code += "print(t.get_tracer_provider() is sitecustomize.mine)"
    shell = f'PYTHONPATH="$PYTHONPATH:{own}" exec "$@"'
    done = run("sh", "-c", shell, "sh", PYTHON, "-c", code)
    assert (done.stdout.decode(), done.stderr.decode()) == ("True\n", SAID)


def test_a_failing_set_up_is_one_line(run: Run) -> None:
    code = f"""
import sys
sys.modules["flx_otel_configurators.configurator"] = None
{START}configure()
print("runs")
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (0, b"runs\n", 1)
    assert done.stderr.startswith(b"flx-otel: starting OpenTelemetry failed and goes on without it: ")


def test_the_name_is_public_and_others_are_not(run: Run) -> None:
    code = """
import flx_observability
from flx_observability import configure
print(configure is flx_observability.configure, "configure" in flx_observability.__all__)
try:
    flx_observability.nothing
except AttributeError as error:
    print(error)
"""
    done = run(PYTHON, "-c", code, wrapper=())
    assert done.stdout == b"True True\nmodule 'flx_observability' has no attribute 'nothing'\n"
