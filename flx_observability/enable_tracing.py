"""`python -m flx_observability.enable_tracing`: try the way to the collector, or run a program traced."""

from __future__ import annotations

import sys

from flx_otel_distro.cli.try_tracing import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
