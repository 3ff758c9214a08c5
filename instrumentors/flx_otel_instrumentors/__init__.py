"""Instrumentors: what is patched, and what it records through the OpenTelemetry API."""
