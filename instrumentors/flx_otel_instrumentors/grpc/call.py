"""One call: its start, its span, its messages, and its end, which happens once.

Several things may end a call (the handler, the client's cancellation, the deadline, the last reference
to it), from several threads; the first one wins and the others do nothing.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns, time_ns

from opentelemetry.context import Context
from opentelemetry.trace import Span

from flx_otel_distro import semconv
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.failures import error_type as type_of
from flx_otel_instrumentors.failures import failed as failed_status
from flx_otel_instrumentors.failures import record as record_exception
from flx_otel_instrumentors.grpc.telemetry import Metering, Method, Side, Tracing


class Call:
    """What is common to both sides. `tracing` or `metering` is None where spans or metrics are not wanted."""

    __slots__ = (
        "__weakref__",
        "_once",
        "_started",
        "context",
        "metering",
        "method",
        "request_streaming",
        "requests",
        "response_streaming",
        "responses",
        "side",
        "span",
        "start_time",
        "tracing",
    )

    def __init__(self, side: Side, tracing: Tracing | None, metering: Metering | None) -> None:
        self.side = side
        self.tracing = tracing
        self.metering = metering
        self.start_time = time_ns()
        self._started = perf_counter_ns()
        self._once = threading.Lock()
        self.method: Method | None = None
        self.span: Span | None = None
        self.context: Context | None = None
        self.request_streaming = self.response_streaming = False
        self.requests = self.responses = 0

    @property
    def ended(self) -> bool:
        """Return whether the call has ended."""
        return self._once.locked()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return (perf_counter_ns() - self._started) / 1e9

    def open(self) -> None:
        """Start the span and set `context`; the side knows how."""
        raise NotImplementedError

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
        if not self._once.acquire(blocking=False):
            return
        nanoseconds = perf_counter_ns() - self._started
        try:
            self._write(nanoseconds, status, error, details, record)
        except Exception as problem:  # noqa: BLE001 - ours, and the app's call is none the worse for it
            fault("recording a gRPC call", problem)

    def _write(
        self, nanoseconds: int, status: str | None, error: BaseException | None, details: str | None, record: bool
    ) -> None:
        method = self.method
        if method is None:
            return
        errors = self.side.errors
        failed = status != "OK" if errors is None or status is None else status in errors
        error_type = None if not failed else status if error is None else type_of(error)
        if self.tracing is not None and self.span is None:
            self.open()
        if self.metering is not None:
            duration, requests, responses = self.metering.histograms
            labels = method.labels(status, error_type)
            duration.record(nanoseconds / 1e9, labels, self.context)
            if self.request_streaming:
                requests.record(self.requests, labels, self.context)
            if self.response_streaming:
                responses.record(self.responses, labels, self.context)
        span = self.span
        if span is None:
            return
        if span.is_recording():
            if status is not None:
                span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, status)
            if error is not None and record:
                record_exception(span, error)
            if failed:
                span.set_attribute(semconv.ERROR_TYPE, error_type or semconv.OTHER)
                span.set_status(failed_status(details))
        span.end(self.start_time + nanoseconds)
