"""What the benchmarks say of their samples, and that a lane runs at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.lanes import LANES, Sample
from benchmarks.targets import TARGETS
from benchmarks.venvs import PEERS

SAMPLES: dict[str, dict[str, list[Sample]]] = {
    "requests": {
        "bare": [{"cpu_us": 80.0}, {"cpu_us": 100.0}, {"cpu_us": 300.0}],
        "ours": [{"cpu_us": 110.0}, {"cpu_us": 112.0}, {"cpu_us": 90.0}],
        "upstream": [{"cpu_us": 300.0}],
        "edot": [],
    }
}


def test_figures_are_medians_and_additions_to_the_bare_program() -> None:
    assert benchmarks.added(LANES["requests"], SAMPLES["requests"], "ours") == 10.0
    assert benchmarks.ratios(SAMPLES) == {"requests": 0.05}


def test_a_peer_that_could_not_run_is_in_the_table() -> None:
    rows = benchmarks.table(SAMPLES, {"requests:edot": "it does not serve", "ddtrace": "no such version"})
    text = benchmarks.show(rows, markdown=False)
    assert "it does not serve" in text
    assert "not installed: no such version" in text
    assert benchmarks.show(rows, markdown=True).startswith("| work | with |")


def test_each_target_is_judged() -> None:
    lines = benchmarks.verdicts(SAMPLES)
    assert lines[0].startswith("holds : FastAPI request")
    assert lines[2].startswith("not measured: ")
    assert {target.lane for target in TARGETS} <= set(LANES)
    assert {target.peer for target in TARGETS} <= set(PEERS)


def test_a_ratio_is_lost_when_it_is_worse_by_more_than_a_third() -> None:
    assert benchmarks.lost({"requests": 0.13}, {"requests": 0.1}) == []
    assert benchmarks.lost({"requests": 0.14}, {"requests": 0.1}) == ["requests"]
    assert benchmarks.lost({}, {"requests": 0.1}) == ["requests"]


@pytest.mark.parametrize("peer", ["bare", "ours"])
def test_start_up_and_memory_are_measured(peer: str) -> None:
    python = Path(sys.executable)
    assert LANES["startup"].sample(PEERS[peer], python, 1)["wall_s"] > 0
    assert LANES["memory"].sample(PEERS[peer], python, 1)["pss_mb"] > 5
