"""Measure us and our peers in turn, in one run.

    python -m benchmarks [NAME …] [--peers a,b] [--rounds N] [--json FILE] [--markdown]
    python -m benchmarks --quick

A name is a lane's or a group's; without one, all are measured. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks import machine, table, verdicts
from benchmarks.lanes import GROUPS, LANES
from benchmarks.running import Effort, Run, Runner
from benchmarks.samples import Lane
from benchmarks.targets import QUICK, QUICK_PEERS
from benchmarks.venvs import PEERS

RECORDED = Path(__file__).resolve().parent / "recorded.json"
_QUICK = Effort(rounds=2, windows=3, seconds=1, settle=0.25)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; SystemExit where a name or peer is unknown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    known = list(dict.fromkeys([*GROUPS, *LANES]))
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each peer (%(default)s)")
    parser.add_argument("--windows", type=int, default=3, help="windows of load a process (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in a window (%(default)g)")
    parser.add_argument("--json", type=Path, help="write raw samples, machine and versions there")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    parser.add_argument("--quick", action="store_true", help="few lanes and peers; fail where a recorded ratio is lost")
    parser.add_argument("--record", action="store_true", help="write the ratios found to recorded.json")
    parser.add_argument(
        "--venvs", type=Path, default=Path.home() / ".cache" / "flx-otel-benchmarks", help="kept in %(default)s"
    )
    given = parser.parse_args(arguments)
    given.peers = given.peers.split(",")
    for kind, names, allowed in (("lane", given.names, known), ("peer", given.peers, [*PEERS])):
        for name in names:
            if name not in allowed:
                parser.error(f"no {kind} is called {name!r}; there are {', '.join(allowed)}")
    return given


def chosen(names: Sequence[str], quick: bool) -> list[Lane]:
    """Return the lanes of these names of lanes and groups; without names all, or those of the quick run."""
    wanted = names or (QUICK if quick else GROUPS)
    return [
        lane for lane in LANES.values() if lane.name in wanted or (lane.group in wanted and not (quick and not names))
    ]


def report(run: Run, markdown: bool) -> str:
    """Return the table, then a line for each target and promise."""
    parts = [table.show(table.rows(run.samples, run.absent, LANES), markdown)]
    lines = [*verdicts.judged(run.samples, LANES), *verdicts.promised(run.samples)]
    return "\n".join([*parts, "", *(f"- {line}" if markdown else line for line in lines)])


def written(run: Run, effort: Effort, about: dict[str, str | int | float]) -> str:
    """Return a run as JSON, with raw samples."""
    return json.dumps(
        {
            "machine": about,
            "versions": run.versions,
            "effort": dataclasses.asdict(effort),
            "absent": run.absent,
            "ratios": verdicts.ratios(run.samples, LANES),
            "samples": {
                lane: {
                    case: [{**each.figures, **({"raw_us": list(each.raw_us)} if each.raw_us else {})} for each in taken]
                    for case, taken in by_case.items()
                }
                for lane, by_case in run.samples.items()
            },
        }
    )


def gate(runner: Runner, run: Run, effort: Effort, recorded: dict[str, float]) -> list[str]:
    """Return what was lost against the recorded ratios, lost lanes having been measured once more."""
    measured = {name: value for name, value in recorded.items() if name in run.samples}
    lost = verdicts.lost(run.samples, measured, LANES)
    if not lost:
        return []
    for line in lost.values():
        print(f"again, since it may be chance: {line}", file=sys.stderr)
    again = Run(versions=run.versions, absent={name: why for name, why in run.absent.items() if name in PEERS})
    runner.measure([LANES[name] for name in lost], effort, again)
    return list(verdicts.lost(again.samples, {name: measured[name] for name in lost}, LANES).values())


def _ended(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt  # ends the programs on the way out


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where `--quick` finds a ratio lost, 130 where it was interrupted."""
    given = parsed(arguments)
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGHUP, _ended)
    lanes = chosen(given.names, given.quick)
    peers = [name for name in given.peers if name in QUICK_PEERS] if given.quick else given.peers
    effort = _QUICK if given.quick else Effort(given.rounds, given.windows, given.seconds, 1.1)
    about, run, runner = machine.described(), Run(), Runner(peers, given.venvs)
    code = 0
    try:
        runner.measure(lanes, effort, run)
    except KeyboardInterrupt:
        print("interrupted; this is what was measured", file=sys.stderr)
        code = 130
    print(report(run, given.markdown), flush=True)
    if given.json:
        given.json.write_text(written(run, effort, about))
    if code:
        return code
    recorded: dict[str, float] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if given.record:
        now = {name: round(value, 4) for name, value in verdicts.ratios(run.samples, LANES).items() if name in QUICK}
        RECORDED.write_text(json.dumps(dict(sorted({**recorded, **now}.items())), indent=2) + "\n")
    elif given.quick:
        lost = gate(runner, run, effort, recorded)
        print("\n".join(f"LOST         {line}" for line in lost) or "no recorded ratio is lost", flush=True)
        return 1 if lost else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
