"""The logger provider, only where log records are to leave the process over OTLP."""

from __future__ import annotations

import sys
from typing import Any

from opentelemetry.sdk.resources import Resource

from flx_otel_configurators.components import built, load, names
from flx_otel_distro import environment as env
from flx_otel_distro.otlp.target import EXPORTERS, target


def configure_logs(resource: Resource) -> list[Any]:
    """Set the global logger provider where `OTEL_LOGS_EXPORTER` names an exporter; return its processors.

    No handler is put on the root logger here: the app's own logging stays as it is.
    """
    if not names(env.LOGS_EXPORTER):
        return []
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.sdk._logs import LoggerProvider

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    processors = built(env.LOGS_EXPORTER, "logs", _processor)
    for processor in processors:
        provider.add_log_record_processor(processor)
    set_logger_provider(provider)
    return processors


def _processor(name: str) -> Any:
    from opentelemetry.sdk._logs import export

    if name in EXPORTERS:
        from flx_otel_distro.otlp.exporters import log_processor

        return log_processor(target("logs", spoken=EXPORTERS[name]))
    if name == "console":
        return export.SimpleLogRecordProcessor(export.ConsoleLogRecordExporter(out=sys.stderr))  # stdout is the app's
    exporter: Any = load(env.LOGS_EXPORTER, name, "opentelemetry_logs_exporter", ("otlp", "console", "none"))
    return None if exporter is None else export.BatchLogRecordProcessor(exporter())
