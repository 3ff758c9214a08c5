"""Measure us and our peers in turn, in one run.

    python -m benchmarks [NAME …] [--peers a,b] [--rounds N] [--seconds S] [--json FILE] [--markdown]
    python -m benchmarks recording encoding
    python -m benchmarks --quick

Without a name, all lanes are measured. Each round starts every peer's program anew, one after the other,
on a core of its own; figures are medians over the rounds. `--quick` measures the lanes whose ratios are
recorded in recorded.json, with few peers, and fails where one is worse by more than a third; `--record`
writes them anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import encoding, recording
from benchmarks.lanes import LANES, Lane, Sample
from benchmarks.targets import TARGETS
from benchmarks.venvs import COMMON, PEERS, UnavailableError, interpreter

RECORDED = Path(__file__).resolve().parent / "recorded.json"
_TOLERANCE = 4 / 3
_QUICK = ("requests", "requests-all", "grpc-aio", "startup")
_QUICK_PEERS = ("bare", "ours", "upstream", "instrumentator")

Samples = dict[str, dict[str, list[Sample]]]
"""Samples by lane and peer."""


def measure(
    lanes: list[Lane], peers: list[str], rounds: int, seconds: float, venvs: Path
) -> tuple[Samples, dict[str, str]]:
    """Return samples, and why a peer has none."""
    absent: dict[str, str] = {}
    pythons: dict[str, Path] = {}
    for name in peers:
        try:
            print(f"installing {PEERS[name].title} …", file=sys.stderr)
            pythons[name] = interpreter(PEERS[name], venvs)
        except UnavailableError as error:
            absent[name] = str(error)
    samples: Samples = {lane.name: {name: [] for name in lane.peers if name in pythons} for lane in lanes}
    for turn in range(rounds):
        for lane in lanes:
            for name in samples[lane.name]:
                if f"{lane.name}:{name}" in absent:
                    continue
                try:
                    found = lane.sample(PEERS[name], pythons[name], seconds)
                except (RuntimeError, OSError) as error:
                    absent[f"{lane.name}:{name}"] = str(error)
                    continue
                samples[lane.name][name].append(found)
                print(f"{turn + 1}/{rounds} {lane.name} {name}: {found[lane.figure]:.3f} {lane.unit}", file=sys.stderr)
    return samples, absent


def median(samples: list[Sample], figure: str) -> float | None:
    """Return the median of a figure, None without samples."""
    found = [each[figure] for each in samples if figure in each]
    return statistics.median(found) if found else None


def added(lane: Lane, by_peer: dict[str, list[Sample]], peer: str) -> float | None:
    """Return what a peer adds to the bare program."""
    own, bare = median(by_peer.get(peer, []), lane.figure), median(by_peer.get("bare", []), lane.figure)
    return None if own is None or bare is None else own - bare


def table(samples: Samples, absent: dict[str, str]) -> list[tuple[str, ...]]:
    """Return the rows, the first being the head."""
    rows: list[tuple[str, ...]] = [("work", "with", "total", "added", "ours / theirs", "p50 / p99 / p99.9 ms")]
    for name, by_peer in samples.items():
        lane = LANES[name]
        ours = added(lane, by_peer, "ours")
        for peer, found in by_peer.items():
            total = median(found, lane.figure)
            if total is None:
                rows.append(
                    (lane.title, PEERS[peer].title, absent.get(f"{name}:{peer}", "not measured")[:60], "", "", "")
                )
                continue
            more = added(lane, by_peer, peer)
            ratio = f"{ours / more:.2f}" if ours is not None and more and peer not in ("bare", "ours") else ""
            latency = [median(found, each) for each in ("p50_us", "p99_us", "p999_us")]
            rows.append(
                (
                    lane.title,
                    PEERS[peer].title,
                    f"{total:.4g} {lane.unit}",
                    f"{more:+.3g}" if more is not None and peer != "bare" else "",
                    ratio,
                    " / ".join(f"{each / 1000:.1f}" for each in latency if each is not None),
                )
            )
    rows += [
        ("", PEERS[name].title, f"not installed: {why[:50]}", "", "", "")
        for name, why in absent.items()
        if name in PEERS
    ]
    return rows


def verdicts(samples: Samples) -> list[str]:
    """Return a line for each target that could be judged."""
    lines: list[str] = []
    for target in TARGETS:
        if target.lane not in samples:
            continue
        lane, by_peer = LANES[target.lane], samples[target.lane]
        ours, theirs = added(lane, by_peer, "ours"), added(lane, by_peer, target.peer)
        if ours is None or theirs is None:
            lines.append(f"not measured: {lane.title} against {PEERS[target.peer].title}")
            continue
        held = "holds " if ours <= theirs * target.factor else "MISSED"
        lines.append(
            f"{held}: {lane.title}: ours adds {ours:.3g} {lane.unit}, {PEERS[target.peer].title} {theirs:.3g};"
            f" {ours / theirs:.3f} of it, wanted {target.factor:.3f}"
        )
        if target.most is not None:
            lines.append(
                f"{'holds ' if ours <= target.most else 'MISSED'}: {lane.title}: ours adds {ours:.3g}, wanted"
                f" {target.most:g} {lane.unit}"
            )
    return lines


def ratios(samples: Samples) -> dict[str, float]:
    """Return our addition over upstream's, by lane."""
    found: dict[str, float] = {}
    for name, by_peer in samples.items():
        ours, theirs = added(LANES[name], by_peer, "ours"), added(LANES[name], by_peer, "upstream")
        if ours is not None and theirs:
            found[name] = ours / theirs
    return found


