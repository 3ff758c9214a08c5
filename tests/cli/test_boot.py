"""The boot inside the app's Python: it chains, it is gone afterwards, and it knows whom to leave alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flx_otel_distro.cli.launch import BOOT
from tests.cli.conftest import OBSERVED, Run
from tests.support.process import FLX_INSTRUMENT

PYTHON = sys.executable
SITE = "import sys; print(sys.modules.get('sitecustomize')); print(sys.modules.get('usercustomize'))"


def with_path(folder: Path, *command: str) -> tuple[str, ...]:
    """Return a command that sees `folder` on PYTHONPATH where the wrapper's own Python does not."""
    shell = f'PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{folder}" exec "$@"'
    return ("sh", "-c", shell, "sh", *command)


def site(folder: Path, text: str, name: str = "sitecustomize") -> dict[str, str]:
    """Write the app's own sitecustomize; return the environment in which Python finds it."""
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder / "own")}


def test_the_apps_sitecustomize_runs_as_ever(run: Run, tmp_path: Path) -> None:
    env = site(tmp_path, "import sys\nprint(__name__, __file__, __spec__.name, __spec__.origin)\nMARK = 1\n")
    site(tmp_path, "print('user', __name__)", "usercustomize")
    code = f"{SITE}\nimport sitecustomize; print(sitecustomize.MARK, sitecustomize is sys.modules['sitecustomize'])"
    bare = run(PYTHON, "-c", code, wrapper=(), env=env)
    ours = run(PYTHON, "-c", code, env=env)
    assert bare.stdout.count(b"sitecustomize") >= 3
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, bare.stdout, bare.stderr)
    assert run(PYTHON, "-c", OBSERVED, env=env).stdout.endswith(b"\nopentelemetry.sdk.trace\n")


def test_without_one_there_is_none(run: Run) -> None:
    code = f"{SITE}\ntry:\n    import sitecustomize\nexcept ImportError as e:\n    print(e, e.name)"
    bare, ours = run(PYTHON, "-c", code, wrapper=()), run(PYTHON, "-c", code)
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, bare.stdout, bare.stderr)


@pytest.mark.parametrize(
    "text",
    [
        "raise ValueError('of the app')",
        "import nothing_of_that_name",
        "raise ImportError('x', name='sitecustomize')",
        "1/",
        "import sys; sys.exit(3)",
    ],
)
def test_one_that_fails_is_reported_as_ever(run: Run, tmp_path: Path, text: str) -> None:
    site(tmp_path, text)
    command = with_path(tmp_path / "own", PYTHON, "-c", SITE)
    bare, ours = run(*command, wrapper=()), run(*command)
    assert (ours.returncode, ours.stdout) == (bare.returncode, bare.stdout)
    if "exit" not in text:  # that one ends Python with a traceback, which shows the frames it came through
        assert ours.stderr == bare.stderr
        observed = with_path(tmp_path / "own", PYTHON, "-c", OBSERVED)
        assert run(*observed).stdout == b"opentelemetry.sdk.trace\n"


def other_pythons() -> list[str]:
    """Return interpreters without the distro, of whatever version this machine has."""
    found = [*(Path.home() / ".pyenv/versions").glob("3.*/bin/python"), Path("/usr/bin/python3")]
    return [str(each) for each in found if each.exists()]


@pytest.mark.parametrize("other", other_pythons())
def test_a_python_without_the_distro_runs_on(run: Run, other: str) -> None:
    done = run(other, "-c", "import sys; print(sys.path[1:])")
    bare = run(other, "-c", "import sys; print(sys.path[1:])", wrapper=())
    said = f"flx-otel: {other} has no flx_otel_distro, so the program runs unobserved; install flx-otel-distro there\n"
    assert (done.returncode, done.stdout) == (0, bare.stdout)
    assert done.stderr == (b"" if PYTHON in done.stderr.decode() else said.encode())


