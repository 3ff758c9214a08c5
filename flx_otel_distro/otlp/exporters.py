"""Exporters of the three signals over our transports, and the span and log processors before them.

Spans are encoded by us (`span_encoding`), metrics and logs by upstream
(`opentelemetry-exporter-otlp-proto-common`), imported at the first that is sent. Nothing blocks the app,
one thread a signal sends, and the end of the process has a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from flx_otel_distro import environment as env
from flx_otel_distro.errors import printable
from flx_otel_distro.guard import fault, tell_once
from flx_otel_distro.imports import unforked
from flx_otel_distro.otlp import reachability, transport
from flx_otel_distro.otlp.outbox import Outbox
from flx_otel_distro.otlp.span_encoding import UNENCODABLE, Encoded, encode_span, rejected, request
from flx_otel_distro.otlp.target import Signal, Target, target
from flx_otel_distro.otlp.transport import Outcome, Transport


class OtlpSender:
    """Encodes and sends one signal. Used from one thread at a time; connects at the first request."""

    def __init__(self, signal: Signal, encode: Callable[[Any], bytes], to: Target | None = None) -> None:
        self.target = to or target(signal)
        self._encode = encode
        self._transport: Transport | None = None

    def send(self, items: Any, count: int, deadline: float) -> Outcome:
        """Send `items` before `deadline` (time.monotonic seconds); tell once of a collector that is lost or refuses."""
        if self._transport is None:
            self.prepare()
        try:
            body = self._encode(items)
        except Exception as error:  # noqa: BLE001 - what nobody can encode must not stop the rest
            fault(f"encoding {self.target.signal}", error)
            return Outcome("refused", "it cannot be encoded")
        to = self._transport = self._transport or _transport(self.target)
        outcome = to.send(body, deadline)
        if outcome.kind == "ok":
            reachability.reached(self.target)
            self._look(outcome.body)
        elif outcome.kind == "retry":
            reachability.lost(self.target, outcome)
        else:
            reachability.reached(self.target)
            reachability.refused(self.target, outcome, count)
        return outcome

    def _look(self, answer: bytes) -> None:
        """Tell of items that the collector took apart, where its answer says so."""
        try:
            partial = rejected(answer) if answer else None
        except ValueError as error:
            fault("reading the collector's answer", error)
            return
        if partial is not None:
            reachability.refused(self.target, Outcome("refused", printable(partial[1])), partial[0], partly=True)

    def prepare(self) -> None:
        """Import what sending needs, codecs included, so that no later step imports on a thread."""
        self._transport = self._transport or _transport(self.target)
        transport.prepare(self.target)
        with contextlib.suppress(Exception):
            self._encode([] if self.target.signal != "metrics" else MetricsData([]))

    def close(self) -> None:
        """Drop the connection."""
        dropped, self._transport = self._transport, None
        if dropped is not None:
            dropped.close()


def _transport(to: Target) -> Transport:
    if to.protocol == "grpc":
        from flx_otel_distro.otlp.grpc import GrpcTransport

        return GrpcTransport(to)
    from flx_otel_distro.otlp.http import HttpTransport

    return HttpTransport(to)


class _Unencodable(logging.Filter):
    """Tell once, without the data, that upstream's encoder left an attribute out: it logs a traceback for each."""

    def filter(self, record: logging.LogRecord) -> bool:
        tell_once("unencodable", UNENCODABLE)
        return False


def _quiet_encoder() -> None:
    encoder = logging.getLogger("opentelemetry.exporter.otlp.proto.common._internal")
    if not any(isinstance(each, _Unencodable) for each in encoder.filters):
        encoder.addFilter(_Unencodable())


# --- traces --------------------------------------------------------------------------------------


class FlxSpanExporter(SpanExporter):
    """Sends spans over OTLP. Blocks its caller up to `OTEL_EXPORTER_OTLP_TIMEOUT` seconds."""

    def __init__(self, to: Target | None = None) -> None:
        self.sender = OtlpSender("traces", request, to)

    def deliver(self, spans: Sequence[Encoded], deadline: float) -> Outcome:
        """Send encoded spans before `deadline` (time.monotonic seconds) and say what came of it."""
        return self.sender.send(spans, len(spans), deadline)

    def send(self, spans: Sequence[ReadableSpan], deadline: float) -> Outcome:
        """Encode spans, then deliver them."""
        return self.deliver([each for span in spans if (each := encode_span(span)) is not None], deadline)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans once; upstream's interface."""
        outcome = self.send(spans, time.monotonic() + self.sender.target.timeout)
        return SpanExportResult.SUCCESS if outcome.kind == "ok" else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.sender.close()


