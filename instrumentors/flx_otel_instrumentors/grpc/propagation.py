"""Trace context in and out of gRPC metadata.

Metadata is a sequence of pairs in which a key may come several times; values under `-bin` keys are
bytes and no propagator's. The app's own metadata object is read and never written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator

from flx_otel_instrumentors.grpc.telemetry import NOTHING
from flx_otel_instrumentors.propagation import names

Carrier = dict[str, list[str]]


class _Getter(Getter[Carrier]):
    lower_case = True  # as gRPC's metadata is

    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        return carrier.get(key) or carrier.get(key.lower())

    def keys(self, carrier: Carrier) -> list[str]:
        return list(carrier)


class _Setter(Setter[dict[str, str]]):
    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key.lower()] = value


_getter = _Getter()
_setter = _Setter()

_known: tuple[TextMapPropagator | None, frozenset[str] | None] = (None, None)
"""A propagator and what it reads. One tuple, so that threads never see half of a change."""


def parent(metadata: Iterable[tuple[str, Any]] | None) -> Context:
    """Return the context that arrives in `metadata`, upon an empty one.

    An empty one, because what is current on a server's thread or task belongs to whoever started the
    server. Raises what a propagator raises.
    """
    global _known
    textmap = get_global_textmap()
    propagator, read = _known
    if propagator is not textmap:
        read = names(textmap)
        _known = (textmap, read)
    if read is not None:
        for key, _ in metadata or ():
            if key in read:
                break
        else:
            return NOTHING
    carrier: Carrier = {}
    for key, value in metadata or ():
        if (read is None or key in read) and type(value) is str:
            carrier.setdefault(key, []).append(value)
    return textmap.extract(carrier, NOTHING, _getter) if carrier or read is None else NOTHING


def with_context(metadata: Any, context: Context) -> Any:
    """Return `metadata` with `context` in it, as a new tuple of pairs.

    Keys the propagators write replace those the app put there, or a server would read the first of two.
    """
    carrier: dict[str, str] = {}
    get_global_textmap().inject(carrier, context, _setter)
    if not metadata:
        return tuple(carrier.items())
    return (*(pair for pair in metadata if pair[0] not in carrier), *carrier.items())
