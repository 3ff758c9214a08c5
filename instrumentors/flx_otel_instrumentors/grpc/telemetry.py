"""Where the data of gRPC calls goes: one tracer and the histograms of one side, and the names of methods.

Providers are asked at the first call, so an app may set them after it has made its server or channel.
Everything here speaks the OpenTelemetry API and knows nothing of grpc. Safe from any thread and after
a fork.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import SpanKind, TracerProvider

from flx_otel_distro import __version__, environment, semconv
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.recording import BoundHistogram, bind
from flx_otel_distro.spans import Starter

SCOPE: Final = "flx_otel_instrumentors.grpc"

PROBES: Final = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
)
"""Services that ask about the server instead of using it."""

EXPORTS: Final = "opentelemetry.proto.collector."
"""Calls of an exporter: a span of one would be exported by another such call, for ever."""

MOST_METHODS: Final = 512
"""Method names that a catalog keeps apart; the rest is `_OTHER`."""

_MOST_LABELS: Final = 256


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a call. `errors` are the status names that fail it; None means every one but OK."""

    kind: SpanKind
    duration: semconv.Instrument
    requests: semconv.Instrument
    responses: semconv.Instrument
    errors: frozenset[str] | None


SERVER: Final = Side(
    SpanKind.SERVER,
    semconv.RPC_SERVER_DURATION,
    semconv.RPC_SERVER_REQUESTS,
    semconv.RPC_SERVER_RESPONSES,
    frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}),
)
CLIENT: Final = Side(
    SpanKind.CLIENT,
    semconv.RPC_CLIENT_DURATION,
    semconv.RPC_CLIENT_REQUESTS,
    semconv.RPC_CLIENT_RESPONSES,
    None,
)


class Tracing:
    """The tracer, obtained when it is first wanted."""

    __slots__ = ("_provider", "spans")

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self.spans: Starter | None = None
        """What starts the spans, once `obtain` was called."""

    def obtain(self) -> Starter:
        """Return what starts the spans of the provider given, or of the global one."""
        found = self.spans
        if found is None:
            found = Starter(trace.get_tracer(SCOPE, __version__, self._provider, semconv.SCHEMA_URL))
            self.spans = found
        return found


NOTHING: Final = Context()
"""The context of a call that brought none."""


Series = list[BoundHistogram]
"""Duration, requests and responses, bound to the same attributes."""


class Metering:
    """The histograms of one side, obtained when they are first wanted."""

    __slots__ = ("_histograms", "_provider", "_side")

    def __init__(self, side: Side, provider: MeterProvider | None = None) -> None:
        self._side = side
        self._provider = provider
        self._histograms: list[Histogram] = []

    def series(self, labels: Mapping[str, Any]) -> Series:
        """Return the histograms of duration (seconds), requests and responses (messages in a call), bound to `labels`.

        Raises what the meter raises.
        """
        if not self._histograms:
            meter = metrics.get_meter(SCOPE, __version__, self._provider, semconv.SCHEMA_URL)
            side = self._side
            self._histograms = [
                meter.create_histogram(
                    each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.buckets
                )
                for each in (side.duration, side.requests, side.responses)
            ]
        return [bind(each, labels) for each in self._histograms]


class Method:
    """A method by its name, with the attributes that every call of it shares, made once."""

    __slots__ = ("_labels", "_series", "attributes", "name", "plan", "usual", "usual_for")

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.attributes: dict[str, Any] = {
            semconv.RPC_SYSTEM_NAME: "grpc",
            semconv.RPC_METHOD: name,
            **attributes,
        }
        self._labels: dict[tuple[str | None, str | None], dict[str, Any]] = {}
        self._series: dict[tuple[Metering, str | None, str | None], Series] = {}
        self.usual_for: Metering | None = None
        self.usual: Series = []
        """What `bound` returns for calls that went well, for this metering."""
        self.plan: Any = None
        """How the app's handler last seen for this method is called; the server's, who alone looks at it."""

    def labels(self, status: str | None, error_type: str | None) -> dict[str, Any]:
        """Return the metric attributes of an outcome, the same dict each time; never write to it."""
        key = (status, error_type)
        found = self._labels.get(key)
        if found is None:
            if len(self._labels) >= _MOST_LABELS:
                error_type = semconv.OTHER if error_type != status else status
            found = dict(self.attributes)
            if status is not None:
                found[semconv.RPC_RESPONSE_STATUS_CODE] = status
            if error_type is not None:
                found[semconv.ERROR_TYPE] = error_type
            if len(self._labels) < _MOST_LABELS:
                self._labels[key] = found
        return found

    def bound(self, metering: Metering, status: str | None, error_type: str | None) -> Series:
        """Return the histograms of `metering` bound to an outcome. Raises what the meter raises."""
        key = (metering, status, error_type)
        found = self._series.get(key)
        if found is None:
            found = metering.series(self.labels(status, error_type))
            if len(self._series) < _MOST_LABELS:
                self._series[key] = found
        if status == "OK":
            self.usual_for = None  # so that no thread takes the one for the other
            self.usual = found
            self.usual_for = metering
        return found


class Catalog:
    """The methods of one server or of the channels to one target. `attributes` are on every call.

    Services that leave no trace and no metric are the probes, the exporters' own calls and those of
    `OTEL_PYTHON_GRPC_EXCLUDED_SERVICES`, read when the catalog is made.
    """

    __slots__ = ("_attributes", "_excluded", "_methods", "known", "other")

    def __init__(self, attributes: Mapping[str, Any] | None = None, excluded: Iterable[str] | None = None) -> None:
        self._attributes: dict[str, Any] = dict(attributes or {})
        if excluded is None:
            excluded = environment.GRPC_EXCLUDED_SERVICES.read()
        self._excluded = PROBES | frozenset(excluded)
        self._methods: dict[str, Method] = {}
        self.known = self._methods.get
        """Return the method that was learned under a path, or None."""
        self.other = Method(semconv.OTHER, self._attributes)

    def excludes(self, path: str) -> bool:
        """Return whether calls of `path`, as `/package.Service/Method`, leave no trace and no metric."""
        service = path[1 : path.rfind("/")] if path.startswith("/") else path.rpartition("/")[0]
        return service in self._excluded or service.startswith(EXPORTS)

    def learn(self, path: str) -> Method:
        """Return the method `path`, which the app vouches for; `other` where there are too many."""
        found = self._methods.get(path)
        if found is None:
            if len(self._methods) >= MOST_METHODS:
                return self.other
            found = self._methods.setdefault(path, Method(scrubbed(path.removeprefix("/")), self._attributes))
        return found
