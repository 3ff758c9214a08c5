"""The exact class of a thing. What is exactly the SDK's or exactly a scalar can be foreseen, a subclass cannot."""

from __future__ import annotations

from collections.abc import Callable

kind_of: Callable[[object], object] = type
"""`type` with one argument, typed so that a comparison with it tells a type checker nothing more."""
