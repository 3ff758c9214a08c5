"""What the benchmarks say of their samples: medians, ratios, targets, promises, what is lost, JSON."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import samples as drawn
from benchmarks import table, verdicts
from benchmarks.lanes import GROUPS, LANES
from benchmarks.programs import sink
from benchmarks.running import Effort, Run, Runner
from benchmarks.samples import Case, Lane, Sample, Samples, Surroundings, Window
from benchmarks.targets import PROMISES, QUICK, TARGETS
from benchmarks.venvs import PEERS


def taken(*figures: float, name: str = "cpu_us") -> list[Sample]:
    return [Sample({name: each}) for each in figures]


def requests(ours: float = 10.0) -> Samples:
    return {
        "requests": {
            "bare": taken(80.0, 100.0, 300.0),
            "ours": taken(80.0 + ours, 100.0 + ours, 300.0 + ours),
            "upstream": taken(280.0, 300.0, 500.0),
            "edot": [],
        }
    }


def test_an_addition_is_the_median_difference_to_the_neighbouring_sample() -> None:
    by_case = {"bare": taken(80.0, 100.0, 300.0), "ours": taken(90.0, 500.0, 311.0)}
    assert drawn.added(LANES["requests"], by_case, "ours") == 11.0
    assert drawn.added(LANES["requests"], {**by_case, "ours": taken(104.0)}, "ours") == 4.0
    assert drawn.added(LANES["requests"], {"bare": []}, "ours") is None


def test_ratios_are_additions_divided_by_the_references() -> None:
    assert verdicts.ratios(requests(), LANES) == {"requests": 0.05}
    encoding = {"encoding": {"ours": taken(3.0, name="ns"), "upstream": taken(30.0, name="ns")}}
    assert verdicts.ratios(encoding, LANES) == {"encoding": 0.1}


def test_a_reference_that_adds_nothing_makes_no_ratio() -> None:
    by_case = {"bare": taken(80.0), "ours": taken(90.0), "upstream": taken(79.0)}
    assert drawn.ratio(LANES["requests"], by_case, "ours", "upstream") is None


def test_the_table_says_who_could_not_be_measured_and_why() -> None:
    rows = table.rows(requests(), {"requests:edot": "it does not\nserve", "ddtrace": "no such version"}, LANES)
    title = "FastAPI request, metrics on, traces at 1 %"
    assert rows == [
        table.HEAD,
        (title, "no instrumentation", "100 µs CPU", "", "", "", ""),
        (title, "flx-instrument", "110 µs CPU", "+10.0", "0.0500", "", ""),
        (title, "opentelemetry-instrument", "300 µs CPU", "+200", "", "", ""),
        (title, "Elastic EDOT", "not measured: it does not serve", "", "", "", ""),
        ("", "ddtrace", "not installed: no such version", "", "", "", ""),
    ]
    assert "it does not serve" in table.show(rows, markdown=False)
    assert table.show(rows, markdown=True).splitlines()[1] == "| --- | --- | --- | --- | --- | --- | --- |"


@pytest.mark.parametrize(("value", "text"), [(0.05, "0.0500"), (1234.5, "1234"), (0.0, "0"), (-3.14159, "-3.14")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert table.number(value) == text


def test_each_target_of_a_measured_lane_is_judged() -> None:
    lane = "FastAPI request, metrics on, traces at 1 %: flx-instrument against"
    assert verdicts.judged(requests(), LANES) == [
        f"holds        {lane} opentelemetry-instrument: 10.0 of 200 µs CPU: 0.0500, wanted 0.0833",
        f"not measured: {lane} prometheus-fastapi-instrumentator",
    ]
    assert verdicts.judged(requests(25.0), LANES)[0] == (
        f"MISSED       {lane} opentelemetry-instrument: 25.0 of 200 µs CPU: 0.125, wanted 0.0833, 1.50 times that"
    )


def test_targets_and_promises_name_what_there_is() -> None:
    for target in TARGETS:
        assert {target.case, target.against} <= {case.name for case in LANES[target.lane].cases}
    for promise in PROMISES:
        assert {promise.case, "bare"} <= {case.name for case in LANES[promise.lane].cases}
    assert set(QUICK) <= set(LANES)
    assert {case.peer for lane in LANES.values() for case in lane.cases} == set(PEERS)
    assert {
        "recording",
        "encoding",
        "requests",
        "grpc",
        "startup",
        "memory",
        "latency",
        "promises",
        "instructions",
    } == set(GROUPS)


def test_a_ratio_is_lost_when_it_is_worse_by_more_than_a_third() -> None:
    assert verdicts.lost(requests(13.0), {"requests": 0.05}, LANES) == {}
    assert list(verdicts.lost(requests(14.0), {"requests": 0.05}, LANES)) == ["requests"]
    assert list(verdicts.lost({}, {"requests": 0.05}, LANES)) == ["requests"]


def test_chance_alone_loses_nothing() -> None:
    noisy: Samples = {
        "requests": {
            "bare": taken(100.0, 100.0, 100.0, 100.0, 100.0),
            "ours": taken(102.0, 190.0, 116.0, 103.0, 120.0),
            "upstream": taken(300.0, 300.0, 300.0, 300.0, 300.0),
        }
    }
    assert verdicts.ratios(noisy, LANES) == {"requests": 0.08}
    assert verdicts.lost(noisy, {"requests": 0.05}, LANES) == {}


def service(cpu: float, latencies: list[int]) -> list[Sample]:
    return [Sample({"cpu_us": cpu}, latencies)] * 3


def test_promises_are_said_to_hold_or_not() -> None:
    found = verdicts.promised(
        {
            "promises": {
                "bare": service(1000.0, [100] * 98 + [200] * 2),
                "metrics": service(1005.0, []),
                "ours": service(1010.0, [101] * 98 + [300] * 2),
            },
            "promises-memory": {
                "bare": [Sample({"peak_mb": 50.0, "failed": 0.0})],
                "ours": [Sample({"peak_mb": 90.5, "failed": 0.0})],
                "ours-limited": [Sample({"survived": 0.0, "failed": 3.0, "group_mb": 150.0})],
            },
        }
    )
    assert [line.split()[0] for line in found] == ["holds", "holds", "MISSED", "holds", "MISSED"]
    assert "+0.50%" in found[0]
    assert "+1.00%" in found[1]
    assert "+50.00%" in found[2]
    assert "+40.5 MB to 50.0 MB" in found[3]


def test_the_json_has_raw_samples() -> None:
    run = Run({"promises": {"bare": [Sample({"cpu_us": 1.0}, [7, 8])]}}, {"edot": "why"}, {"bare": {"fastapi": "1"}})
    told = json.loads(benchmarks.written(run, Effort(1, 2, 3.0, 0.5), {"cores": 2}))
    assert told == {
        "machine": {"cores": 2},
        "versions": {"bare": {"fastapi": "1"}},
        "effort": {"rounds": 1, "windows": 2, "seconds": 3.0, "settle": 0.5},
        "absent": {"edot": "why"},
        "ratios": {},
        "samples": {"promises": {"bare": [{"cpu_us": 1.0, "raw_us": [7, 8]}]}},
    }


def test_names_choose_lanes_and_groups() -> None:
    assert [lane.name for lane in benchmarks.chosen(["grpc-aio", "startup"], False)] == [
        "grpc-aio",
        "startup",
        "startup-app",
    ]
    assert benchmarks.chosen([], False) == list(LANES.values())
    assert {lane.name for lane in benchmarks.chosen([], True)} == set(QUICK)


def test_an_unknown_lane_or_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nonsense"], ["--peers", "bare,nobody"]):
        with pytest.raises(SystemExit):
            benchmarks.parsed(arguments)
    assert "no peer is called 'nobody'" in capsys.readouterr().err


class Here(Runner):
    """Measures with this interpreter instead of environments of the peers."""

    def _python(self, peer: str, service: bool, run: Run) -> Path | None:
        return Path(sys.executable)


def test_rounds_are_interleaved_and_a_case_that_fails_is_left_out() -> None:
    order: list[str] = []

    def opening(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        order.append(f"start {case.name}")
        stack.callback(order.append, f"end {case.name}")

        def window(seconds: float) -> Sample:
            if case.name == "ours" and order[-1] == "bare":
                raise RuntimeError("it fell over")
            order.append(case.name)
            return Sample({"cpu_us": seconds})

        return window

    cases = tuple(Case(name, name, name) for name in ("bare", "ours", "upstream"))
    lane = Lane("work", "work", "work", "µs", "cpu_us", cases, opening)
    run = Run()
    Here(["bare", "ours"], Path(), say=lambda text: None).measure([lane], Effort(2, 2, 1.5, 0.0), run)
    assert order == [
        *("start bare", "start ours", "bare", "bare", "end ours", "end bare"),
        *("start bare", "bare", "bare", "end bare"),
    ]
    assert run.samples == {"work": {"bare": [Sample({"cpu_us": 1.5})] * 4, "ours": []}}
    assert run.absent == {"work:ours": "it fell over"}


def test_what_comes_out_alike_each_time_is_measured_in_the_first_round_alone() -> None:
    def opening(case: Case, around: Surroundings, stack: ExitStack) -> Window:
        return lambda seconds: Sample({"kilo": seconds})

    lane = Lane("work", "work", "work", "thousand", "kilo", (Case("bare", "bare", "bare"),), opening, once=True)
    run = Run()
    Here(["bare"], Path(), say=lambda text: None).measure([lane], Effort(3, 2, 1.5, 0.0), run)
    assert run.samples == {"work": {"bare": [Sample({"kilo": 1.5})] * 2}}


@pytest.mark.parametrize("peer", ["bare", "ours"])
def test_start_up_and_memory_are_measured(peer: str) -> None:
    python = Path(sys.executable)
    around = Surroundings({peer: python}, python, 0.1)
    for name, figure in (("startup", "wall_s"), ("memory", "pss_mb")):
        opening = LANES[name].opening
        assert opening is not None
        with ExitStack() as stack:
            assert opening(Case(peer, peer, peer), around, stack)(1).figures[figure] > 0


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs Debian's package valgrind")
def test_instructions_are_counted() -> None:
    python = Path(sys.executable)
    opening = LANES["instructions-requests"].opening
    assert opening is not None
    with ExitStack() as stack:
        window = opening(Case("bare", "bare", "bare"), Surroundings({"bare": python}, python, 0.1), stack)
        few, more = window(0.1).figures, window(0.2).figures
    assert (few["requests"], more["requests"]) == (40, 80)
    assert 100 < more["kilo"] < 10_000


def test_the_sink_counts_spans() -> None:
    def field(number: int, body: bytes) -> bytes:
        return bytes([number << 3 | 2, len(body)]) + body

    span = field(5, b"a name") + b"\x30\x03" + b"\x39" + bytes(8)
    scope = field(1, field(1, b"scope")) + field(2, span) + field(2, span)
    resource = field(1, b"") + field(2, scope) + field(2, field(2, span))
    assert sink.spans_in(field(1, resource) + field(1, resource)) == 6
    assert sink.spans_in(b"") == 0
