"""Rounds of all cases, interleaved: each round starts every case's program anew, then measures them in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.samples import Case, Lane, Sample, Samples, Surroundings, Window
from benchmarks.venvs import PEERS, UnavailableError, interpreter, versions


@dataclass(frozen=True)
class Effort:
    """How much is measured: fresh processes, windows of each process, seconds of load in a window, and seconds
    without work after which a program counts as being at rest."""

    rounds: int
    windows: int
    seconds: float
    settle: float


@dataclass
class Run:
    """What a run found: samples, and why a peer or a case (`lane:case`) has none or fewer."""

    samples: Samples = field(default_factory=dict[str, dict[str, list[Sample]]])
    absent: dict[str, str] = field(default_factory=dict[str, str])
    versions: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


class Runner:
    """Measures lanes with some peers. Environments are made when they are first needed, and once."""

    def __init__(self, peers: Collection[str], venvs: Path, say: Say = to_stderr) -> None:
        self._peers, self._venvs, self._say = peers, venvs, say
        self._pythons: dict[tuple[str, bool], Path] = {}

    def prepare(self, lanes: Sequence[Lane], run: Run) -> None:
        """Make the environments these lanes need, so that measuring is not disturbed by it."""
        for lane in lanes:
            for case in self._cases(lane):
                self._python(case.peer, lane.service, run)
        self._python("bare", False, run)

    def measure(self, lanes: Sequence[Lane], effort: Effort, run: Run) -> None:
        """Add samples of these lanes to a run. A case that fails is left out from then on, and said so."""
        self.prepare(lanes, run)
        for turn in range(effort.rounds):
            for lane in lanes:
                if turn == 0 or not lane.once:
                    self._round(lane, turn, effort, run)

    def _cases(self, lane: Lane) -> list[Case]:
        # A lane that measures inside one process has no peers to choose from.
        return [case for case in lane.cases if case.peer in self._peers or (lane.joint and not lane.service)]

    def _python(self, peer: str, service: bool, run: Run) -> Path | None:
        if (peer, service) not in self._pythons and peer not in run.absent:
            try:
                self._say(f"environment of {PEERS[peer].title}{' with the service' if service else ''}")
                python = interpreter(PEERS[peer], self._venvs, service)
            except UnavailableError as error:
                run.absent[peer] = str(error)
                return None
            self._pythons[peer, service] = python
            run.versions[f"{peer}-service" if service else peer] = versions(python)
        return self._pythons.get((peer, service))

    def _round(self, lane: Lane, turn: int, effort: Effort, run: Run) -> None:
        found = run.samples.setdefault(lane.name, {case.name: [] for case in self._cases(lane)})
        pythons = {
            case.peer: python
            for case in self._cases(lane)
            if (python := self._python(case.peer, lane.service, run)) is not None
        }
        tool = self._python("bare", False, run) or Path(sys.executable)
        around = Surroundings(pythons, tool, effort.settle)
        cases = [
            case for case in self._cases(lane) if case.peer in pythons and f"{lane.name}:{case.name}" not in run.absent
        ]
        self._say(f"round {turn + 1} of {effort.rounds}: {lane.title}")
        if lane.joint is not None:
            try:
                for name, sample in lane.joint(around, cases, effort.seconds).items():
                    found.setdefault(name, []).append(sample)
            except (RuntimeError, OSError) as error:
                run.absent |= {f"{lane.name}:{case.name}": str(error) for case in cases}
            return
        cases = cases[turn % len(cases) :] + cases[: turn % len(cases)] if cases else []
        with ExitStack() as stack:
            windows: dict[str, Window] = {}
            for case in cases:
                with _Noted(run, f"{lane.name}:{case.name}", self._say):
                    assert lane.opening is not None
                    windows[case.name] = lane.opening(case, around, stack)
            for _ in range(lane.windows or effort.windows):
                for name, window in list(windows.items()):
                    with _Noted(run, f"{lane.name}:{name}", self._say):
                        sample = window(effort.seconds * lane.scale)
                        found[name].append(sample)
                        continue
                    del windows[name]


class _Noted:
    """Takes a case's failure down and goes on. A context manager."""

    def __init__(self, run: Run, name: str, say: Say) -> None:
        self._run, self._name, self._say = run, name, say

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> bool:
        if not isinstance(error, (RuntimeError, OSError, ValueError)):
            return False
        self._run.absent[self._name] = str(error) or type(error).__name__
        self._say(f"{self._name}: {error}")
        return True
