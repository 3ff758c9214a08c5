"""`flx-otel`, the metrics server and the tracing trial, as commands."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.collector import Collector
from tests.support.process import BIN, clean_environment, samples
from tests.support.waiting import eventually, free_port

PYTHON = sys.executable
SERVE = (PYTHON, "-m", "flx_observability.prometheus_server")
TRY = (PYTHON, "-m", "flx_observability.enable_tracing")


def test_flx_otel_lists_its_commands(run: Run) -> None:
    done = run("flx-otel", "--help", wrapper=())
    assert done.returncode == 0
    for name in ("demo", "env", "serve-metrics", "try-tracing"):
        assert re.search(rf"^  {name} +\S", done.stdout.decode(), re.MULTILINE)
    for words, said in (
        (("nev",), b"flx-otel: unknown command 'nev'; did you mean env?\n"),
        (("zzz",), b"flx-otel: unknown command 'zzz'; flx-otel --help lists all\n"),
    ):
        done = run("flx-otel", *words, wrapper=())
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)
    assert run("flx-otel", wrapper=()).returncode == 2
    assert run("flx-otel", "--version", wrapper=()).stdout.startswith(b"flx-otel ")


@contextmanager
def server(*arguments: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the metrics server; give the process and the URL it printed."""
    with subprocess.Popen(
        [*SERVE, *arguments], env=clean_environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        try:
            assert line.startswith("prometheus_server: serving http://"), line + process.stderr.read1().decode()
            yield process, line.split()[-1]
        finally:
            if process.poll() is None:
                process.kill()


def scrape(url: str, accept: str = "") -> tuple[str, str]:
    """Return body and content type."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"accept": accept}), timeout=5) as answer:
        return answer.read().decode(), answer.headers["content-type"]


def test_it_serves_its_own_process() -> None:
    with server("--port", "0") as (process, url):
        body, kind = scrape(url)
        assert kind.startswith("text/plain")
        assert list(samples(body, "python_info").values()) == [1.0]
        assert samples(body, "process_resident_memory_bytes")
        assert scrape(url, "application/openmetrics-text; version=1.0.0")[1].startswith("application/openmetrics-text")
        assert process.poll() is None


def test_it_merges_the_files_of_an_apps_workers(tmp_path: Path) -> None:
    worker = "from prometheus_client import Counter; Counter('orders', 'Orders.').inc(2)"
    env = clean_environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    for _ in range(2):
        subprocess.run([PYTHON, "-c", worker], env=env, check=True)
    with server(f"--port={free_port()}", PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as (_, url):
        assert samples(scrape(url)[0], "orders_total") == {(): 4.0}
        subprocess.run([PYTHON, "-c", worker], env=env, check=True)
        assert samples(scrape(url)[0], "orders_total") == {(): 6.0}


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_PROMETHEUS_PORT", "PROMETHEUS_PORT"])
def test_the_port_comes_from_the_environment(name: str) -> None:
    port = free_port()
    with server(**{name: str(port)}) as (_, url):
        assert url == f"http://localhost:{port}/metrics"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked(number: signal.Signals) -> None:
    with server("--port", "0") as (process, url):
        scrape(url)
        begun = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, b"", b"")
        assert time.monotonic() - begun < 2


def test_a_taken_port_is_one_line(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(*SERVE, "--host", "127.0.0.1", "--port", str(port), wrapper=())
    said = f"prometheus_server: cannot listen on 127.0.0.1:{port}: is it in use? Another one: --port\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", said)


@pytest.mark.parametrize("words", [("--port", "http"), ("--port", "70000"), ("--prot", "1"), ("x",), ("--port",)])
def test_wrong_arguments_are_one_line(run: Run, words: tuple[str, ...]) -> None:
    done = run(*SERVE, *words, wrapper=())
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_missing_directory_is_one_line(run: Run) -> None:
    done = run(*SERVE, wrapper=(), env={"PROMETHEUS_MULTIPROC_DIR": "/no/such"})
    said = "prometheus_server: PROMETHEUS_MULTIPROC_DIR='/no/such' is not a directory\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)


def test_both_have_help(run: Run) -> None:
    for command in (SERVE, TRY):
        done = run(*command, "--help", wrapper=())
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(f"Usage: python -m {command[-1]}".encode())


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_trial_span_arrives(run: Run, collector: Collector, protocol: str) -> None:
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    done = run(*TRY, wrapper=(), env={**env, "OTEL_SERVICE_NAME": f"trial-{protocol}"})
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    trace_id = re.search(r"trace id +([0-9a-f]{32})$", text, re.MULTILINE)
    assert trace_id is not None
    assert f"export OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}\n" in text
    assert f"export OTEL_EXPORTER_OTLP_PROTOCOL={protocol}\n" in text
    eventually("the span", lambda: trace_id[1] in {span.trace_id.hex() for span in collector.spans()})


def test_a_trial_without_a_collector_says_what_to_do(run: Run) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    done = run(*TRY, wrapper=(), env=env)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert b"cannot be reached" in done.stderr and b"OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr
    done = run(*TRY, wrapper=(), env={**env, "OTEL_SDK_DISABLED": "true"})
    assert (done.returncode, done.stderr) == (
        1,
        b"enable_tracing: OTEL_SDK_DISABLED=true switches tracing off: unset it\n",
    )


def test_a_trial_with_a_bad_certificate_says_so(run: Run) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"}
    done = run(*TRY, wrapper=(), env=env)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)


def test_enable_tracing_runs_a_command_traced(run: Run, collector: Collector) -> None:
    code = "import opentelemetry.trace as t; t.get_tracer('x').start_span('traced by the command').end(); print(1)"
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, "OTEL_TRACES_EXPORTER": "none"}
    done = run(*TRY, "--service-name", "traced", PYTHON, "-c", code, wrapper=(), env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")
    assert collector.span("traced by the command")
    assert run(*TRY, "no-such-command", wrapper=()).returncode == 127


def test_the_commands_are_installed() -> None:
    for name in ("flx-instrument", "flx-otel"):
        assert os.access(BIN / name, os.X_OK)
