"""Ids neither follow the app's seed nor disturb it, and differ in a forked child."""

from __future__ import annotations

import os
import random
import sys

from flx_otel_distro.ids import FlxIdGenerator
from tests.support.process import Program

SEEDED = """
import random
from opentelemetry import trace
random.seed(1)
with trace.get_tracer("app").start_as_current_span("a") as span:
    context = span.get_span_context()
print(context.is_valid, context.trace_id, context.span_id)
print(random.random())
"""


def test_ids_are_in_range_and_differ() -> None:
    ids = FlxIdGenerator()
    traces = {ids.generate_trace_id() for _ in range(1000)}
    spans = {ids.generate_span_id() for _ in range(1000)}
    assert len(traces) == len(spans) == 1000
    assert all(0 < each < 2**128 for each in traces)
    assert all(0 < each < 2**64 for each in spans)
    assert ids.is_trace_id_random()


def test_a_seed_of_the_app_is_neither_followed_nor_disturbed() -> None:
    seen: list[list[str]] = []
    for _ in range(2):
        with Program(sys.executable, "-c", SEEDED) as program:
            assert program.finish() == 0, program.stderr
        seen.append(program.stdout.splitlines())
    assert [each[0].split()[0] for each in seen] == ["True", "True"]
    assert seen[0][0] != seen[1][0]
    random_of_the_app = random.Random(1).random()
    assert [float(each[1]) for each in seen] == [random_of_the_app] * 2


def test_a_forked_child_makes_ids_of_its_own() -> None:
    ids = FlxIdGenerator()
    children: list[str] = []
    for _ in range(2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, f"{ids.generate_trace_id()}".encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            children.append(pipe.read())
        os.waitpid(child, 0)
    assert len({*children, str(ids.generate_trace_id())}) == 3
