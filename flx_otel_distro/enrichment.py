"""What this distro does to an upstream instrumentor when it is about to be loaded.

The entry point group `flx_otel_enricher` holds one callable per upstream instrumentor, under the
upstream name. It takes the environment and returns an `Enrichment`; it must not import the library
it speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

GROUP = "flx_otel_enricher"


@dataclass(frozen=True, slots=True)
class Enrichment:
    """Say how an upstream instrumentor is loaded.

    `options` go to its `instrument()`, below what a configuration file says. `superseded_by` names
    the `opentelemetry_instrumentor` entry point of ours that does the same work; the upstream one is
    then left alone unless ours is on the deny-list, is missing, or the user set options only
    upstream understands. `when_denied` is called where the user switched the instrumentor off, to still
    what the library records of its own accord; it may be called more than once.
    """

    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    superseded_by: str | None = None
    when_denied: Callable[[], None] | None = None


Enricher = Callable[[Mapping[str, str]], Enrichment]
