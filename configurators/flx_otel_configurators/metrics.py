"""The meter provider: its readers, and the sign that this process has begun to record."""

from __future__ import annotations

import math
import sys
from typing import Any

from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from flx_otel_configurators.components import built, load
from flx_otel_distro import environment as env
from flx_otel_distro.guard import guarded
from flx_otel_distro.otlp.target import EXPORTERS, target
from flx_otel_distro.prometheus.activity import serving


def configure_metrics(resource: Resource) -> tuple[MeterProvider, list[MetricReader]]:
    """Set the global meter provider; return it and its readers. A reader that fails is left out."""
    readers = built(env.METRICS_EXPORTER, "metrics", _reader)
    provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    set_meter_provider(provider)
    watch_first_measurement(provider)
    with guarded("fast recording", "Recording stays the SDK's own"):
        from flx_otel_distro import recording  # it knows the SDK's inside, which another version may not have

        recording.install(provider)
    return provider, readers


def _reader(name: str) -> MetricReader | None:
    if name in ("prometheus", "flx_prometheus"):
        from flx_otel_distro.prometheus.reader import FlxPrometheusReader

        return FlxPrometheusReader()
    if name in EXPORTERS:
        from flx_otel_distro.otlp.exporters import FlxMetricExporter

        return _periodic(FlxMetricExporter(target("metrics", spoken=EXPORTERS[name])))
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return _periodic(ConsoleMetricExporter(out=sys.stderr))  # stdout is the app's
    found: Any = load(
        env.METRICS_EXPORTER, name, "opentelemetry_metrics_exporter", ("prometheus", "otlp", "console", "none")
    )
    if found is None:
        return None
    made = found()
    return made if isinstance(made, MetricReader) else _periodic(made)


def _periodic(exporter: MetricExporter) -> MetricReader:
    return PeriodicExportingMetricReader(
        exporter,
        export_interval_millis=env.METRIC_INTERVAL.read(),
        export_timeout_millis=env.METRIC_TIMEOUT.read() or math.inf,
    )


def watch_first_measurement(provider: MeterProvider) -> None:
    """Say `serving()` at the provider's first measurement or observable instrument, then step aside.

    An attribute of the consumer object covers its method until then; afterwards nothing is in the way.
    """
    consumer: Any = provider._measurement_consumer
    for method in ("consume_measurement", "register_asynchronous_instrument"):
        _announce(consumer, method)


def _announce(consumer: Any, method: str) -> None:
    def first(*args: Any, **kwargs: Any) -> Any:
        for each in ("consume_measurement", "register_asynchronous_instrument"):
            consumer.__dict__.pop(each, None)
        with guarded("starting the metrics endpoint"):
            serving()
        return getattr(consumer, method)(*args, **kwargs)

    setattr(consumer, method, first)


def has_recorded(provider: MeterProvider) -> bool:
    """Return whether this process has recorded anything, or registered what is asked at a collection."""
    consumer: Any = provider._measurement_consumer
    return "consume_measurement" not in consumer.__dict__


def forget_measurements(provider: MeterProvider) -> None:
    """Begin anew in a forked child: every aggregation from zero, every lock of the SDK fresh.

    Without this a child would go on from its parent's totals, so that sums over processes double, and
    could wait for ever for a lock that another thread of the parent held.
    """
    from threading import Lock, RLock

    consumer: Any = provider._measurement_consumer
    consumer._lock = Lock()
    for storage in consumer._reader_storages.values():
        storage._lock = RLock()
        storage._instrument_view_instrument_matches.clear()
    meters: Any = provider._meters
    for meter in list(meters.values()):
        if hasattr(meter, "_instrument_registration_lock"):
            meter._instrument_registration_lock = Lock()
    with guarded("fast recording in a forked child"):
        from flx_otel_distro import recording

        recording.forget()
    watch_first_measurement(provider)
