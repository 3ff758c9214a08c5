"""Options for variables that other OpenTelemetry packages declare, as `opentelemetry-instrument` offers them.

Read only when an option is none of ours: it imports what those packages declare.
"""

from __future__ import annotations

from importlib.metadata import entry_points


def names() -> dict[str, str]:
    """Return the variable of each option, as `{"--log-level": "OTEL_LOG_LEVEL"}`."""
    found: dict[str, str] = {}
    for entry in entry_points(group="opentelemetry_environment_variables"):
        try:
            module = entry.load()
        except Exception:  # noqa: BLE001 - a broken package of others has no options
            continue
        for name in dir(module):
            if name.startswith("OTEL_"):
                stem = name.removeprefix("OTEL_").removeprefix("PYTHON_")
                found["--" + stem.lower().replace("_", "-")] = name
    return found
