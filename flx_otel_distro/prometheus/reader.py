"""The Prometheus reader: collects when a scraper asks, behind an endpoint of our own.

Data of a `force_flush()` does not leak into a scrape, and overlapping scrapes do not repeat families, as
both do upstream.
"""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

from flx_otel_distro import environment as env
from flx_otel_distro.imports import unforked
from flx_otel_distro.prometheus.activity import on_serving
from flx_otel_distro.prometheus.endpoint import MetricsEndpoint


class FlxPrometheusReader(MetricReader):
    """Collect what the SDK recorded, and serve it from when the process first records or serves."""

    def __init__(self, host: str | None = None, port: int | None = None) -> None:
        super().__init__()
        self._latest: MetricsData | None = None
        self._scrape = threading.RLock()
        self.endpoint = MetricsEndpoint(
            env.PROMETHEUS_HOST.read() if host is None else host,
            env.PROMETHEUS_PORT.read() if port is None else port,
            self.render,
        )
        on_serving(self.endpoint.ensure_started)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition for a scraper that accepts `accept`, and its content type. Thread-safe."""
        with unforked():
            from flx_otel_distro.prometheus.exposition import exposition
        with self._scrape:
            self._latest = None
            self.collect()
            data, self._latest = self._latest, None
            return exposition(data, accept)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        self._latest = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Stop serving."""
        self.endpoint.stop()

    def after_fork(self) -> None:
        """Begin anew in a forked child: no data of the parent's, a fresh lock."""
        self._latest = None
        self._scrape = threading.RLock()
