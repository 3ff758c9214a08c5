"""Ends that are not quiet: signals twice, pools, chained handlers, gevent, a stderr nobody reads, no threads left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.collector import Collector
from tests.support.process import BIN, FLX_INSTRUMENT, clean_environment
from tests.support.waiting import eventually, free_port

LONGEST = 20.0
"""Seconds; what these runs end within even on a slow machine. Before, they hung or lost everything."""


def started(script: str, tmp_path: Path, *arguments: str, wrapper: bool = True, **env: str) -> subprocess.Popen[str]:
    path = tmp_path / "program.py"
    path.write_text(script)
    return subprocess.Popen(
        [*([FLX_INSTRUMENT] if wrapper else []), sys.executable, str(path), *arguments],
        env=clean_environment(**{"OTEL_METRICS_EXPORTER": "none", **env}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SPANS = """
import os, signal, sys, time
from opentelemetry import trace
tracer = trace.get_tracer("t")
def spans(name, number):
    for _ in range(number):
        with tracer.start_as_current_span(name):
            pass
"""


def test_a_second_sigterm_does_not_throw_away_what_the_first_was_sending(tmp_path: Path, collector: Collector) -> None:
    script = SPANS + 'spans("twice", 500)\nprint("ready", flush=True)\ntime.sleep(60)\n'
    with started(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(5):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        assert process.wait(LONGEST) == -signal.SIGTERM
    eventually("all spans", lambda: len([s for s in collector.spans() if s.name == "twice"]) == 500)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_workers_of_a_pool_send_theirs(method: str, tmp_path: Path, collector: Collector) -> None:
    name = f"pool-{method}"
    script = SPANS + (
        "import multiprocessing\n"
        f"def work(n):\n    spans({name!r}, 1)\n    return n\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        print(sum(pool.map(work, range(4))))\n"
    )
    with started(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "6\n", "")
    eventually("every worker's spans", lambda: len([s for s in collector.spans() if s.name == name]) == 4)


def test_an_app_that_looks_at_handlers_sees_the_default_and_goes_on(tmp_path: Path, collector: Collector) -> None:
    script = SPANS + (
        "import threading\n"
        "stop = threading.Event()\n"
        "previous = signal.getsignal(signal.SIGTERM)\n"
        "def handler(number, frame):\n"
        "    stop.set()\n"
        "    if callable(previous):\n        previous(number, frame)\n"
        "assert signal.signal(signal.SIGTERM, handler) is signal.SIG_DFL\n"
        "assert signal.getsignal(signal.SIGTERM) is handler\n"
        'spans("chained", 1)\n'
        "os.kill(os.getpid(), signal.SIGTERM)\nstop.wait(10)\nprint(previous, 'done')\n"
    )
    with started(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc) as process:
        out, err = process.communicate(timeout=60)
    with started(script, tmp_path, wrapper=False) as bare:
        assert (process.returncode, out, err) == (0, *bare.communicate(timeout=60))
    collector.span("chained")


def test_a_handler_put_back_to_the_default_still_flushes(tmp_path: Path, collector: Collector) -> None:
    script = SPANS + (
        "signal.signal(signal.SIGTERM, lambda *a: None)\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        'spans("put-back", 1)\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(60)\n'
    )
    with started(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc) as process:
        assert process.wait(LONGEST) == -signal.SIGTERM
    collector.span("put-back")


def test_a_second_interrupt_while_ending_is_quiet(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = SPANS + 'spans("x", 1)\nprint("ready", flush=True)\ntime.sleep(60)\n'
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with started(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            time.sleep(0.4)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "flx_otel" not in errors and errors.count("Traceback") == 1, errors


def test_a_stderr_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SPANS + 'spans("x", 1)\ntime.sleep(0.3)\n')
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(write, True)
    process = subprocess.Popen(
        [FLX_INSTRUMENT, sys.executable, str(path)],
        env=clean_environment(
            OTEL_METRICS_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
            OTEL_BSP_SCHEDULE_DELAY="10",
        ),
        stderr=write,
    )  # fmt: skip
    try:
        assert process.wait(LONGEST) == 0
    finally:
        process.kill()
        os.close(read)
        os.close(write)


def test_where_no_thread_can_be_started_the_end_sends_or_gives_up(tmp_path: Path, collector: Collector) -> None:
    script = SPANS + (
        "import _thread, threading\n"
        "import flx_otel_distro.otlp.outbox as outbox\n"
        'def none_left(*a): raise RuntimeError("can\'t start new thread")\n'
        "outbox._start_thread = none_left\n"
        "spans(sys.argv[1], 3)\n"
    )
    for endpoint in (collector.grpc, f"http://127.0.0.1:{free_port()}"):
        with started(script, tmp_path, "threadless", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as process:
            assert process.wait(LONGEST) == 0
    eventually("the spans", lambda: len([s for s in collector.spans() if s.name == "threadless"]) == 3)


def test_greenlets_record_as_if_we_were_not_there(tmp_path: Path, collector: Collector) -> None:
    script = (
        "from gevent import monkey\nmonkey.patch_all()\nimport gevent\n" + SPANS + "def work(n):\n"
        "    for _ in range(50):\n        spans('greenlet', 1)\n        gevent.sleep(0)\n    return n\n"
        "jobs = [gevent.spawn(work, n) for n in range(20)]\n"
        "gevent.joinall(jobs)\nprint(sum(job.get() for job in jobs))\n"
    )
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, "OTEL_BSP_SCHEDULE_DELAY": "5"}
    with started(script, tmp_path, **environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "190\n"), err
    assert "flx-otel" not in err and "Traceback" not in err, err
    eventually("all spans", lambda: len([s for s in collector.spans() if s.name == "greenlet"]) == 1000)


def test_a_gunicorn_worker_of_uvicorns_sends_what_it_finished(tmp_path: Path, collector: Collector) -> None:
    (tmp_path / "shop.py").write_text(
        "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/worked')\nasync def worked():\n    return 1\n"
    )
    port = free_port()
    process = subprocess.Popen(
        [
            FLX_INSTRUMENT, str(BIN / "gunicorn"), "-w", "1", "-k", "uvicorn_worker.UvicornWorker", "shop:app",
            "-b", f"127.0.0.1:{port}",
        ],
        cwd=tmp_path,
        env=clean_environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc, OTEL_EXPORTER_PROMETHEUS_PORT=str(free_port()),
        ),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def ask() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/worked", timeout=5) as answer:
                return answer.status == 200

        eventually("the worker", ask, 40)
        process.terminate()
        process.wait(LONGEST)
    finally:
        process.kill()
    collector.span("GET /worked")
