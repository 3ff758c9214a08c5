"""Where the data of gRPC calls goes: one tracer and the histograms of one side, and the names of methods.

Providers are asked at the first call, so an app may set them after it has made its server or channel.
Everything here speaks the OpenTelemetry API and knows nothing of grpc. Safe from any thread and after
a fork.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TracerProvider

from flx_otel_distro import __version__, environment, semconv
from flx_otel_distro.contexts import with_span
from flx_otel_distro.errors import scrubbed
from flx_otel_distro.ids import FlxIdGenerator
from flx_otel_distro.spans import Starter
from flx_otel_instrumentors.backlog import Backlog, Series

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
    """The tracer, obtained when it is first wanted, and roots made in advance.

    A trace that begins here depends on nothing that a call brings. So where ids are our generator's, which are
    only random, ids, decision and context are made for several calls in a row.
    """

    __slots__ = ("__weakref__", "_provider", "_roots", "_sampler", "spans")

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._roots: list[tuple[SpanContext, Context | None]] = []
        self._sampler: Any = None
        self.spans: Starter | None = None
        """What starts the spans, once `obtain` was called."""
        _all.add(self)

    def obtain(self) -> Starter:
        """Return what starts the spans of the provider given, or of the global one."""
        found = self.spans
        if found is None:
            found = Starter(trace.get_tracer(SCOPE, __version__, self._provider, semconv.SCHEMA_URL))
            self.spans = found
        return found

    def unsampled_root(self) -> Context | None:
        """Return the context of a new trace, made in advance and not sampled; None where there is none at hand."""
        spans = self.spans
        try:
            tracer: Any = spans.tracer  # pyright: ignore[reportOptionalMemberAccess] - AttributeError is expected
            if tracer.sampler is self._sampler and tracer._tracer_config.is_enabled:
                roots = self._roots
                found = roots.pop()
                if found[1] is None:  # for `root`, which comes next
                    roots.append(found)
                return found[1]
        except (AttributeError, IndexError):  # no tracer yet, or another kind of it; none left
            pass
        return None

    def root(self) -> tuple[SpanContext | None, Context | None]:
        """Return what `decide` says of a new trace, and the context where it is not sampled."""
        spans = self.spans or self.obtain()
        tracer = spans.tracer
        roots = self._roots
        try:
            if tracer.sampler is self._sampler and tracer._tracer_config.is_enabled:
                return roots.pop()
        except (AttributeError, IndexError):
            pass
        decision, context = _root(spans)
        if decision is None or type(getattr(tracer, "id_generator", None)) is not FlxIdGenerator:
            return decision, context
        if tracer.sampler is not self._sampler:
            self._roots = roots = []
            self._sampler = tracer.sampler
        if not roots:
            for _ in range(_ROOTS):
                made, ready = _root(spans)
                if made is None:
                    break
                roots.append((made, ready))
        return decision, context

    def forget(self) -> None:
        """Drop the roots made in advance: where this process was forked, its parent has the same."""
        self._roots = []


def _root(spans: Starter) -> tuple[SpanContext | None, Context | None]:
    decision = spans.decide(NOTHING)
    if decision is None or decision[3] & 1:  # the trace flags
        return decision, None
    return decision, with_span(NOTHING, NonRecordingSpan(decision))


NOTHING: Final = Context()
"""The context of a call that brought none."""

_ROOTS = 32
_all: weakref.WeakSet[Tracing] = weakref.WeakSet()


def _forked() -> None:
    for each in list(_all):
        each.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Metering:
    """The histograms of one side, obtained when they are first wanted."""

    __slots__ = ("_instruments", "_provider", "_side")

    def __init__(self, side: Side, provider: MeterProvider | None = None) -> None:
        self._side = side
        self._provider = provider
        self._instruments: tuple[Backlog, list[Histogram]] | None = None

    def series(self, labels: Mapping[str, Any]) -> Series:
        """Return the histograms of duration (seconds), requests and responses (messages in a call), bound to `labels`.

        Raises what the meter raises.
        """
        found = self._instruments
        if found is None:
            meter = metrics.get_meter(SCOPE, __version__, self._provider, semconv.SCHEMA_URL)
            side = self._side
            histograms = [
                meter.create_histogram(
                    each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.buckets
                )
                for each in (side.duration, side.requests, side.responses)
            ]
            found = (Backlog(meter, f"flx.{side.duration.name}.backlog"), histograms)
            self._instruments = found
        return Series(*found, labels)


class Method:
    """A method by its name, with the attributes that every call of it shares, made once."""

    __slots__ = ("_labels", "attributes", "name", "plan", "series")

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.attributes: dict[str, Any] = {
            semconv.RPC_SYSTEM_NAME: "grpc",
            semconv.RPC_METHOD: name,
            **attributes,
        }
        self._labels: dict[tuple[str | None, str | None], dict[str, Any]] = {}
        self.series: dict[tuple[Metering, str | None, str | None], Series] = {}
        """What `bound` has returned, as long as that is not too much."""
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
        found = metering.series(self.labels(status, error_type))
        if len(self.series) < _MOST_LABELS:
            self.series[metering, status, error_type] = found
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
