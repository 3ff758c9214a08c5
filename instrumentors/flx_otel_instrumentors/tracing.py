"""`@trace`: a span around a function, a coroutine, a generator or an async generator.

    @trace
    async def process_pipeline(pipeline_id: str): ...

    @trace(name="load", attributes={"operation.type": "etl"})
    def load(): ...

Speaks the OpenTelemetry API alone: without an SDK it costs a call and does nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, TypeVar, cast, overload

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, get_tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import guarded
from flx_otel_instrumentors.failures import error_type, failed, record

F = TypeVar("F", bound=Callable[..., Any])

_SCOPE = "flx_otel_instrumentors.tracing"


@overload
def trace(function: F, /) -> F: ...
@overload
def trace(
    name: str | None = None,
    /,
    *,
    attributes: Mapping[str, AttributeValue] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Callable[[F], F]: ...
@overload
def trace(
    *, name: str, attributes: Mapping[str, AttributeValue] | None = None, kind: SpanKind = SpanKind.INTERNAL
) -> Callable[[F], F]: ...
def trace(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> Any:
    """Run each call of the decorated function in a span of its own.

    Bare, or with a name and attributes. The span is named by the function's qualified name unless
    `name` is given, and carries `code.function.name`. An exception is recorded, sets the status ERROR
    with `error.type`, and passes on unchanged. A generator's span lasts from its first step to its end;
    its context is current while the generator runs and not while its caller does. Arguments and results
    are never recorded. Thread-safe and fork-safe. Raises TypeError where what is decorated is not callable.
    """
    if isinstance(function, str):
        name, function = function, None
    if function is None:
        return functools.partial(_decorate, name=name, attributes=attributes, kind=kind)
    return _decorate(function, name=name, attributes=attributes, kind=kind)


def _decorate(
    function: Any, *, name: str | None, attributes: Mapping[str, AttributeValue] | None, kind: SpanKind
) -> Any:
    if isinstance(function, staticmethod | classmethod):
        method = cast("staticmethod[..., Any]", function)
        return type(method)(_decorate(method.__func__, name=name, attributes=attributes, kind=kind))
    if not callable(function):
        raise TypeError(f"@trace decorates a function, not {type(function).__name__}")
    target = cast("Callable[..., Any]", function)
    qualified = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"
    given: dict[str, AttributeValue] = {"code.function.name": qualified, **(attributes or {})}
    carried = {key: scrubbed(value) if isinstance(value, str) else value for key, value in given.items()}
    spans = _Spans(scrubbed(name or qualified.removeprefix("__main__.")), carried, kind)
    if inspect.isasyncgenfunction(target):
        return _async_generator(target, spans)
    if inspect.iscoroutinefunction(target):
        return _coroutine(target, spans)
    if inspect.isgeneratorfunction(target):
        return _generator(target, spans)
    return _function(target, spans)


class _Spans:
    """Starts and ends the spans of one decorated function."""

    def __init__(self, name: str, attributes: Mapping[str, AttributeValue], kind: SpanKind) -> None:
        self._name = name
        self._attributes = attributes
        self._kind = kind

    def start(self) -> tuple[Span, Context]:
        span = get_tracer(_SCOPE).start_span(self._name, kind=self._kind, attributes=self._attributes)
        return span, set_span_in_context(span)

    def fail(self, span: Span, error: BaseException) -> None:
        if isinstance(error, GeneratorExit) or not span.is_recording():
            return
        with guarded("recording an exception on a span"):
            record(span, error)
            span.set_attribute("error.type", error_type(error))
            span.set_status(failed(f"{type(error).__name__}: {error}"))


def _function(target: Callable[..., Any], spans: _Spans) -> Callable[..., Any]:
    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        span, context = spans.start()
        token = context_api.attach(context)
        try:
            return target(*args, **kwargs)
        except BaseException as error:
            spans.fail(span, error)
            raise
        finally:
            context_api.detach(token)
            span.end()

    return call


def _coroutine(target: Callable[..., Any], spans: _Spans) -> Callable[..., Any]:
    @functools.wraps(target)
    async def call(*args: Any, **kwargs: Any) -> Any:
        span, context = spans.start()
        token = context_api.attach(context)
        try:
            return await target(*args, **kwargs)
        except BaseException as error:
            spans.fail(span, error)
            raise
        finally:
            context_api.detach(token)
            span.end()

    return call


def _generator(target: Callable[..., Any], spans: _Spans) -> Callable[..., Any]:
    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        span, context = spans.start()
        steps = cast("Generator[Any, Any, Any]", target(*args, **kwargs))
        step: Callable[[], Any] = functools.partial(next, steps)
        try:
            while True:
                token = context_api.attach(context)
                try:
                    item = step()
                except StopIteration as stop:
                    return stop.value
                except BaseException as error:
                    spans.fail(span, error)
                    raise
                finally:
                    context_api.detach(token)
                try:
                    step = functools.partial(steps.send, (yield item))
                except GeneratorExit:
                    token = context_api.attach(context)
                    try:
                        steps.close()
                    finally:
                        context_api.detach(token)
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on to the generator
                    step = functools.partial(steps.throw, error)
        finally:
            span.end()

    return call


def _async_generator(target: Callable[..., Any], spans: _Spans) -> Callable[..., Any]:
    @functools.wraps(target)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        span, context = spans.start()
        steps = cast("AsyncGenerator[Any, Any]", target(*args, **kwargs))
        step: Callable[[], Any] = functools.partial(anext, steps)
        try:
            while True:
                token = context_api.attach(context)
                try:
                    item = await step()
                except StopAsyncIteration:
                    return
                except BaseException as error:
                    spans.fail(span, error)
                    raise
                finally:
                    context_api.detach(token)
                try:
                    step = functools.partial(steps.asend, (yield item))
                except GeneratorExit:
                    token = context_api.attach(context)
                    try:
                        await steps.aclose()
                    finally:
                        context_api.detach(token)
                    raise
                except BaseException as error:  # noqa: BLE001 - handed on to the generator
                    step = functools.partial(steps.athrow, error)
        finally:
            span.end()

    return call
