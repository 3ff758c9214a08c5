"""`python -m flx_observability.prometheus_server`: serve metrics from a process of their own."""

from __future__ import annotations

import sys

from flx_otel_distro.cli.serve_metrics import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
