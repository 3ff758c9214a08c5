"""Command line: `flx-instrument` runs a program observed, `flx-otel` shows and checks."""
