"""Put the fast way in front of the SDK's instruments, and take it away again.

The methods of the instrument classes are replaced: readers and views find an instrument's settings by
its exact class, so that subclasses would lose them, and instruments that exist already are served too.
Nothing is replaced where the variable says so, where the SDK is not the one we know, or where a small
run of both ways side by side differs; one line then says so, and recording stays the SDK's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter
from opentelemetry.sdk.metrics._internal.instrument import Gauge
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer

from flx_otel_distro import environment as env
from flx_otel_distro.guard import tell_once
from flx_otel_distro.recording import instruments, rehearsal, routes, shape

_METHODS: dict[str, tuple[type, str, bool]] = {
    "counter": (Counter, "add", False),
    "up_down_counter": (UpDownCounter, "add", True),
    "histogram": (Histogram, "record", False),
    "gauge": (Gauge, "set", True),
}
_lock = threading.RLock()
_pairs: dict[str, tuple[Any, Any]] = {}
"""For each kind, our method and the SDK's; kept, since ours may come back from beneath a wrapper."""
_installed = False


def install(provider: object = None, *, environ: Mapping[str, str] | None = None) -> bool:
    """Record the fast way from now on, in every instrument of the process; return whether it is so.

    A second call does nothing. `provider` is asked only whether its measurements can go the fast way.
    Raises ConfigurationError for a wrong `FLX_OTEL_FAST_RECORDING` under strict mode. Thread-safe.
    """
    global _installed
    with _lock:
        if _installed:
            return True
        if not env.FAST_RECORDING.read(environ):
            tell_once("recording:off", "recording is the SDK's own (FLX_OTEL_FAST_RECORDING=false)", logging.INFO)
            return False
        why = _foreign(provider) or _install()
        if why:
            # Nothing is wrong, and there is nothing for the user to do: no line on the stderr of every program.
            tell_once("recording:stock", f"recording stays the SDK's own, right but slower: {why}", logging.INFO)
        _installed = not why
        return _installed


def _foreign(provider: object) -> str | None:
    consumer = getattr(provider, "_measurement_consumer", None)
    if provider is not None and type(consumer) is not SynchronousMeasurementConsumer:
        return f"{type(provider).__name__} is not the SDK's meter provider"
    return None


def _install() -> str | None:
    _take_back()
    why = shape.mismatch()
    if why:
        return why
    stock = {kind: vars(owner)[name] for kind, (owner, name, _) in _METHODS.items()}
    ours = {kind: _ours(kind, stock[kind], negative) for kind, (_, _, negative) in _METHODS.items()}
    instruments.learning(now=True)
    try:
        why = rehearsal.difference(stock, ours)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises there, it is not the one we know
        why = f"the trial failed with {type(error).__name__}: {error}"
    if why:
        instruments.learning(now=False)
        return why
    for kind, (owner, name, _) in _METHODS.items():
        setattr(owner, name, ours[kind])
        _pairs[kind] = (ours[kind], stock[kind])
    return None


def _ours(kind: str, stock: Any, negative: bool) -> Any:
    before = _pairs.get(kind)
    return before[0] if before is not None and before[1] is stock else instruments.fast(stock, negative)


def _take_back() -> None:
    for kind, (ours, stock) in _pairs.items():
        owner, name, _ = _METHODS[kind]
        if vars(owner).get(name) is ours:
            setattr(owner, name, stock)


def uninstall() -> None:
    """Give the SDK its methods back and forget every route. A second call does nothing. Thread-safe.

    Where someone has wrapped our method meanwhile, it stays beneath the wrapper and leads the SDK's way.
    """
    global _installed
    with _lock:
        _installed = False
        instruments.learning(now=False)
        _take_back()
        routes.forget()


def installed() -> bool:
    """Return whether recording goes the fast way."""
    return _installed
