"""One warning when a collector is lost, one line when it is back: not one a batch, not one a signal.

A collector that comes and goes is told of once a minute at most, and processes that a program starts
do not repeat what it said.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from flx_otel_distro import environment
from flx_otel_distro.guard import say
from flx_otel_distro.otlp.target import Target
from flx_otel_distro.otlp.transport import Outcome

_HEALTHY = 60.0
"""Seconds a collector must have answered before its loss is news again."""

_lost: dict[str, float | None] = {}
"""By authority: None while it is lost, else since when (time.monotonic) it answers again."""
_refused: set[tuple[str, str]] = set()
_lock = threading.RLock()


def lost(target: Target, outcome: Outcome) -> None:
    """Tell that `target` cannot be reached, unless that is told already and it was not back for a minute."""
    authority = target.authority
    with _lock:
        if authority in _lost:
            since = _lost[authority]
            first = since is not None and time.monotonic() - since > _HEALTHY
        else:
            first = f"collector {authority}" not in environment.told(os.environ)
        _lost[authority] = None
    if first:
        environment.remember_told([f"collector {authority}"])
        say(
            logging.WARNING,
            f"the collector at {target.url} ({target.protocol}) cannot be reached: {outcome.detail}. "
            f"{target.signal.capitalize()} are kept up to the queue's size and sent when it is back, "
            "if the process still runs. "
            f"Start a collector there, set OTEL_EXPORTER_OTLP_ENDPOINT (and _PROTOCOL), "
            f"or switch off with OTEL_{target.signal.upper()}_EXPORTER=none",
        )


def reached(target: Target) -> None:
    """Tell that `target` answers again, where it was lost."""
    if _lost.get(target.authority, 0.0) is not None:
        return
    with _lock:
        if _lost[target.authority] is not None:
            return
        _lost[target.authority] = time.monotonic()
    say(logging.INFO, f"the collector at {target.url} is back")


def refused(target: Target, outcome: Outcome, items: int, *, partly: bool = False) -> None:
    """Tell once per target and kind of refusal that the collector does not take (all of) what it is sent."""
    status = "partly" if partly else " ".join(outcome.detail.split()[: 2 if target.protocol != "grpc" else 1])
    key = (target.url + target.signal, status)
    with _lock:
        first = key not in _refused and len(_refused) < 64
        if first:
            _refused.add(key)
    if first:
        say(
            logging.WARNING,
            f"the collector at {target.url} ({target.protocol}) refused {items} {target.signal}: {outcome.detail}. "
            "They are dropped; check the endpoint, the protocol and OTEL_EXPORTER_OTLP_HEADERS",
        )


def _forget_lock() -> None:
    """Give a forked child a fresh lock. What the parent told is not told again."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
