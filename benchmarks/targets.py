"""What we want to reach, as data, and what we promise: our figures against others', in one run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What `case` costs in `lane` is to be at most `factor` of what `against` costs, and at most `most` in its unit.

    Costs are additions to the lane's baseline where it has one, unless `totals`.
    """

    lane: str
    against: str
    factor: float
    most: float | None = None
    case: str = "ours"
    totals: bool = False


@dataclass(frozen=True)
class Promise:
    """`case` changes `figure` of `lane` against the bare service by less than `share` of it."""

    what: str
    lane: str
    case: str
    figure: str
    share: float


TARGETS = (
    Target("recording-counter", "stock", 1 / 6),
    Target("recording-histogram", "stock", 1 / 6),
    Target("recording-counter", "labels", 1.0),
    Target("recording-histogram", "labels", 1.0),
    Target("recording-counter", "child", 1.0, case="bound"),
    Target("recording-histogram", "child", 1.0, case="bound"),
    Target("encoding", "upstream", 1 / 6),
    Target("requests", "upstream", 1 / 12),
    Target("requests", "instrumentator", 1.0),
    Target("requests-all", "upstream", 1 / 6),
    Target("requests-all-grpc", "upstream", 1 / 6),
    Target("requests-metrics", "instrumentator", 1.0),
    Target("grpc-aio", "upstream", 1 / 6),
    Target("grpc-aio-all", "upstream", 1 / 3),
    Target("grpc-sync", "upstream", 1 / 4),
    Target("grpc-sync-all", "upstream", 1 / 3),
    Target("instructions-requests", "upstream", 1 / 12),
    Target("instructions-requests-all", "upstream", 1 / 6),
    Target("instructions-requests-all-grpc", "upstream", 1 / 6),
    Target("instructions-grpc-aio", "upstream", 1 / 6),
    Target("instructions-grpc-aio-all", "upstream", 1 / 3),
    Target("instructions-grpc-sync", "upstream", 1 / 4),
    Target("instructions-grpc-sync-all", "upstream", 1 / 3),
    Target("startup", "upstream", 1 / 4),
    Target("memory", "upstream", 1.0, 15.0),
    Target("latency", "bare", 2.0, totals=True),
)

PROMISES = (
    Promise("metrics take less than 1 % of the instructions", "instructions-service", "metrics", "kilo", 0.01),
    Promise("metrics take less than 1 % of the CPU", "promises", "metrics", "cpu_us", 0.01),
    Promise("metrics and traces at 1 % change p50 by less than 2 %", "promises", "ours", "p50_us", 0.02),
    Promise("metrics and traces at 1 % change p99 by less than 2 %", "promises", "ours", "p99_us", 0.02),
)

QUICK = ("encoding", "startup", "instructions-requests", "instructions-grpc-aio")
QUICK_PEERS = ("bare", "ours", "upstream")
TOLERANCE = 4 / 3
"""How much worse than the recorded one a ratio may be before `--quick` fails."""
