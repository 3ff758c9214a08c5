"""Cases that lanes share, and how much is sampled."""

from __future__ import annotations

from benchmarks.samples import Case
from benchmarks.venvs import PEERS

SOME = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.01",
    "DD_TRACE_SAMPLING_RULES": '[{"sample_rate": 0.01}]',
}
ALL = {
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    "OTEL_TRACES_SAMPLER_ARG": "1",
    "DD_TRACE_SAMPLING_RULES": '[{"sample_rate": 1.0}]',
}
NONE = {"OTEL_TRACES_SAMPLER": "always_off", "OTEL_TRACES_EXPORTER": "none"}

WRAPPERS = ("bare", "ours", "upstream", "edot", "splunk", "ddtrace")
EVERYONE = (*WRAPPERS, "logfire")


SERVICE = (
    Case("bare", "bare", "no instrumentation"),
    Case("metrics", "ours", "flx-instrument, metrics alone", NONE),
    Case("ours", "ours", "flx-instrument, metrics, traces at 1 %", SOME),
    Case("upstream", "upstream", "opentelemetry-instrument, the same", SOME),
)


def of(*peers: str) -> tuple[Case, ...]:
    """Return the plain case of each peer."""
    return tuple(Case(name, name, PEERS[name].title) for name in peers)
