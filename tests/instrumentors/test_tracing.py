"""The `@trace` decorator, for every kind of function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import pytest
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from flx_observability.tracing import trace
from flx_otel_distro.testing import Capture, capture


@pytest.fixture
def seen() -> Iterator[Capture]:
    with capture() as capturing:
        yield capturing


def current() -> int:
    return api.get_current_span().get_span_context().span_id


def only(seen: Capture) -> ReadableSpan:
    (span,) = seen.spans()
    return span


@trace
def plain(number: int, *, factor: int = 2) -> int:
    """Multiply."""
    return number * factor


def test_a_function_keeps_what_it_is_and_returns(seen: Capture) -> None:
    assert plain(3, factor=5) == 15
    assert (plain.__name__, plain.__doc__, str(inspect.signature(plain))) == (
        "plain", "Multiply.", "(number: 'int', *, factor: 'int' = 2) -> 'int'",
    )  # fmt: skip
    span = only(seen)
    assert span.name.endswith("test_tracing.plain")
    assert span.kind is SpanKind.INTERNAL and span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {"code.function.name": span.name}


@pytest.mark.parametrize(
    "decorator",
    [trace("load", attributes={"operation.type": "etl"}), trace(name="load", attributes={"operation.type": "etl"})],
)
def test_a_name_and_attributes(decorator: object, seen: Capture) -> None:
    assert callable(decorator)
    decorator(lambda: None)()
    span = only(seen)
    assert span.name == "load"
    assert dict(span.attributes or {})["operation.type"] == "etl"


async def test_a_coroutine_has_its_span_current_and_tasks_do_not_mix(seen: Capture) -> None:
    @trace("work")
    async def work(number: int) -> tuple[int, int]:
        before = current()
        await asyncio.sleep(0)
        return before, current()

    assert inspect.iscoroutinefunction(work)
    pairs = await asyncio.gather(*(work(n) for n in range(20)))
    assert all(before == after != 0 for before, after in pairs)
    assert len({before for before, _ in pairs}) == 20
    assert current() == 0
    assert all(span.parent is None for span in seen.spans())


def test_nested_calls_are_parent_and_child(seen: Capture) -> None:
    @trace("outer")
    def outer() -> int:
        return plain(1)

    outer()
    inner, around = seen.spans()
    assert inner.parent is not None and around.context is not None
    assert inner.parent.span_id == around.context.span_id


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", ["function", "coroutine", "generator", "async generator"])
def test_an_exception_is_recorded_and_passes_unchanged(kind: str, seen: Capture) -> None:
    error = Broken("no")

    @trace("f")
    def function() -> None:
        raise error

    @trace("f")
    async def coroutine() -> None:
        raise error

    @trace("f")
    def generator() -> Iterator[int]:
        yield 1
        raise error

    @trace("f")
    async def async_generator() -> AsyncIterator[int]:
        yield 1
        raise error

    async def drain() -> None:
        async for _ in async_generator():
            pass

    runs = {
        "function": function,
        "coroutine": lambda: asyncio.run(coroutine()),
        "generator": lambda: list(generator()),
        "async generator": lambda: asyncio.run(drain()),
    }
    with pytest.raises(Broken) as caught:
        runs[kind]()
    assert caught.value is error
    span = only(seen)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "Broken: no")
    assert dict(span.attributes or {})["error.type"] == f"{__name__}.Broken"
    assert [event.name for event in span.events] == ["exception"]


def test_a_generator_sends_throws_returns_and_is_current_only_inside(seen: Capture) -> None:
    inside: list[int] = []

    @trace("steps")
    def steps() -> Generator[str, str, str]:
        inside.append(current())
        try:
            got = yield "first"
            inside.append(current())
            yield got
        except Broken:
            inside.append(current())
            yield "mended"
        return "end"

    running = steps()
    assert seen.spans() == []
    assert next(running) == "first"
    assert current() == 0
    assert running.send("echo") == "echo"
    assert running.throw(Broken()) == "mended"
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "end"
    span = only(seen)
    assert span.context is not None and set(inside) == {span.context.span_id}
    assert span.status.status_code is StatusCode.UNSET


def test_an_abandoned_generator_ends_its_span_and_runs_its_cleanup(seen: Capture) -> None:
    cleaned: list[int] = []

    @trace("steps")
    def steps() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(current())

    running = steps()
    next(running)
    running.close()
    span = only(seen)
    assert span.context is not None and cleaned == [span.context.span_id]
    assert span.status.status_code is StatusCode.UNSET


async def test_an_async_generator_sends_throws_closes(seen: Capture) -> None:
    cleaned: list[int] = []

    @trace("steps")
    async def steps() -> AsyncGenerator[str, str]:
        try:
            got = yield "first"
            await asyncio.sleep(0)
            try:
                yield got
            except Broken:
                yield "mended"
        finally:
            cleaned.append(current())

    running = steps()
    assert await anext(running) == "first"
    assert current() == 0
    assert await running.asend("echo") == "echo"
    assert await running.athrow(Broken()) == "mended"
    await running.aclose()
    span = only(seen)
    assert span.context is not None and cleaned == [span.context.span_id]


def test_methods_of_every_kind(seen: Capture) -> None:
    class Pipeline:
        @trace
        def run(self) -> str:
            return "run"

        @trace
        @staticmethod
        def static() -> str:
            return "static"

        @trace
        @classmethod
        def made(cls) -> str:
            return cls.__name__

    assert (Pipeline().run(), Pipeline.static(), Pipeline.made()) == ("run", "static", "Pipeline")
    assert len(seen.spans()) == 3


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        trace(3)  # pyright: ignore[reportArgumentType, reportCallIssue]


def encoded(seen: Capture) -> bytes:
    """Return the spans as they would be sent; raises where one cannot be."""
    return encode_spans(seen.spans()).SerializeToString()


def test_texts_that_utf_8_cannot_carry_do_not_spoil_the_batch(seen: Capture) -> None:
    @trace("load \ud800", attributes={"tenant": "a\udfff"})
    def load() -> None:
        raise ValueError("no \ud800 here")

    with pytest.raises(ValueError, match="no \ud800 here"):
        load()
    encoded(seen)
    span = only(seen)
    (event,) = span.events
    found = dict(event.attributes or {})
    assert (span.name, (span.attributes or {})["tenant"]) == (
        "load \N{REPLACEMENT CHARACTER}",
        "a\N{REPLACEMENT CHARACTER}",
    )
    assert span.status.description == "ValueError: no \N{REPLACEMENT CHARACTER} here"
    assert (event.name, found["exception.type"], found["exception.message"]) == (
        "exception",
        "ValueError",
        "no \N{REPLACEMENT CHARACTER} here",
    )
    assert str(found["exception.stacktrace"]).endswith("ValueError: no \N{REPLACEMENT CHARACTER} here\n")
    assert found["exception.escaped"] == "False"


def test_the_text_of_an_exception_is_bounded(seen: Capture) -> None:
    @trace("load")
    def load() -> None:
        raise ValueError("x" * 1_000_000)

    with pytest.raises(ValueError, match="x"):
        load()
    span = only(seen)
    found = dict(span.events[0].attributes or {})
    assert len(span.status.description or "") == 1024
    assert len(str(found["exception.message"])) == 8192
    assert len(str(found["exception.stacktrace"])) <= 65_536
