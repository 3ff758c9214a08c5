"""`flx-otel demo`: a small service under `flx-instrument`, some traffic, and what is seen of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from flx_otel_distro import environment as env
from flx_otel_distro.errors import MissingDependencyError

if TYPE_CHECKING:
    from flx_otel_distro.cli.demo_receiver import DemoReceiver, Seen

T = TypeVar("T")

_HELP = """Usage: flx-otel demo [--keep | --once]

Runs a small FastAPI service under flx-instrument with the built-in defaults, sends it some requests,
and shows its metrics, one of its traces and what to do next. Traces go to a receiver inside the demo.

  --keep   go on serving until Ctrl-C (the default on a terminal)
  --once   end when all is shown (the default elsewhere)
"""

_SECONDS = 30.0
_SHOWN = ("http_server_request_duration_seconds_count", "http_server_active_requests")


def main(arguments: list[str]) -> int:
    """Run the demo; return 0, or 1 with the reason on stderr where it could not be shown."""
    if any(each in ("-h", "--help") for each in arguments):
        print(_HELP, end="")
        return 0
    if unknown := [each for each in arguments if each not in ("--keep", "--once")]:
        print(f"flx-otel demo: unknown option {unknown[0]!r}; --keep and --once are known", file=sys.stderr)
        return 2
    keep = "--keep" in arguments or ("--once" not in arguments and sys.stdout.isatty())
    for module in ("fastapi", "uvicorn"):
        if find_spec(module) is None:
            print(f"flx-otel demo: {MissingDependencyError(module, 'all')}", file=sys.stderr)
            return 1
    try:
        return _run(keep)
    except _FailedError as error:
        print(f"flx-otel demo: {error}", file=sys.stderr)
        return 1


class _FailedError(Exception):
    """The demo cannot go on, for a reason a person can act on."""


def _run(keep: bool) -> int:
    from flx_otel_distro.cli.demo_receiver import DemoReceiver

    receiver = DemoReceiver()
    app_port, metrics_port = _free(0), _free(env.PROMETHEUS_PORT.read())
    service = _start(app_port, metrics_port, receiver.endpoint)
    try:
        app = f"http://127.0.0.1:{app_port}"
        _await("the service", lambda: _status(f"{app}/orders"), service)
        sent = 1 + _traffic(app)
        _show(app, metrics_port, sent, receiver, service)
        if keep:
            print("\nServing until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                while service.poll() is None:
                    _status(f"{app}/orders/{int(time.time()) % 6}")
                    time.sleep(1)
        return 0
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(5)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()
        receiver.stop()


def _start(app_port: int, metrics_port: int, endpoint: str) -> subprocess.Popen[bytes]:
    foreign = ("OTEL_", "FLX_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environ |= {
        "OTEL_SERVICE_NAME": "flx-demo",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics_port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    wrapper = [sys.executable, "-m", "flx_otel_distro.cli.instrument"]
    service = [sys.executable, "-m", "flx_otel_instrumentors.fastapi.demo_app", str(app_port)]
    return subprocess.Popen([*wrapper, *service], env=environ, stdin=subprocess.DEVNULL)


def _traffic(app: str) -> int:
    paths = ["/orders", "/orders/1", "/orders/2", "/orders/3", "/orders/77", "/broken"]
    for path in paths * 3:
        _status(app + path)
    _status(f"{app}/orders?items=3", method="POST")
    return len(paths) * 3 + 1


def _show(app: str, metrics_port: int, sent: int, receiver: DemoReceiver, service: subprocess.Popen[bytes]) -> None:
    from flx_otel_distro.cli.demo_receiver import tree

    url = f"http://localhost:{metrics_port}/metrics"
    trace = _await("a trace", lambda: _chosen(receiver.spans()), service)
    text = _await("the metrics", lambda: _read(url), service)
    print(f"A service ran under flx-instrument, on {app}, and got {sent} requests.\n")
    print(f"Metrics, for Prometheus to scrape: {url}\n")
    for line in text.splitlines():
        if line.startswith(_SHOWN):
            print(f"  {line}")
    print("\nOne of its traces, as it went out over OTLP:\n")
    for line in tree(trace):
        print(f"  {line}")
    print(
        "\nWhat to do next:\n"
        "  flx-instrument uvicorn yours:app       observe a service of your own, no line changed\n"
        "  flx-instrument --help                  every option, which is also a variable\n"
        "  export OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4317\n"
        "                                         send traces to your collector"
    )


def _chosen(spans: list[Seen]) -> list[Seen]:
    """Return the spans of the fullest trace that is complete, [] while there is none with children."""
    by_trace: dict[str, list[Seen]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    nothing: list[Seen] = []
    best = max(by_trace.values(), key=len, default=nothing)
    return best if len(best) >= 4 else []


def _await(what: str, ask: Callable[[], T | None], service: subprocess.Popen[bytes]) -> T:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise _FailedError(f"the service ended with exit code {service.returncode} before {what} could be seen")
        if answer := ask():
            return answer
        time.sleep(0.05)
    raise _FailedError(f"{what} could not be seen within {_SECONDS:.0f} s")


def _status(url: str, method: str = "GET") -> int | None:
    try:
        with _open(urllib.request.Request(url, method=method)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def _read(url: str) -> str | None:
    try:
        with _open(urllib.request.Request(url)) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _open(request: urllib.request.Request):
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)


def _free(wanted: int) -> int:
    """Return `wanted` where nothing listens there, another free port otherwise."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise _FailedError("no free port")
