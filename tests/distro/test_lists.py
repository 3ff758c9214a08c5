"""Allow-list and deny-list of instrumentors, whichever way starts the distro."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.process import FLX_INSTRUMENT

PYTHON = sys.executable
WAYS = [(FLX_INSTRUMENT,), ("opentelemetry-instrument",), ()]
ONLY_TINY = "broken,absent,first,second"


def loaded(run: Run, way: tuple[str, ...], env: dict[str, str]) -> tuple[set[str], list[str]]:
    """Return the instrumentors that acted and the lines on stderr."""
    start = "" if way else "from flx_observability import configure; configure()"
    done = run(PYTHON, "-c", start, wrapper=way, env=env)
    assert done.returncode == 0
    return set(done.stdout.decode().split()), done.stderr.decode().splitlines()


@pytest.mark.parametrize("way", WAYS, ids=["flx", "upstream", "configure"])
@pytest.mark.parametrize(
    ("allowed", "denied", "expected"),
    [
        ("first", "", {"first"}),
        (" first , second", "", {"first", "second"}),
        ("first,second", "second", {"first"}),
        ("first", "first", set[str]()),
        ("nobody", "", set[str]()),
        ("first", "*", set[str]()),
        ("first,second", "second , x", {"first"}),
    ],
)
def test_both_lists(
    run: Run, instrumentors: dict[str, str], way: tuple[str, ...], allowed: str, denied: str, expected: set[str]
) -> None:
    env = {**instrumentors, "FLX_OTEL_INSTRUMENTATIONS": allowed, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": denied}
    assert loaded(run, way, env) == (expected, [])


@pytest.mark.parametrize("way", WAYS, ids=["flx", "upstream", "configure"])
def test_one_that_fails_is_one_line_and_the_others_act(
    run: Run, instrumentors: dict[str, str], way: tuple[str, ...]
) -> None:
    names, lines = loaded(run, way, {**instrumentors, "FLX_OTEL_INSTRUMENTATIONS": ONLY_TINY})
    assert names == {"first", "second"}
    assert lines == [
        "flx-otel: instrumentor broken failed and goes on without it: RuntimeError: broken in two lines. "
        "To leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=broken"
    ]


def test_lists_are_options(run: Run, instrumentors: dict[str, str], tmp_path: Path) -> None:
    words = ("--instrumentations", "first,second", "--disabled-instrumentations=second", PYTHON, "-c", "")
    done = run(*words, env=instrumentors)
    assert (done.stdout, done.stderr) == (b"first\n", b"")
    code = "from flx_observability import configure; configure(instrumentations=['first', 'second'], %s)"
    done = run(PYTHON, "-c", code % "disabled_instrumentations='second'", wrapper=(), env=instrumentors)
    assert (done.stdout, done.stderr) == (b"first\n", b"")
