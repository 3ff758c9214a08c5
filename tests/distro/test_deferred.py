"""An instrumentor comes when the app imports its library, and no sooner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

LIBRARY = "VALUE = 'untouched'\n"
INSTRUMENTOR = """
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
print("loaded", flush=True)
class Redis(BaseInstrumentor):
    _instance = None
    def instrumentation_dependencies(self): return ()
    def _uninstrument(self, **kwargs): pass
    def _instrument(self, **kwargs):
        import redis
        redis.VALUE = "observed"
"""


@pytest.fixture
def redis(tmp_path: Path) -> dict[str, str]:
    """Install a library `redis` and an upstream-shaped instrumentor of it; return the environment that has both."""
    folder = tmp_path / "packages"
    package = folder / "opentelemetry" / "instrumentation" / "redis"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(INSTRUMENTOR)
    (folder / "redis.py").write_text(LIBRARY)
    metadata = folder / "opentelemetry_instrumentation_redis-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: opentelemetry-instrumentation-redis\nVersion: 1\nProvides-Extra: instruments\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\nredis = opentelemetry.instrumentation.redis:Redis\n"
    )
    return {"PYTHONPATH": str(folder), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ""}


def test_a_program_without_the_library_never_sees_the_instrumentor(run: Run, redis: dict[str, str]) -> None:
    assert run(sys.executable, "-c", "print('app')", env=redis, text=True).stdout == "app\n"


def test_it_is_loaded_before_the_import_statement_is_done(run: Run, redis: dict[str, str]) -> None:
    code = "print('app'); import redis; print(redis.VALUE, type(redis.__loader__).__name__)"
    done = run(sys.executable, "-c", code, env=redis, text=True)
    assert done.stdout.splitlines() == ["app", "loaded", "observed SourceFileLoader"], done.stderr


def test_an_excluded_one_is_not_loaded(run: Run, redis: dict[str, str]) -> None:
    env = {**redis, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis"}
    assert run(sys.executable, "-c", "import redis; print(redis.VALUE)", env=env, text=True).stdout == "untouched\n"


def test_many_threads_that_import_it_at_once_get_it_observed(run: Run, redis: dict[str, str]) -> None:
    code = (
        "import threading\n"
        "def load():\n"
        "    import redis\n"
        "    seen.append(redis.VALUE)\n"
        "seen = []\n"
        "threads = [threading.Thread(target=load) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(seen == ['observed'] * 8)"
    )
    done = run(sys.executable, "-c", code, env=redis, text=True)
    assert done.stdout.splitlines() == ["loaded", "True"], done.stderr


def test_a_library_of_a_wrong_version_is_told_when_it_is_imported(run: Run, redis: dict[str, str]) -> None:
    folder = Path(redis["PYTHONPATH"])
    for name, version in (("redis", "1"),):
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with (folder / "opentelemetry_instrumentation_redis-1.dist-info" / "METADATA").open("a") as file:
        file.write('Requires-Dist: redis>=2; extra == "instruments"\n')
    silent = run(sys.executable, "-c", "print('app')", env=redis, text=True)
    assert "redis is not observed" not in silent.stderr
    done = run(sys.executable, "-c", "import redis; print(redis.VALUE)", env=redis, text=True)
    assert done.stdout == "untouched\n"
    assert done.stderr.count("redis is not observed: instrumentor redis supports redis>=2") == 1


def test_errors_from_warnings_are_the_apps_own(run: Run, redis: dict[str, str]) -> None:
    package = Path(redis["PYTHONPATH"]) / "opentelemetry" / "instrumentation" / "redis" / "__init__.py"
    package.write_text("import warnings\nwarnings.warn('old', DeprecationWarning)\n" + INSTRUMENTOR)
    code = "import redis; print(redis.VALUE); import warnings; warnings.warn('mine')"
    done = run(sys.executable, "-W", "error", "-c", code, env=redis, text=True)
    assert done.stdout.splitlines() == ["loaded", "observed"], done.stderr
    assert done.stderr.splitlines()[-1] == "UserWarning: mine"


def test_an_app_that_imports_the_instrumentors_module_first_gets_it_observed(run: Run, redis: dict[str, str]) -> None:
    package = Path(redis["PYTHONPATH"]) / "opentelemetry" / "instrumentation" / "redis" / "__init__.py"
    package.write_text("import redis\n" + INSTRUMENTOR)
    code = "import opentelemetry.instrumentation.redis; import redis; print(redis.VALUE)"
    done = run(sys.executable, "-c", code, env=redis, text=True)
    assert (done.stdout.splitlines(), done.stderr) == (["loaded", "observed"], "")


def test_an_instrumentor_at_the_start_may_import_the_module_of_one_that_waits(run: Run, redis: dict[str, str]) -> None:
    package = Path(redis["PYTHONPATH"]) / "opentelemetry" / "instrumentation" / "redis" / "__init__.py"
    package.write_text("import redis\n" + INSTRUMENTOR + "class Another(Redis): _instance = None\n")
    entry_points = Path(redis["PYTHONPATH"]) / "opentelemetry_instrumentation_redis-1.dist-info" / "entry_points.txt"
    for lines in (
        "redis = opentelemetry.instrumentation.redis:Redis\nanother = opentelemetry.instrumentation.redis:Another\n",
        "another = opentelemetry.instrumentation.redis:Another\nredis = opentelemetry.instrumentation.redis:Redis\n",
    ):
        entry_points.write_text("[opentelemetry_instrumentor]\n" + lines)
        done = run(sys.executable, "-c", "import redis; print(redis.VALUE)", env=redis, text=True)
        assert (done.stdout.splitlines(), done.stderr) == (["loaded", "observed"], "")


def test_grpc_and_its_asyncio_half_imported_at_once_are_both_observed(run: Run) -> None:
    code = (
        "import threading\n"
        "threads = [threading.Thread(target=__import__, args=(name,)) for name in ('grpc', 'grpc.aio')]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "import grpc._channel, grpc.aio._server\n"
        "print(hasattr(grpc._channel.Channel.unary_unary, '__wrapped__'))\n"
        "print(hasattr(grpc.aio._server.Server.__init__, '__wrapped__'))\n"
    )
    env = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ""}
    for _ in range(3):
        done = run(sys.executable, "-c", code, env=env, text=True)
        assert (done.stdout.splitlines(), done.stderr) == (["True", "True"], "")
