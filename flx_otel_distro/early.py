"""Import first what reads the environment while it is imported, with the variable hidden.

`opentelemetry.propagate` raises at its import for a name in `OTEL_PROPAGATORS` that nobody registered,
and takes every importer with it. The configurator reads that variable, and sets the global propagator.
"""

from __future__ import annotations

from flx_otel_distro.environment import PROPAGATORS, hidden

with hidden([PROPAGATORS.name]):
    from opentelemetry.instrumentation.distro import BaseDistro
    from opentelemetry.propagate import get_global_textmap

__all__ = ["BaseDistro", "get_global_textmap"]
