"""Which targets hold, which promises, and which recorded ratios were lost."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.lanes.promises import ALLOWED_MB
from benchmarks.samples import Lane, Sample, Samples, added, at_least, median, quantile, ratio
from benchmarks.table import number
from benchmarks.targets import PROMISES, TARGETS, TOLERANCE, Promise, Target


def judged(samples: Samples, lanes: Mapping[str, Lane]) -> list[str]:
    """Return a line for each target of a lane that was measured: it holds, or by how much it is missed."""
    return [
        line
        for target in TARGETS
        if target.lane in samples
        for line in _target(target, lanes[target.lane], samples[target.lane])
    ]


def _target(target: Target, lane: Lane, by_case: Mapping[str, Sequence[Sample]]) -> list[str]:
    def cost(case: str) -> float | None:
        return median(by_case.get(case, ()), lane.figure) if target.totals else added(lane, by_case, case)

    ours, theirs = cost(target.case), cost(target.against)
    names = f"{lane.title}: {lane.title_of(target.case)} against {lane.title_of(target.against)}"
    if ours is None or (theirs is None and target.most is None):
        return [f"not measured: {names}"]
    lines: list[str] = []
    if theirs is not None:
        told = f"{names}: {number(ours)} of {number(theirs)} {lane.unit}"
        if theirs <= 0:
            lines.append(f"not measured: {told}")
        else:
            lines.append(_line(told, ours / theirs, target.factor))
    if target.most is not None:
        told = f"{lane.title}: {lane.title_of(target.case)}, {lane.unit}"
        lines.append(_line(told, ours, target.most))
    return lines


def _line(told: str, got: float, wanted: float) -> str:
    if got <= wanted:
        return f"holds        {told}: {number(got)}, wanted {number(wanted)}"
    return f"MISSED       {told}: {number(got)}, wanted {number(wanted)}, {number(got / wanted)} times that"


def promised(samples: Samples) -> list[str]:
    """Return a line for each promise: it holds or not, and how sure the samples make it."""
    lines = [_promise(each, samples[each.lane]) for each in PROMISES if each.lane in samples]
    worst = samples.get("promises-memory")
    return lines + (_memory(worst) if worst is not None else [])


def _promise(promise: Promise, by_case: Mapping[str, Sequence[Sample]]) -> str:
    own, base = by_case.get(promise.case, []), by_case.get("bare", [])
    count = min(len(own), len(base))
    if not count:
        return f"not measured {promise.what}"
    change = _pooled(promise.figure) if promise.figure in _LATENCIES else _share(promise.figure)
    got = change(own[:count], base[:count])
    chance, found = random.Random(1), list[float]()
    for _ in range(200):
        chosen = [chance.randrange(count) for _ in range(count)]
        found.append(change([own[index] for index in chosen], [base[index] for index in chosen]))
    low, high = quantile(found, 0.05), quantile(found, 0.95)
    told = f"{promise.what}: {got:+.2%}, 90 % of resamples between {low:+.2%} and {high:+.2%}"
    if low < promise.share < high:
        told += "; not sure, more rounds would tell"
    return f"{'holds ' if got < promise.share else 'MISSED'}       {told}"


Change = Callable[[Sequence[Sample], Sequence[Sample]], float]


def _share(figure: str) -> Change:
    """Return how to find the share of what a request takes that the bare service does not take, by neighbours."""

    def change(own: Sequence[Sample], base: Sequence[Sample]) -> float:
        pairs = [(one.figures[figure], other.figures[figure]) for one, other in zip(own, base, strict=True)]
        return statistics.median((one - other) / one for one, other in pairs)

    return change


_LATENCIES = {"p50_us": 0.5, "p99_us": 0.99}


def _pooled(figure: str) -> Change:
    share = _LATENCIES[figure]

    def change(own: Sequence[Sample], base: Sequence[Sample]) -> float:
        one, other = (quantile([raw for each in some for raw in each.raw_us], share) for some in (own, base))
        return one / other - 1

    return change


def _memory(by_case: Mapping[str, Sequence[Sample]]) -> list[str]:
    what = f"at its worst it adds less than {ALLOWED_MB:g} MB"
    ours, bare = median(by_case.get("ours", ()), "peak_mb"), median(by_case.get("bare", ()), "peak_mb")
    if ours is None or bare is None:
        return [f"not measured {what}"]
    failed = median(by_case.get("ours", ()), "failed")
    held = "holds " if ours - bare < ALLOWED_MB and not failed else "MISSED"
    lines = [f"{held}       {what}: {ours - bare:+.1f} MB to {bare:.1f} MB, {failed:g} requests failed"]
    limited = by_case.get("ours-limited", ())
    if not limited:
        return [*lines, "not measured it lives where only that is allowed: no memory control group can be made here"]
    died = sum(1 for each in limited if not each.figures["survived"] or each.figures["failed"])
    most = max(each.figures.get("group_mb", 0.0) for each in limited)
    told = f"it lives in a control group of the bare peak and {ALLOWED_MB:g} MB: peak {most:.0f} MB with page cache"
    return [*lines, f"{'MISSED' if died else 'holds '}       {told}, {died} of {len(limited)} runs failed"]


def ratios(samples: Samples, lanes: Mapping[str, Lane]) -> dict[str, float]:
    """Return our cost over the reference's, by lane."""
    found = {name: ratio(lanes[name], by_case, "ours", lanes[name].reference) for name, by_case in samples.items()}
    return {name: value for name, value in found.items() if value is not None}


def lost(samples: Samples, recorded: Mapping[str, float], lanes: Mapping[str, Lane]) -> dict[str, str]:
    """Return the lanes whose ratio is worse than the recorded one by more than a third, or was not measured, and how.

    Chance alone does not lose a lane: nine of ten resamples must be that bad, too.
    """
    found: dict[str, str] = {}
    for name, before in recorded.items():
        lane, by_case = lanes[name], samples.get(name, {})
        now = ratio(lane, by_case, "ours", lane.reference)
        if now is None:
            found[name] = f"{lane.title}: not measured"
            continue
        surely = at_least(lane, by_case, "ours", lane.reference)
        if now > before * TOLERANCE and surely is not None and surely > before * TOLERANCE:
            found[name] = (
                f"{lane.title}: {number(now)} of {lane.title_of(lane.reference)} (at least {number(surely)}),"
                f" recorded {number(before)}, {number(before * TOLERANCE)} allowed"
            )
    return found