def lost(now: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """Return the lanes whose ratio is worse than the recorded one by more than a third, or was not measured."""
    return [name for name, ratio in recorded.items() if name in _QUICK and not now.get(name, 9.9) <= ratio * _TOLERANCE]


def show(rows: list[tuple[str, ...]], markdown: bool) -> str:
    """Return the rows as a text table or as Markdown."""
    if markdown:
        head, *rest = rows
        return "\n".join(f"| {' | '.join(each)} |" for each in (head, ("---",) * len(head), *rest))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return 1 where `--quick` finds a ratio lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=", ".join([*LANES, "recording", "encoding"]),
    )
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load a sample")
    parser.add_argument("--json", type=Path, help="write raw samples there")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--venvs", type=Path, default=Path.home() / ".cache" / "flx-otel-benchmarks")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in [*LANES, "recording", "encoding"]:
            parser.error(f"no lane is called {name!r}; there are {', '.join([*LANES, 'recording', 'encoding'])}")
    names: list[str] = given.names or ([*LANES, "recording", "encoding"] if not given.quick else [*_QUICK])
    if "encoding" in names:
        print(encoding.report())
    if "recording" in names:
        recording.main([])
    lanes = [LANES[name] for name in names if name in LANES]
    if not lanes:
        return 0
    wanted = [*_QUICK_PEERS] if given.quick else [name for name in given.peers.split(",") if name in PEERS]
    rounds, seconds = (3, 2.0) if given.quick else (given.rounds, given.seconds)
    samples, absent = measure(lanes, wanted, rounds, seconds, given.venvs)
    print(show(table(samples, absent), given.markdown))
    print("\n".join(["", *verdicts(samples)]))
    now = ratios(samples)
    if given.json:
        described: dict[str, Any] = {
            "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
            "versions": {name: [*COMMON, *(each for each in PEERS[name].packages if "==" in each)] for name in wanted},
            "rounds": rounds,
            "seconds": seconds,
            "absent": absent,
            "samples": samples,
        }
        given.json.write_text(json.dumps(described, indent=1))
    if given.record:
        RECORDED.write_text(json.dumps({name: round(ratio, 3) for name, ratio in now.items()}, indent=2) + "\n")
    if given.quick and RECORDED.exists():
        recorded: dict[str, float] = json.loads(RECORDED.read_text())
        again = lost(now, recorded)
        if again:  # once more, since others may have had the machine
            samples, _ = measure([LANES[name] for name in again], wanted, rounds + 2, seconds, given.venvs)
            now |= ratios(samples)
            again = lost(now, recorded)
        for name in again:
            ratio = now.get(name, float("nan"))
            print(f"LOST: {LANES[name].title}: {ratio:.3f} of upstream's, recorded {recorded[name]:.3f}")
        return 1 if again else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