class FlxSpanProcessor(SpanProcessor):
    """Encodes sampled spans as they end and queues them. Never blocks the thread in which a span ends."""

    takes_ended_spans = True
    """`on_end` may be given the span itself in place of a copy: it is only read, and at once."""

    def __init__(self, exporter: FlxSpanExporter | None = None) -> None:
        self.exporter = exporter or FlxSpanExporter()
        self.outbox: Outbox[Encoded] = Outbox(
            "traces",
            self.exporter.deliver,
            batch=env.BSP_BATCH.read(),
            most=env.BSP_QUEUE.read(),
            delay=env.BSP_DELAY.read() / 1000,
            timeout=min(self.exporter.sender.target.timeout, env.BSP_TIMEOUT.read() / 1000 or 10.0),
            prepare=self.exporter.sender.prepare,
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled and self.outbox.has_room():
            encoded = encode_span(span)
            if encoded is not None:
                self.outbox.put(encoded)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.outbox.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        self.outbox.close(env.EXIT_TIMEOUT.read() / 1000)

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.exporter.sender.close()
        self.outbox.after_fork()


# --- logs ----------------------------------------------------------------------------------------


def _encode_logs(records: Sequence[Any]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    _quiet_encoder()
    return encode_logs(records).SerializeToString()


def log_processor(to: Target | None = None) -> Any:
    """Return a log record processor that queues records for OTLP, with `outbox` and `after_fork` of its own."""
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

    sender = OtlpSender("logs", _encode_logs, to)

    def deliver(records: Sequence[Any], deadline: float) -> Outcome:
        return sender.send(records, len(records), deadline)

    class FlxLogRecordProcessor(LogRecordProcessor):
        def __init__(self) -> None:
            self.outbox: Outbox[Any] = Outbox(
                "logs",
                deliver,
                batch=env.BLRP_BATCH.read(),
                most=env.BLRP_QUEUE.read(),
                delay=env.BLRP_DELAY.read() / 1000,
                timeout=min(sender.target.timeout, env.BLRP_TIMEOUT.read() / 1000 or 10.0),
                prepare=sender.prepare,
            )

        def on_emit(self, log_record: ReadWriteLogRecord) -> None:
            self.outbox.put(log_record)

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return self.outbox.flush(timeout_millis / 1000)

        def shutdown(self) -> None:
            self.outbox.close(env.EXIT_TIMEOUT.read() / 1000)

        def after_fork(self) -> None:
            sender.close()
            self.outbox.after_fork()

    return FlxLogRecordProcessor()


# --- metrics -------------------------------------------------------------------------------------


def _encode_metrics(data: MetricsData) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    _quiet_encoder()
    return encode_metrics(data).SerializeToString()


class FlxMetricExporter(MetricExporter):
    """Sends metrics over OTLP, once a collection; what cannot be sent is in the next cumulative one."""

    def __init__(self, to: Target | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.common._internal.metrics_encoder import OTLPMetricExporterMixin

        mixin: Any = OTLPMetricExporterMixin()
        super().__init__(
            preferred_temporality=mixin._get_temporality({}),
            preferred_aggregation=mixin._get_aggregation({}),
        )
        self.sender = OtlpSender("metrics", _encode_metrics, to)
        self.deadline: float | None = None
        """No export goes on beyond this time.monotonic second: set when the process ends."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        with unforked():
            self.sender.prepare()
        deadline = time.monotonic() + min(self.sender.target.timeout, timeout_millis / 1000)
        if self.deadline is not None:
            deadline = min(deadline, self.deadline)
        outcome = self.sender.send(metrics_data, 1, deadline)
        return MetricExportResult.SUCCESS if outcome.kind == "ok" else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self.sender.close()

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.sender.close()
