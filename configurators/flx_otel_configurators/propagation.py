"""How context crosses process borders: W3C before B3 where a request carries both.

`OTEL_PROPAGATORS` set inside a distro comes too late for upstream, which reads it when
`opentelemetry.propagate` is first imported; so the global propagator is set here, by hand.

Upstream logs what it rejects, in the words of whoever sent it and as often as it was sent. That it
rejected something is said here instead, once and without the words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import propagate
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flx_otel_distro import environment as env
from flx_otel_distro.contexts import SPAN_KEY, current, with_span
from flx_otel_distro.entries import entries
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import fault, tell_once
from flx_otel_distro.spans import PLAIN

_WEAKEST_FIRST = ("b3multi", "b3")
_STRONGEST_LAST = ("tracecontext", "baggage")

_MOST = {
    "traceparent": 512,
    "tracestate": 8192,
    "baggage": 8192,
    "b3": 128,
    "x-b3-traceid": 128,
    "x-b3-spanid": 128,
    "x-b3-parentspanid": 128,
    "x-b3-sampled": 128,
    "x-b3-flags": 128,
}
"""Characters of a header, all its values together, that are read at all; a longer one is as if absent.
8192 is where W3C Baggage lets a receiver stop; the others are far above what is valid."""

_MOST_OF_OTHERS = 8192

_LOGGERS = {
    "opentelemetry.baggage": "baggage",
    "opentelemetry.baggage.propagation": "baggage",
    "opentelemetry.trace.span": "tracestate",
    "opentelemetry.trace.propagation.tracecontext": "traceparent or tracestate",
    "opentelemetry.propagators.b3": "b3",
    "opentelemetry.propagators.composite": "context",
    "opentelemetry.propagators.textmap": "context",
}
"""Upstream's loggers on the way of extraction, and which header they speak of."""

_OF_THE_APP = frozenset({"add", "update", "delete"})
"""What an app itself may call on a trace state; upstream tells it of its mistakes there."""


def _tell(header: str) -> None:
    tell_once(
        f"header:{header}",
        f"a {header} header that breaks W3C's or B3's rules was left out, wholly or in part; further ones are not told",
    )


class _Quiet(logging.Filter):
    """Say once, in our words, what an upstream logger says of a header."""

    def __init__(self, header: str) -> None:
        super().__init__()
        self._header = header

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.funcName in _OF_THE_APP:
            return True
        _tell(self._header)
        return False


def quieten(name: str, header: str = "context") -> None:
    """Keep an outsider's words out of what the logger `name` writes; idempotent."""
    logger = logging.getLogger(name)
    if not any(isinstance(each, _Quiet) for each in logger.filters):
        logger.addFilter(_Quiet(header))


class _Bounded(Getter[CarrierT]):
    """A getter that does not find what is too long to be read."""

    def __init__(self, inner: Getter[CarrierT]) -> None:
        self.inner = inner

    def get(self, carrier: CarrierT, key: str) -> list[str] | None:
        values = self.inner.get(carrier, key)
        if not values:
            return values
        if type(values) is not list:  # some getters give tuples and iterators
            values = list(values)
        length = len(values[0]) if len(values) == 1 else sum(map(len, values)) + len(values) - 1
        if length > _MOST.get(key, _MOST_OF_OTHERS):
            _tell(key if key in _MOST else "context")
            return None
        return values

    def keys(self, carrier: CarrierT) -> list[str]:
        return self.inner.keys(carrier)


_PLAIN = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
"""What nearly every `traceparent` is. Whatever else may be one is upstream's to judge."""

_READ: dict[object, frozenset[str]] = {
    TraceContextTextMapPropagator: frozenset({"traceparent"}),
    W3CBaggagePropagator: frozenset({"baggage"}),
}
"""Headers without any of which a propagator leaves the context as it is; subclasses may read others."""


