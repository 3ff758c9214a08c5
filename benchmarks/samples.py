"""What is measured, as data: a lane of cases, samples of each, and the figures drawn from them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """Figures by name of one window of measuring: `cpu_us` is CPU microseconds a request, `p99_us` a latency,
    `wall_s` and `cpu_s` seconds, `pss_mb` megabytes, `ns` nanoseconds a call. `raw_us` are single latencies."""

    figures: Mapping[str, float]
    raw_us: Sequence[int] = ()


Window = Callable[[float], Sample]
"""Measures for so many seconds."""


@dataclass(frozen=True)
class Case:
    """A peer in a lane. `name` differs from the peer's where one peer takes part twice."""

    name: str
    peer: str
    title: str
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Surroundings:
    """Where the programs of a run come from: the interpreter of each peer, and one that has grpcio for the load."""

    pythons: Mapping[str, Path]
    tool: Path
    settle: float
    """Seconds without work after which a program is taken to have come to rest."""


Opening = Callable[[Case, Surroundings, ExitStack], Window]
"""Starts a case's program, which ends with the stack, and warms it up."""

Joint = Callable[[Surroundings, Sequence[Case], float], Mapping[str, Sample]]
"""Measures all cases of a lane by itself, once."""


@dataclass(frozen=True)
class Lane:
    """One kind of work. Costs are additions to `baseline`, or totals where it is empty; `reference` is what ours is
    divided by. `service` lanes need the environments of the realistic service. `windows` and `scale` are how many
    windows a process is measured for and how much longer than others, where that differs."""

    name: str
    group: str
    title: str
    unit: str
    figure: str
    cases: tuple[Case, ...]
    opening: Opening | None = None
    joint: Joint | None = None
    baseline: str = "bare"
    reference: str = "upstream"
    service: bool = False
    windows: int | None = None
    scale: float = 1.0
    once: bool = False

    def title_of(self, case: str) -> str:
        """Return the title of a case of this lane."""
        return next((each.title for each in self.cases if each.name == case), case)


Samples = dict[str, dict[str, list[Sample]]]
"""Samples by lane and case, oldest first; those of equal index were taken one after the other."""


def median(samples: Sequence[Sample], figure: str) -> float | None:
    """Return the median of a figure, None without samples."""
    found = [each.figures[figure] for each in samples if figure in each.figures]
    return statistics.median(found) if found else None


def added(lane: Lane, by_case: Mapping[str, Sequence[Sample]], case: str, figure: str = "") -> float | None:
    """Return what a case adds to the lane's baseline: the median difference to the baseline's neighbouring sample.

    Neighbours meet the same pace of the machine. Without a baseline it is the median itself; None where there are
    no samples.
    """
    figure = figure or lane.figure
    own = [each.figures[figure] for each in by_case.get(case, []) if figure in each.figures]
    if not lane.baseline:
        return statistics.median(own) if own else None
    base = [each.figures[figure] for each in by_case.get(lane.baseline, []) if figure in each.figures]
    if not own or not base:
        return None
    if len(own) != len(base):
        return statistics.median(own) - statistics.median(base)
    return statistics.median(one - other for one, other in zip(own, base, strict=True))


def ratio(lane: Lane, by_case: Mapping[str, Sequence[Sample]], case: str, against: str) -> float | None:
    """Return a case's cost divided by another's, None where one was not measured or nothing was added."""
    one, other = added(lane, by_case, case), added(lane, by_case, against)
    return None if one is None or other is None or other <= 0 else one / other


def at_least(
    lane: Lane, by_case: Mapping[str, Sequence[Sample]], case: str, against: str, share: float = 0.1
) -> float | None:
    """Return what the ratio is at least but for a chance of `share`: a quantile over resampled samples.

    The same seed each time: the same samples give the same answer.
    """
    count = min((len(by_case.get(name, [])) for name in {case, against, lane.baseline} - {""}), default=0)
    if not count:
        return None
    chance, found = random.Random(1), list[float]()
    for _ in range(400):
        chosen = [chance.randrange(count) for _ in range(count)]
        one = ratio(
            lane,
            {name: [each[index] for index in chosen] for name, each in by_case.items() if each}
            if all(len(each) >= count for each in by_case.values() if each)
            else by_case,
            case,
            against,
        )
        if one is not None:
            found.append(one)
    found.sort()
    return found[int(len(found) * share)] if found else None


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie; ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))])
