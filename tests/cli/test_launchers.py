"""Scripts, modules, uvicorn, gunicorn and console scripts start observed, whichever way starts us."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import ALONE, OBSERVED, Run
from tests.support.process import FLX_INSTRUMENT, clean_environment
from tests.support.waiting import eventually, free_port

PYTHON = sys.executable
WAYS = [(FLX_INSTRUMENT,), ("opentelemetry-instrument",)]
IDS = ["flx", "upstream"]

ASGI = """
import os
import opentelemetry.trace as t
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = f"{type(t.get_tracer_provider()).__module__} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
import os
import opentelemetry.trace as t
def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{type(t.get_tracer_provider()).__module__} {os.getpid()}".encode()]
"""


@contextmanager
def serving(folder: Path, port: int, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; its stderr goes to `folder`/stderr."""
    with (
        (folder / "stderr").open("wb") as stderr,
        subprocess.Popen(command, cwd=folder, env=clean_environment(**ALONE), stdout=stderr, stderr=stderr) as process,
    ):
        try:
            eventually("an answer", lambda: process.poll() is None and ask(port))
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ask(port: int) -> list[str]:
    """Return the module of the app's tracer provider and the pid that answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return answer.read().decode().split()


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "workers"])
def test_uvicorn(tmp_path: Path, way: tuple[str, ...], options: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(ASGI)
    port = free_port()
    with serving(tmp_path, port, *way, "uvicorn", "shop:app", "--port", str(port), *options) as process:
        module, pid = ask(port)
        assert module == "opentelemetry.sdk.trace"
        assert (pid == str(process.pid)) == (not options)
        process.send_signal(signal.SIGTERM)
        ended = process.wait(30)
    bare_end = 0 if options else -signal.SIGTERM  # uvicorn raises the signal again once it has served the rest
    assert ended == bare_end
    assert "flx-otel" not in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorn(tmp_path: Path, way: tuple[str, ...], options: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(WSGI)
    port = free_port()
    with serving(
        tmp_path, port, *way, "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "shop:app", *options
    ) as process:
        module, pid = ask(port)
        assert module == "opentelemetry.sdk.trace"
        assert pid != str(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "flx-otel" not in (tmp_path / "stderr").read_text()


def test_a_module_that_serves(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ASGI)
    port = free_port()
    with serving(tmp_path, port, FLX_INSTRUMENT, "-m", "uvicorn", "shop:app", "--port", str(port)):
        assert ask(port)[0] == "opentelemetry.sdk.trace"


SET_UP = """
import json, os, sys
import opentelemetry.metrics as m, opentelemetry.propagate as p, opentelemetry.trace as t
print(json.dumps({
    "providers": [str(type(x)) for x in (t.get_tracer_provider(), m.get_meter_provider())],
    "resource": {k: v for k, v in t.get_tracer_provider().resource.attributes.items()
                 if k.split(".")[0] in ("service", "telemetry", "deployment") and k != "service.instance.id"},
    "fields": sorted(p.get_global_textmap().fields),
    "sampler": t.get_tracer_provider().sampler.get_description(),
    "environment": {k: v for k, v in os.environ.items() if k.startswith(("OTEL_", "FLX_"))},
}, sort_keys=True))
"""  # fmt: skip


def test_every_way_sets_up_the_same(run: Run, tmp_path: Path) -> None:
    env = {"OTEL_SERVICE_NAME": "orders", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    (tmp_path / "app.py").write_text(SET_UP)
    (tmp_path / "own.py").write_text("from flx_observability import configure\nconfigure()\n" + SET_UP)
    ways = [run(PYTHON, "app.py", wrapper=way, env=env) for way in WAYS] + [run(PYTHON, "own.py", wrapper=(), env=env)]
    assert [done.stderr for done in ways] == [b"", b"", b""]
    assert ways[0].stdout == ways[1].stdout == ways[2].stdout
    assert b'"service.name": "orders"' in ways[0].stdout


def test_upstreams_wrapper_still_takes_another_distro(run: Run) -> None:
    code = "import sys; print('flx_otel_distro.distro' in sys.modules)"
    upstream = ("opentelemetry-instrument", "--distro", "distro", "--configurator", "configurator")
    assert run(PYTHON, "-c", code, wrapper=upstream).stdout == b"False\n"
    assert run(PYTHON, "-c", code, wrapper=upstream[:1]).stdout == b"True\n"


def test_a_script_that_starts_with_a_python_is_observed_through_env(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!/usr/bin/env python\n{OBSERVED}")
    script.chmod(0o755)
    assert run("./tool").stdout == b"opentelemetry.sdk.trace\n"
    assert run("env", "X=1", "sh", "-c", "./tool").stdout == b"opentelemetry.sdk.trace\n"