class FlxPropagator(TextMapPropagator):
    """Asks each propagator in turn; a later one wins, and one that fails leaves the others working.

    A getter whose class says `lower_case = True` promises that its carriers are mappings by lower-case names;
    then nobody is asked whose headers are not there, and a plain `traceparent` alone is read in place. What
    upstream's W3C and B3 propagators write of a valid span is written in place as well.
    Thread- and fork-safe. Hostile headers never raise: they leave the context as it was.
    """

    def __init__(self, propagators: Sequence[TextMapPropagator]) -> None:
        self._propagators = tuple(propagators)
        self._getter: _Bounded[Any] = _Bounded(default_getter)
        self._reading = [(each, _read_by(each)) for each in self._propagators]
        self._writing = [(each, _WRITTEN.get(f"{type(each).__module__}.{type(each).__name__}")) for each in propagators]

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        bounded: _Bounded[CarrierT] = self._getter
        if bounded.inner is not getter:  # one way in has one getter, as a rule
            bounded = self._getter = _Bounded(getter)
        present: Any = carrier if getattr(getter, "lower_case", False) else None
        for each, read in self._reading:
            if present is not None and read is not None and read.isdisjoint(present):
                continue
            try:
                if present is not None and "tracestate" not in present and type(each) is TraceContextTextMapPropagator:
                    plain = _plain(bounded.get(carrier, "traceparent"))
                    if plain is not None:
                        context = with_span(context if context is not None else Context(), NonRecordingSpan(plain))
                        continue
                context = each.extract(carrier, context, bounded)
            except Exception as error:  # noqa: BLE001 - headers come from anyone
                fault(f"reading context headers ({type(each).__name__})", error)
        return context if context is not None else Context()

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        where = current() if context is None else context
        span: Any = where.get(SPAN_KEY)
        found: Any = span._context if type(span) in PLAIN else None
        plain: Any = found if type(found) is SpanContext and found.is_valid else None
        for each, write in self._writing:
            try:
                if write is None or (plain is None and span is not None):
                    each.inject(carrier, context, setter)
                elif write is _baggage:
                    if where.get(_BAGGAGE_KEY):
                        each.inject(carrier, context, setter)
                elif plain is not None:
                    write(carrier, plain, setter)
            except Exception as error:  # noqa: BLE001 - the app's call must go out
                fault(f"writing context headers ({type(each).__name__})", error)

    @property
    def fields(self) -> set[str]:
        return {field for each in self._propagators for field in each.fields}


def _traceparent(carrier: Any, span: SpanContext, setter: Setter[Any]) -> None:
    trace_id, span_id, _, flags, state, _ = span
    setter.set(carrier, "traceparent", f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    if state:
        setter.set(carrier, "tracestate", state.to_header())


def _b3(carrier: Any, span: SpanContext, setter: Setter[Any]) -> None:
    setter.set(carrier, "b3", f"{span[0]:032x}-{span[1]:016x}-{span[3] & 1}")


def _baggage(carrier: Any, span: SpanContext, setter: Setter[Any]) -> None:
    """Stand for what is written only where there is some."""


_WRITTEN: dict[str, Callable[[Any, SpanContext, Setter[Any]], None]] = {
    "opentelemetry.trace.propagation.tracecontext.TraceContextTextMapPropagator": _traceparent,
    "opentelemetry.propagators.b3.B3SingleFormat": _b3,
    "opentelemetry.baggage.propagation.W3CBaggagePropagator": _baggage,
}
"""What upstream's propagators write of a valid span; of another, or of a foreign one, they write themselves."""


def _read_by(propagator: TextMapPropagator) -> frozenset[str] | None:
    """Return the headers without which `propagator` does nothing; None where it may read any."""
    if type(propagator).__module__ == "opentelemetry.propagators.b3":
        return frozenset(name for name in _MOST if "b3" in name)  # `fields` are only what it writes
    return _READ.get(type(propagator))


def _plain(values: list[str] | None) -> SpanContext | None:
    """Return the caller's span where the header is there once and is plain."""
    match = _PLAIN(values[0]) if values is not None and len(values) == 1 else None
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    if not trace_id or not span_id:
        return None
    return SpanContext(trace_id, span_id, True, TraceFlags(int(match[3], 16)))


def configure_propagation() -> None:
    """Set the global propagator from `OTEL_PROPAGATORS`; unknown names are told and left out."""
    propagators = _propagators(env.PROPAGATORS.read())
    for name, header in _LOGGERS.items():
        quieten(name, header)
    for each in propagators:
        module = type(each).__module__
        if module.startswith("opentelemetry."):
            quieten(module)
    propagate.set_global_textmap(FlxPropagator(propagators))


def _propagators(names: Sequence[str]) -> list[TextMapPropagator]:
    wanted = list(dict.fromkeys(name.lower() for name in names))
    if "none" in wanted:
        return []
    middle = [name for name in wanted if name not in _WEAKEST_FIRST + _STRONGEST_LAST]
    ordered = (
        [name for name in _WEAKEST_FIRST if name in wanted]
        + middle
        + [name for name in _STRONGEST_LAST if name in wanted]
    )
    return [each for name in ordered if (each := _propagator(name)) is not None]


def _propagator(name: str) -> TextMapPropagator | None:
    for entry in entries("opentelemetry_propagator", name):
        return entry.load()()
    known = sorted({each.name for each in entries("opentelemetry_propagator")})
    env.report(ConfigurationError("OTEL_PROPAGATORS", name, ", ".join([*known, "none"]), "leaving it out"))
    return None
