"""One call: its start, its span, its messages, and its end, which happens once.

Several things may end a call (the handler, the client's cancellation, the deadline, the last reference
to it), from several threads; the first one wins and the others do nothing.

Every call passes here, so what it costs is counted in calls and allocations: a call that is not sampled
gets ids and nothing else, and its measurement goes along a way that was found before.
"""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext

from flx_otel_distro import semconv
from flx_otel_distro.contexts import SPAN_KEY, with_span
from flx_otel_distro.guard import fault
from flx_otel_distro.spans import Starter, describe, finish
from flx_otel_instrumentors.failures import error_type as type_of
from flx_otel_instrumentors.failures import failed as failed_status
from flx_otel_instrumentors.failures import record as record_exception
from flx_otel_instrumentors.grpc.telemetry import Metering, Method, Side, Tracing

UNSAMPLED: Final = INVALID_SPAN
"""Stands for the span of a call that is not sampled; the ids that go on are in its context."""


class Call:
    """What is common to both sides. `tracing` or `metering` is None where spans or metrics are not wanted."""

    __slots__ = (
        "_open",
        "_start_time",
        "_started",
        "context",
        "ended",
        "metering",
        "method",
        "requests",
        "responses",
        "rpc",
        "span",
        "tracing",
    )

    side: Side
    request_streaming = False
    response_streaming = False

    method: Method | None
    span: Span | None
    context: Context | None
    rpc: Any
    """grpc's servicer context, on the server and from the handler's start to the call's end: grpc's holds us,
    and a cycle would be left to the garbage collector, which is dear at each call."""

    def __init__(
        self,
        method: Method | None,
        tracing: Tracing | None,
        metering: Metering | None,
        started: int,
    ) -> None:
        self._started = started
        self._open = self.ended = False
        self.method = method
        self.tracing = tracing
        self.metering = metering
        self.span = self.context = self.rpc = None
        self.requests = self.responses = 0

    @property
    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return (perf_counter_ns() - self._started) / 1e9

    def open(self) -> None:
        """Start the span and set `context`; the side knows how."""
        raise NotImplementedError

    def start(self, tracing: Tracing, method: Method, above: Context) -> Context:
        """Start the span under the one in `above`, as of the moment the call began; set and return `context`."""
        spans = tracing.spans or tracing.obtain()
        decision: Any = spans.decide(above)
        if decision is None or type(decision) is SpanContext:
            span = self.span = self._recorded(spans, decision, method, above)
        else:
            span, self.span = decision, UNSAMPLED
        context = self.context = with_span(above, span) if above else Context({SPAN_KEY: span})
        return context

    def _recorded(self, spans: Starter, decision: SpanContext | None, method: Method, above: Context) -> Span:
        """Start the span of a call that is sampled, or of which only the tracer knows whether it is."""
        kind = self.side.kind
        start_time = self._start_time = time_ns() - (perf_counter_ns() - self._started)
        if decision is not None:
            attributes = {**method.attributes, **self.particulars()}
            return spans.span(method.name, decision, above, kind, attributes, start_time)
        span = spans.tracer.start_span(method.name, above, kind, method.attributes, start_time=start_time)
        if span.is_recording():
            span.set_attributes(self.particulars())
        return span

    def particulars(self) -> dict[str, Any]:
        """Return the attributes that this call's span has beyond those of its method; must not raise."""
        return {}

    def end(
        self,
        status: str | None,
        error: BaseException | None = None,
        details: str | None = None,
        record: bool = True,
    ) -> None:
        """End span and measurement; nothing happens the second time.

        `status` is the name of the gRPC status, None where the call never got one. `error` is the
        app's exception, put on the span unless `record` is false. Never raises.
        """
        try:
            del self._open  # the first one wins: a slot is emptied once, whoever else is at it
        except AttributeError:
            return
        self.ended = True
        nanoseconds = perf_counter_ns() - self._started
        method = self.method
        if method is None:
            return
        failed, error_type = (False, None) if status == "OK" else self._failure(status, error)
        try:
            if self.span is None and self.tracing is not None:
                self.open()
            metering = self.metering
            if metering is not None:
                if status == "OK" and method.usual_for is metering:
                    series = method.usual
                else:
                    series = method.bound(metering, status, error_type)
                if self.span is UNSAMPLED:
                    series[0].record_unsampled(nanoseconds / 1e9, self.context)
                else:
                    series[0].record(nanoseconds / 1e9, self.context)
                if self.request_streaming:
                    series[1].record(self.requests, self.context)
                if self.response_streaming:
                    series[2].record(self.responses, self.context)
        except Exception as problem:  # noqa: BLE001 - ours, and the app's call is none the worse for it
            fault("recording a gRPC call", problem)
        self.rpc = None
        span = self.span
        if span is None or span is UNSAMPLED:
            return
        try:
            if span.is_recording():
                known = {} if status is None else {semconv.RPC_RESPONSE_STATUS_CODE: status}
                if failed:
                    known[semconv.ERROR_TYPE] = error_type or semconv.OTHER
                    span.set_status(failed_status(details))
                describe(span, known)
                if error is not None and record:
                    record_exception(span, error)
        except Exception as problem:  # noqa: BLE001 - also an exception that cannot be printed
            fault("recording a gRPC call", problem)
        try:
            finish(span, self._start_time + nanoseconds)
        except Exception as problem:  # noqa: BLE001 - a span processor of anyone
            fault("ending a span of a gRPC call", problem)

    def _failure(self, status: str | None, error: BaseException | None) -> tuple[bool, str | None]:
        """Return whether a status other than OK fails the call, and its `error.type`."""
        errors = self.side.errors
        if errors is not None and status is not None and status not in errors:
            return False, None
        return True, status if error is None else type_of(error)
