"""The sampling decision before the span: what an unsampled request pays for is ids.

The SDK asks its sampler in the middle of starting a span, with attributes that are thrown away where
the answer is no. The samplers of the specification look at nothing but the parent and the trace id, so
their answer is foreseen here, and the span, its description and its limits are left to those requests
that are kept. Decisions, flags, trace state and ids are the SDK's; a sampler, tracer or release that is
not known to be the same takes the SDK's own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, _Span
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, StaticSampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from flx_otel_distro.contexts import SPAN_KEY, with_span
from flx_otel_distro.ids import FlxIdGenerator
from flx_otel_distro.recording.kinds import kind_of
from flx_otel_distro.unsampled import FLAGS, NO_STATE, RANDOM, SAMPLED, Unsampled, make, unsampled

Bounds = tuple[int, int, int, int, int]
"""The lower half of a trace id must be below one of these for the span to be kept: of a root, of the child of
a remote sampled, remote unsampled, local sampled and local unsampled parent."""

_LOW = (1 << 64) - 1
_ALL, _NONE = 1 << 64, 0


_START_SPAN = (
    "DEFAULT NonRecordingSpan RANDOM_TRACE_ID SAMPLED SpanContext TraceFlags TypeError _Span _instrumentation_scope"
    " _is_enabled _span_limits _tracer_metrics attributes decision generate_span_id generate_trace_id get_current_span"
    " get_span_context id_generator instrumentation_info is_recording is_sampled is_trace_id_random is_valid isinstance"
    " random_trace_id resource sampler should_sample span_processor start start_span trace_api trace_flags trace_id"
    " trace_state"
)
"""The names in the SDK's code that starts a span, in alphabetical order."""

_END = (
    "RuntimeError _attributes _end_time _immutable _lock _on_ending _readable_span _record_end_metrics _span_processor"
    " _start_time logger on_end time_ns warning"
)
"""Likewise, in the code that ends one."""

_clean: Any = BoundedAttributes


def _known() -> bool:
    """Return whether spans are started as we know it: by the names in the SDK's code and the shape of its data."""
    code = getattr(SdkTracer.start_span, "__code__", None)
    end = getattr(_Span.end, "__code__", None)
    if code is None or " ".join(sorted(code.co_names)) != _START_SPAN:
        return False
    if end is None or " ".join(sorted(end.co_names)) != _END:
        return False
    stock = SpanContext(5, 6, False, FLAGS[1], None)
    ours = make(SpanContext, (5, 6, False, FLAGS[1], NO_STATE, True))
    held = vars(BoundedAttributes(maxlen=3, attributes={"a": 1}, immutable=False))
    return (
        tuple(stock) == tuple(ours)
        and {"_dict", "_lock", "maxlen", "max_value_len", "_immutable", "dropped"} <= set(held)
        and held["_dict"] == {"a": 1}
        and vars(NonRecordingSpan(stock)) == {"_context": stock}
    )


_KNOWN = _known()


def bounds_of(sampler: Sampler) -> Bounds | None:
    """Return what the sampler will say of any span, or None for one that is not the specification's own."""
    if type(sampler) is ParentBased or (isinstance(sampler, ParentBased) and _inherits(sampler, ParentBased)):
        inner = (
            sampler._root,
            sampler._remote_parent_sampled,
            sampler._remote_parent_not_sampled,
            sampler._local_parent_sampled,
            sampler._local_parent_not_sampled,
        )
        found = [_bound(each) for each in inner]
    else:
        found = [_bound(sampler)] * 5
    if None in found:
        return None
    bounds: Any = tuple(found)
    return bounds if _agrees(sampler, bounds) else None


def _inherits(sampler: Sampler, base: type) -> bool:
    return type(sampler).should_sample is vars(base)["should_sample"]


def _bound(sampler: Sampler) -> int | None:
    if isinstance(sampler, StaticSampler) and _inherits(sampler, StaticSampler):
        name = sampler._decision.name
        return {"DROP": _NONE, "RECORD_AND_SAMPLE": _ALL}.get(name)
    if isinstance(sampler, TraceIdRatioBased) and _inherits(sampler, TraceIdRatioBased):
        return sampler.bound
    return None


def _agrees(sampler: Sampler, bounds: Bounds) -> bool:
    """Ask the sampler itself, at the edges of every case; a few dozen microseconds, once a sampler."""
    for bound, (flags, remote) in zip(
        bounds, ((None, False), (1, True), (0, True), (1, False), (0, False)), strict=True
    ):
        for trace_id in {1, _LOW, max(bound - 1, 1), bound or 1, (5 << 64) + max(bound - 1, 1)}:
            context = Context()
            if flags is not None:
                parent = SpanContext(trace_id, 1, remote, TraceFlags(flags))
                context = with_span(context, NonRecordingSpan(parent))
            result = sampler.should_sample(context, trace_id, "probe", SpanKind.SERVER, {}, ())
            if result.decision.is_sampled() != (trace_id & _LOW < bound) or result.trace_state:
                return False
            if result.decision.is_recording() != result.decision.is_sampled():
                return False
    return True


PLAIN: frozenset[object] = frozenset({NonRecordingSpan, Unsampled, _Span})
"""Spans that do nothing but return their context when they are asked for it."""


