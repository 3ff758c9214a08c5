"""Serve metrics over HTTP from a process of their own.

Where `PROMETHEUS_MULTIPROC_DIR` is set, the files that an app's own prometheus_client writes there
are merged and served; the app needs no endpoint then. Otherwise this process's own registry is.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from flx_otel_distro import environment
from flx_otel_distro.cli.arguments import ArgumentError, read
from flx_otel_distro.guard import logger
from flx_otel_distro.prometheus.endpoint import MetricsEndpoint

_USAGE = """\
Usage: python -m flx_observability.prometheus_server [--host HOST] [--port PORT]
       flx-otel serve-metrics [--host HOST] [--port PORT]

Serve metrics at http://HOST:PORT/metrics until SIGTERM or Ctrl-C.

What is served: the files in PROMETHEUS_MULTIPROC_DIR that the workers of an app write with
prometheus_client, merged; where that is unset, the metrics of this process (process_*, python_*).

  --host HOST   default: OTEL_EXPORTER_PROMETHEUS_HOST, else localhost
  --port PORT   default: OTEL_EXPORTER_PROMETHEUS_PORT, PROMETHEUS_PORT, else 9464; 0 takes a free one

Exit code: 0 when asked to end, 1 where the port is taken or the directory is missing, 2 for a wrong option."""

_NAME = "prometheus_server"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. For the main thread."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words in (["--help"], ["-h"]):
        print(_USAGE)
        return 0
    try:
        host, port = _address(read(words, ("host", "port")))
    except ArgumentError as error:
        return _fail(str(error), 2)
    directory = environment.PROMETHEUS_MULTIPROC_DIR.read()
    if directory and not os.path.isdir(directory):  # noqa: PTH112 - one call
        return _fail(f"PROMETHEUS_MULTIPROC_DIR={directory!r} is not a directory", 1)
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    endpoint = MetricsEndpoint(host, port, renderer(directory))
    logger.setLevel(logging.CRITICAL + 1)  # the endpoint speaks to an app, which goes on without it
    serving = endpoint.start()
    logger.setLevel(logging.NOTSET)
    if not serving:
        return _fail(f"cannot listen on {host}:{port}: is it in use? Another one: --port", 1)
    shown = f"[{host}]" if ":" in host else host
    print(f"{_NAME}: serving http://{shown}:{endpoint.port}/metrics", file=sys.stderr, flush=True)
    ended.wait()
    return 0


def renderer(directory: str) -> Callable[[str], tuple[bytes, str]]:
    """Return what turns an Accept header into a body and its content type."""
    if not directory:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # prometheus_client takes an empty one for set
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector

    def render(accept: str) -> tuple[bytes, str]:
        registry = REGISTRY
        if directory:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, directory)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return render


def _address(given: dict[str, str]) -> tuple[str, int]:
    host = given.get("host") or environment.PROMETHEUS_HOST.read()
    if "port" not in given:
        return host, environment.PROMETHEUS_PORT.read()
    try:
        return host, environment.PORT.parse(given["port"])
    except ValueError:
        raise ArgumentError(f"--port {given['port']!r} is not {environment.PORT.allowed}") from None


def _fail(message: str, code: int) -> int:
    print(f"{_NAME}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
