"""What we want to reach, as data: our addition to the bare program against others', in one run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What we add in `lane` is to be at most `factor` of what `peer` adds, and at most `most` in the lane's unit."""

    lane: str
    peer: str
    factor: float
    most: float | None = None


TARGETS = (
    Target("requests", "upstream", 1 / 12, 12.0),
    Target("requests", "instrumentator", 1.0),
    Target("requests-all", "upstream", 1 / 6),
    Target("grpc-aio", "upstream", 1 / 6),
    Target("grpc-aio-all", "upstream", 1 / 3),
    Target("grpc-sync", "upstream", 1 / 4),
    Target("grpc-sync-all", "upstream", 1 / 3),
    Target("startup", "upstream", 1 / 4, 0.25),
    Target("startup-app", "upstream", 1.0, 0.3),
    Target("memory", "upstream", 1.0, 15.0),
)
