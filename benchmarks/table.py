"""The table of medians and ratios, as text or Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.samples import Lane, Sample, Samples, added, median, ratio
from benchmarks.venvs import PEERS

Row = tuple[str, ...]
HEAD: Row = ("work", "with", "median", "added", "of reference", "p50 / p99 / p99.9 ms", "spans each")


def rows(samples: Samples, absent: Mapping[str, str], lanes: Mapping[str, Lane]) -> list[Row]:
    """Return the rows, the first being the head. Who could not be measured has a row that says why."""
    found = [HEAD]
    for name, by_case in samples.items():
        lane = lanes[name]
        for case, taken in by_case.items():
            found.append(_row(lane, case, taken, by_case, absent.get(f"{name}:{case}", "")))
    for name, why in absent.items():
        if name in PEERS:
            found.append(("", PEERS[name].title, f"not installed: {_short(why)}", "", "", "", ""))
    return found


def _row(lane: Lane, case: str, taken: Sequence[Sample], by_case: Mapping[str, Sequence[Sample]], why: str) -> Row:
    total = median(taken, lane.figure)
    if total is None:
        return (lane.title, lane.title_of(case), f"not measured: {_short(why) or 'no reason known'}", "", "", "", "")
    more = added(lane, by_case, case) if lane.baseline and case != lane.baseline else None
    share = ratio(lane, by_case, case, lane.reference) if case not in (lane.reference, lane.baseline) else None
    latency = [median(taken, each) for each in ("p50_us", "p99_us", "p999_us")]
    spans = median(taken, "spans")
    return (
        lane.title,
        lane.title_of(case) + (f" (later failed: {_short(why)})" if why else ""),
        f"{number(total)} {lane.unit}",
        "" if more is None else f"{'+' if more >= 0 else ''}{number(more)}",
        "" if share is None else number(share),
        " / ".join(f"{each / 1000:.1f}" for each in latency if each is not None),
        "" if spans is None else f"{spans:.2f}",
    )


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _short(why: str) -> str:
    return " ".join(why.split())[-90:].replace("|", "/")


def show(table: Sequence[Row], markdown: bool) -> str:
    """Return the rows as a text table or as Markdown."""
    if markdown:
        head, *rest = table
        return "\n".join(f"| {' | '.join(each)} |" for each in (head, ("---",) * len(head), *rest))
    widths = [max(len(row[column]) for row in table if not _said(row, column)) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _said(row: Row, column: int) -> bool:
    return column == 2 and row[column].startswith("not ")  # words that run over the empty cells behind them
