"""Trace and span ids from a generator of our own.

The SDK draws them from the module-level `random`: an app that seeds it, for its tests or its science, then
makes the same ids in every run and gets other numbers than without us.
"""

from __future__ import annotations

import os
import random

from opentelemetry.sdk.trace.id_generator import IdGenerator


class FlxIdGenerator(IdGenerator):
    """Random ids: 128 bits a trace, 64 bits a span, never zero.

    Thread-safe. A forked child goes on with a seed of its own.
    """

    def __init__(self) -> None:
        self._random = random.Random()  # seeded by the operating system
        self.bits = self._random.getrandbits
        self.share = self._random.random
        """Return a number from 0 up to 1: whether a trace is among so many, without an id for it."""
        self.between = self._random.randrange
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._random.seed)

    def generate_trace_id(self) -> int:
        """Return an id for a new trace."""
        return self._random.getrandbits(128) or self.generate_trace_id()

    def generate_span_id(self) -> int:
        """Return an id for a new span."""
        return self._random.getrandbits(64) or self.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Return True: all bits are random, as W3C Trace Context's random flag says."""
        return True
