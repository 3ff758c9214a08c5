"""Send one span to the collector and say how it went, or run a program with tracing on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from typing import cast

from flx_otel_distro import environment

_USAGE = """\
Usage: python -m flx_observability.enable_tracing
       python -m flx_observability.enable_tracing [OPTION...] COMMAND [ARGUMENT...]

Without a command: send one test span to the collector and show its trace id, and the variables that
switch tracing on. With a command: run it with tracing on, as

  flx-instrument --traces-exporter otlp [OPTION...] COMMAND [ARGUMENT...]

The collector is that of OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4317), spoken to as
OTEL_EXPORTER_OTLP_PROTOCOL says (grpc, or http/protobuf with port 4318).

Exit code: the program's own; without a command 0 where the collector took the span, else 1."""

_NAME = "enable_tracing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code; with a command, become it and do not return."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words in (["--help"], ["-h"]):
        print(_USAGE)
        return 0
    if words:
        from flx_otel_distro.cli import instrument

        instrument.run(["--traces-exporter", "otlp", *words])
        return 0
    errors = environment.problems()
    if errors and environment.strict():
        environment.stop(errors)
    if environment.disabled():
        return _fail("OTEL_SDK_DISABLED=true switches tracing off: unset it")
    return _send()


def _send() -> int:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from flx_otel_distro.guard import logger
    from flx_otel_distro.otlp.exporters import FlxSpanExporter
    from flx_otel_distro.otlp.target import target

    service = environment.SERVICE_NAME.read() or _NAME
    with environment.without_wrong_values():
        to = target("traces")
        resource = Resource.create({"service.name": service})
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    span = provider.get_tracer("flx_observability").start_span("enable_tracing")
    span.end()
    exporter = FlxSpanExporter(to)
    logger.setLevel(logging.CRITICAL + 1)  # what the exporter would tell an app is told below
    try:
        outcome = exporter.send([cast(ReadableSpan, span)], time.monotonic() + to.timeout)
    except Exception as error:  # noqa: BLE001 - a certificate that cannot be read, a name that is none
        return _fail(f"no span can be sent to {to.url} ({to.protocol}): {error}")
    finally:
        logger.setLevel(logging.NOTSET)
        exporter.shutdown()
    if outcome.kind != "ok":
        said = "cannot be reached" if outcome.kind == "retry" else "refused the span"
        return _fail(
            f"the collector at {to.url} ({to.protocol}) {said}: {outcome.detail}. {_remedy(to.protocol, to.port)}"
        )
    own = environment.for_signal(environment.OTLP_ENDPOINT, "traces")
    variable = own if own.source() is not None else environment.OTLP_ENDPOINT
    address = to.url if variable is own else to.url.removesuffix("/v1/traces")
    print(
        f"Sent one span to {to.url} ({to.protocol}).\n\n"
        f"  trace id  {span.get_span_context().trace_id:032x}\n"
        f"  service   {service}\n\n"
        "To trace a program:\n\n"
        f"  export {environment.TRACES_EXPORTER.name}=otlp\n"
        f"  export {variable.name}={address}\n"
        f"  export {environment.OTLP_PROTOCOL.name}={to.protocol}\n"
        "  flx-instrument COMMAND"
    )
    return 0


def _remedy(protocol: str, port: int) -> str:
    if protocol == "grpc" and port == 4318:
        return "Port 4318 is that of HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or port 4317"
    if protocol != "grpc" and port == 4317:
        return "Port 4317 is that of gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or port 4318"
    return "Start a collector there, or set OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL to where one is"


def _fail(message: str) -> int:
    print(f"{_NAME}: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
