"""The configurator: assembles the SDK, signal by signal, so that one that fails leaves the others working.

Upstream's `_initialize_components` takes no readers and gives up on every signal when one fails; it is
not called. A declarative configuration (`OTEL_CONFIG_FILE`) is carried out by upstream's own package.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.resources import Resource

from flx_otel_configurators.lifecycle import CallPart, Lifecycle, OutboxPart
from flx_otel_configurators.resource import after_fork, build_resource, hand_down_name
from flx_otel_distro import environment as env
from flx_otel_distro.distro import FlxDistro
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import guarded


class FlxConfigurator:
    """Set the providers, readers, processors and propagator of this process. A singleton.

    Upstream's loader finds it by the entry point `flx` and calls `configure()`. Raises only
    ConfigurationError, and only under `FLX_OTEL_STRICT=true`.
    """

    _instance: FlxConfigurator | None = None
    _lock = threading.Lock()

    def __new__(cls) -> FlxConfigurator:
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._configured = False
                cls._instance.lifecycle = Lifecycle()
        return cls._instance

    _configured: bool
    lifecycle: Lifecycle

    def configure(self, **kwargs: Any) -> None:
        """Assemble the SDK, once for the process; does nothing where the distro stays out."""
        if self._configured or FlxDistro().inactive is not None:
            return
        self._configured = True
        declared = env.CONFIG_FILE.read()
        with env.without_wrong_values():
            if not (declared and self._configure_from_file(declared)):
                self._configure_from_variables()
        self.lifecycle.install()

    def _configure_from_variables(self) -> None:
        resource = Resource.get_empty()
        with guarded("describing this process (resource)"):
            resource = build_resource()
            hand_down_name(str(resource.attributes.get("service.name", "")))
        _signal("propagation", self._propagation)
        _signal("traces", lambda: self._traces(resource))
        _signal("metrics", lambda: self._metrics(resource))
        _signal("logs", lambda: self._logs(resource))

    def _configure_from_file(self, path: str) -> bool:
        from flx_otel_configurators.declarative import configure_from_file

        return configure_from_file(path, self.lifecycle)

    def _propagation(self) -> None:
        from flx_otel_configurators.propagation import configure_propagation

        configure_propagation()

    def _traces(self, resource: Resource) -> None:
        from flx_otel_configurators.traces import configure_traces

        provider, processors = configure_traces(resource)
        for processor in processors:
            self._add(processor, "traces")
        self.lifecycle.on_fork(lambda: provider._update_resource(after_fork()))

    def _metrics(self, resource: Resource) -> None:
        from flx_otel_configurators.metrics import configure_metrics, forget_measurements, has_recorded

        provider, readers = configure_metrics(resource)
        for reader in readers:
            renew: Callable[[], None] | None = getattr(reader, "after_fork", None)
            if renew is None:
                self.lifecycle.add(_metrics_part(reader, lambda: has_recorded(provider)))
            else:
                self.lifecycle.on_fork(renew)
        self.lifecycle.on_fork(lambda: forget_measurements(provider))
        self.lifecycle.on_fork(lambda: provider._update_resource(after_fork()))

    def _logs(self, resource: Resource) -> None:
        from flx_otel_configurators.logs import configure_logs

        for processor in configure_logs(resource):
            self._add(processor, "logs")

    def _add(self, processor: Any, signal: str) -> None:
        if hasattr(processor, "outbox"):
            self.lifecycle.add(OutboxPart(processor))
        else:
            self.lifecycle.add(CallPart(signal, lambda seconds: processor.force_flush(int(seconds * 1000))))


def _metrics_part(reader: Any, pending: Callable[[], bool]) -> CallPart:
    """Return the last push of a periodic reader; its own timeouts give way to the end's deadline."""
    exporter: Any = getattr(reader, "_exporter", None)

    def push(seconds: float) -> None:
        import time

        if hasattr(exporter, "deadline"):
            exporter.deadline = time.monotonic() + seconds
        reader.force_flush(timeout_millis=seconds * 1000)

    def renew() -> None:
        if hasattr(reader, "_export_lock"):
            reader._export_lock = threading.Lock()  # the parent may have been exporting
        if hasattr(exporter, "after_fork"):
            exporter.after_fork()

    return CallPart("metrics", push, renew, pending)


def _signal(name: str, configure: Any) -> None:
    """Configure one signal; its fault is told once and leaves the others working. Strict mode's error passes."""
    error: ConfigurationError | None = None
    with guarded(f"setting up {name}", "The other signals go on"):
        try:
            configure()
        except ConfigurationError as raised:
            error = raised
    if error is not None:
        raise error