class Starter:
    """Starts the spans of one tracer. Safe from any thread and after a fork."""

    __slots__ = ("_bounds", "_config", "_generator", "_ids", "_root", "_sampler", "tracer")

    def __init__(self, tracer: Tracer) -> None:
        self.tracer: Any = tracer
        self._sampler: Any = None
        self._config: Any = None
        self._bounds: Bounds | None = None
        self._generator: Any = None
        self._ids: FlxIdGenerator | None = None
        self._root = (0.0, 0)  # the share of new traces that is sampled, and their bound: read in one go

    def decide(self, parent: Context) -> SpanContext | NonRecordingSpan | None:
        """Return what a span to come under `parent` is; None where only the tracer knows.

        Where it is not sampled, that is the span itself, as the tracer would have started it. Where it is sampled,
        its context, for `span` to start it.
        """
        tracer = self.tracer
        try:
            if (
                tracer.sampler is not self._sampler
                or tracer.id_generator is not self._generator
                or tracer._tracer_config is not self._config
            ):
                self._learn(tracer)
            bounds = self._bounds
            if bounds is None:
                return None
            above: Any = parent.get(SPAN_KEY) if parent else None
            context: Any = None
            if above is not None:
                if kind_of(above) not in PLAIN or kind_of(context := above._context) is not SpanContext:
                    return None
                if not context[5]:  # is_valid
                    context = None
            ids = self._ids
            if ids is None:
                return _foreign(tracer.id_generator, bounds, context)
            if context is None:
                share, bound = self._root
                if ids.share() >= share:
                    return unsampled(ids, bound)
                trace_id, flags, state = ids.bits(64) << 64 | ids.between(bound), RANDOM, NO_STATE
                trace_id = trace_id or 1
            else:
                trace_id, _, remote, flags, state, _ = context
                if trace_id & _LOW >= bounds[(1 if remote else 3) + (0 if flags & SAMPLED else 1)]:
                    return unsampled(ids, 0, context)
            ours = (trace_id, ids.bits(64) or 1, False, FLAGS[flags & RANDOM | SAMPLED], state or NO_STATE, True)
            return make(SpanContext, ours)
        except AttributeError:  # a tracer of another kind
            return None

    def span(
        self,
        name: str,
        context: SpanContext,
        parent: Context,
        kind: SpanKind,
        attributes: dict[str, Any],
        start_time: int | None = None,
    ) -> Span:
        """Start the sampled span `decide` has announced. `attributes` are clean: `str`, `bool`, `int`, `float`."""
        tracer = self.tracer
        above: Any = parent.get(SPAN_KEY)
        above = None if above is None else above._context
        span = _Span(
            name=name,
            context=context,
            parent=above if above is not None and above[5] else None,
            sampler=tracer.sampler,
            resource=tracer.resource,
            attributes=None,
            span_processor=tracer.span_processor,
            kind=kind,
            instrumentation_info=tracer.instrumentation_info,
            limits=tracer._span_limits,
            instrumentation_scope=tracer._instrumentation_scope,
        )
        describe(span, attributes)
        span.start(start_time=start_time, parent_context=parent)
        return span

    def _learn(self, tracer: Any) -> None:
        self._bounds = None
        sampler, config, ids = tracer.sampler, tracer._tracer_config, tracer.id_generator
        self._ids = ids if type(ids) is FlxIdGenerator else None
        metrics: Any = getattr(tracer, "_tracer_metrics", None)
        known = _KNOWN and type(tracer) is SdkTracer and type(metrics).__name__ == "NoOpTracerMetrics"
        if known and config.is_enabled:
            bounds = bounds_of(sampler)
            if bounds is not None:
                self._root = (bounds[0] / _ALL, bounds[0])
            self._bounds = bounds
        self._sampler, self._config, self._generator = sampler, config, ids


def _foreign(ids: IdGenerator, bounds: Bounds, above: Any) -> SpanContext | NonRecordingSpan:
    """Decide with ids of a generator that is not ours, which is asked for them as the SDK asks."""
    if above is None:
        trace_id, state, bound = ids.generate_trace_id(), NO_STATE, bounds[0]
        flags = RANDOM if ids.is_trace_id_random() else 0
    else:
        trace_id, _, remote, above_flags, state, _ = above
        flags = above_flags & RANDOM
        bound = bounds[(1 if remote else 3) + (0 if above_flags & SAMPLED else 1)]
    sampled = trace_id & _LOW < bound
    context = SpanContext(
        trace_id, ids.generate_span_id(), False, FLAGS[flags | SAMPLED if sampled else flags], state or NO_STATE
    )
    return context if sampled else NonRecordingSpan(context)


def describe(span: Span, attributes: Mapping[str, Any]) -> None:
    """Put attributes on a span that are known to be clean: `str` keys; `str`, `bool`, `int` or `float` values.

    What the SDK does with them is spared where no limit applies. Like the SDK's, it does nothing to a span
    that has ended but to log. Thread-safe.
    """
    if type(span) is _Span and _KNOWN:
        held: Any = span._attributes
        if type(held) is _clean and held.max_value_len is None:
            ending: Any = span
            with ending._lock, held._lock:
                room = held.maxlen is None or len(held._dict) + len(attributes) <= held.maxlen
                if room and ending._end_time is None:
                    held._dict.update(attributes)
                    return
    span.set_attributes(attributes)


def finish(span: Span, end_time: int) -> None:
    """End a span at `end_time`, in Unix nanoseconds, as `span.end` does.

    Where our processor is the only one, it gets the span itself and not a copy: a span that has ended does not
    change any more. Thread-safe.
    """
    if type(span) is _Span and _KNOWN and not span._record_end_metrics:
        processor: Any = span._span_processor
        if type(processor) is SynchronousMultiSpanProcessor:
            processors = processor._span_processors
            if len(processors) == 1 and vars(type(processors[0])).get("takes_ended_spans", False):
                ending: Any = span
                with ending._lock:
                    fresh = ending._start_time is not None and ending._end_time is None
                    if fresh:
                        ending._end_time = end_time
                        ending._attributes._immutable = True
                if fresh:
                    processors[0].on_end(span)
                    return
    span.end(end_time)
