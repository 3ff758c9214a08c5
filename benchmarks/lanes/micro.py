"""Single calls, timed inside one process of our environment: recordings of metrics, encoding of spans."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.samples import Case, Joint, Lane, Sample, Surroundings
from benchmarks.servers import HERE, SERVER_CORE, begin, environment

_ROUNDS = 11


def _told(script: str, around: Surroundings) -> Any:
    """Return the JSON that one of our scripts writes. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        python = around.pythons["ours"]
        command = [str(python), str(HERE / script), "--json", str(out), "--rounds", str(_ROUNDS)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment(python),
            cwd=folder,
            preexec_fn=lambda: begin(SERVER_CORE),
        )
        if done.returncode:
            raise RuntimeError(f"{script} failed: {done.stderr.strip()[-300:]}")
        return json.loads(out.read_text())


def _recording(kind: str, size: int, sampled: bool) -> Joint:
    def measure(around: Surroundings, cases: Sequence[Case], seconds: float) -> Mapping[str, Sample]:
        key = (os.getpid(), str(around.pythons["ours"]))
        # One run of the script has all rows: the lanes of one round share it.
        if _fresh.get("key") != key or (kind, size, sampled) in _taken:
            _fresh.update(key=key, rows=_told("recording.py", around)["rows"])
            _taken.clear()
        _taken.add((kind, size, sampled))
        for row in _fresh["rows"]:
            if (row["instrument"], row["attributes"], row["sampled"]) == (kind, size, sampled):
                return {case.name: Sample({"ns": float(row[case.title])}) for case in cases}
        raise RuntimeError(f"no row of {kind} with {size} attributes")

    return measure


_fresh: dict[str, Any] = {}
_taken: set[tuple[str, int, bool]] = set()


def _encoding(around: Surroundings, cases: Sequence[Case], seconds: float) -> Mapping[str, Sample]:
    told: dict[str, float] = _told("encoding.py", around)
    return {case.name: Sample({"ns": told[case.name]}) for case in cases}


_COLUMNS = (
    Case("stock", "ours", "stock"),
    Case("ours", "ours", "ours"),
    Case("bound", "ours", "ours bound"),
    Case("labels", "ours", "prometheus labels"),
    Case("child", "ours", "prometheus child"),
)


def _lane(kind: str, sampled: bool) -> Lane:
    name = f"recording-{kind}{'-sampled' if sampled else ''}"
    title = f"{kind}, 5 attributes{', in a sampled span' if sampled else ''}"
    joint = _recording(kind, 5, sampled)
    return Lane(name, "recording", title, "ns", "ns", _COLUMNS, joint=joint, baseline="", reference="stock")


LANES = (
    *(_lane(kind, sampled) for kind in ("counter", "histogram") for sampled in (False, True)),
    Lane(
        "encoding",
        "encoding",
        "a server span to OTLP, batches of 512",
        "ns",
        "ns",
        (Case("ours", "ours", "ours"), Case("upstream", "ours", "upstream encode_spans")),
        joint=_encoding,
        baseline="",
    ),
)