@pytest.mark.parametrize("other", other_pythons()[:1])
def test_a_child_of_another_python_runs_on_in_silence(run: Run, other: str) -> None:
    done = run("sh", "-c", f"{other} -c 'print(1)'; exit 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_a_broken_distro_is_one_line_and_the_app_runs(run: Run, tmp_path: Path) -> None:
    """A Python that finds our code but not what it needs, as through a PYTHONPATH into another environment."""
    package = tmp_path / "flx_otel_distro"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "start.py").write_text("raise RuntimeError('two\\nlines')")
    done = run(*with_path(tmp_path, PYTHON, "-c", "print('ran')"))
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    expected = f"flx-otel: observing failed in {PYTHON} and the program runs without it: RuntimeError: two lines\n"
    assert done.stderr.decode() == expected


SEEN = "import sys; print('opentelemetry.sdk.trace' in sys.modules)"


@pytest.mark.parametrize(
    "code",
    [
        f"from multiprocessing.resource_tracker import main;0; {SEEN}",
        f"from joblib.externals.loky.backend.resource_tracker import main; {SEEN}",
    ],
)
def test_trackers_are_left_alone(run: Run, code: str, tmp_path: Path) -> None:
    package = tmp_path
    for part in ("joblib", "externals", "loky", "backend"):
        package = package / part
        package.mkdir()
        (package / "__init__.py").write_text("")
    (package / "resource_tracker.py").write_text("main = None")
    assert run(PYTHON, "-c", code).stdout == b"False\n"


POOL = """
import multiprocessing as mp, sys
def work(_):
    import opentelemetry.trace as t
    return type(t.get_tracer_provider()).__module__
if __name__ == "__main__":
    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        print(set(pool.map(work, range(4))))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_of_multiprocessing_are_observed(run: Run, tmp_path: Path, method: str) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    done = run(PYTHON, "pool.py", method)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{'opentelemetry.sdk.trace'}\n", b"")


def test_a_wrapper_within_the_wrapper_starts_once(run: Run) -> None:
    for inner in (FLX_INSTRUMENT, "opentelemetry-instrument"):
        done = run(inner, PYTHON, "-c", OBSERVED)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"opentelemetry.sdk.trace\n", b""), inner
    done = run(FLX_INSTRUMENT, PYTHON, "-c", "import os; print(os.environ['PYTHONPATH'])")
    assert done.stdout.decode() == f"{BOOT}\n"


def test_what_starts_us_stays_out_of_what_we_start(run: Run, tmp_path: Path) -> None:
    """A subprocess begun while the distro starts must not start the distro, and so on for ever."""
    site_packages = tmp_path / "own"
    env = site(tmp_path, "")
    (site_packages / "noisy.py").write_text(
        "import subprocess, sys\nfrom opentelemetry.instrumentation.instrumentor import BaseInstrumentor\n"
        "class Noisy(BaseInstrumentor):\n"
        "    def instrumentation_dependencies(self): return ()\n"
        "    def _uninstrument(self, **kwargs): pass\n"
        "    def _instrument(self, **kwargs):\n"
        f"        print(subprocess.run([sys.executable, '-c', {SEEN!r}], capture_output=True, text=True).stdout)\n"
    )
    metadata = site_packages / "noisy-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[opentelemetry_instrumentor]\nnoisy = noisy:Noisy\n")
    only = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "", "FLX_OTEL_INSTRUMENTATIONS": "noisy"}
    done = run(PYTHON, "-c", OBSERVED, env={**env, **only})
    assert (done.stdout, done.stderr) == (b"False\n\nopentelemetry.sdk.trace\n", b"")


def test_the_boot_folder_holds_one_module() -> None:
    names = {each.name for each in Path(BOOT).iterdir()} - {"__pycache__"}
    assert names == {"sitecustomize.py"}


def test_the_boot_is_syntax_every_python_3_reads() -> None:
    for other in other_pythons():
        check = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), 'boot', 'exec')"
        subprocess.run([other, "-c", check, f"{BOOT}/sitecustomize.py"], check=True)
