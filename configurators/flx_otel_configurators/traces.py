"""The tracer provider: sampler, limits and where finished spans go."""

from __future__ import annotations

import sys
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import set_tracer_provider

from flx_otel_configurators.components import built, load
from flx_otel_distro import environment as env
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import guarded
from flx_otel_distro.ids import FlxIdGenerator
from flx_otel_distro.otlp.exporters import FlxSpanExporter, FlxSpanProcessor
from flx_otel_distro.otlp.target import EXPORTERS, target


def configure_traces(resource: Resource) -> tuple[TracerProvider, list[SpanProcessor]]:
    """Set the global tracer provider; return it and its processors. A processor that fails is left out."""
    provider = TracerProvider(
        sampler=build_sampler(), resource=resource, shutdown_on_exit=False, id_generator=_id_generator()
    )
    processors = built(env.TRACES_EXPORTER, "traces", _processor)
    for processor in processors:
        provider.add_span_processor(processor)
    set_tracer_provider(provider)
    return provider, processors


def _processor(name: str) -> SpanProcessor | None:
    if name in EXPORTERS:
        return FlxSpanProcessor(FlxSpanExporter(target("traces", spoken=EXPORTERS[name])))
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

        return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr))  # stdout is the app's
    exporter: Any = load(env.TRACES_EXPORTER, name, "opentelemetry_traces_exporter", ("otlp", "console", "none"))
    if exporter is None:
        return None
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(exporter())


def build_sampler() -> Sampler:
    """Return the sampler of `OTEL_TRACES_SAMPLER`; parentbased_always_on where it names none we can have."""
    name = env.TRACES_SAMPLER.read()
    parent_based = name.startswith("parentbased_")
    root: Sampler | None = None
    match name.removeprefix("parentbased_"):
        case "always_on":
            root = ALWAYS_ON
        case "always_off":
            root = ALWAYS_OFF
        case "traceidratio":
            root = TraceIdRatioBased(_ratio())
        case _:
            factory: Any = load(
                env.TRACES_SAMPLER,
                name,
                "opentelemetry_traces_sampler",
                tuple(f"{prefix}{each}" for prefix in ("", "parentbased_") for each in _SAMPLERS),
                "using the default, parentbased_always_on",
            )
            with guarded(f"sampler {name}", "Using parentbased_always_on"):
                if factory is not None and isinstance(made := factory(env.TRACES_SAMPLER_ARG.read() or None), Sampler):
                    return made
            return ParentBased(ALWAYS_ON)
    return ParentBased(root) if parent_based else root


_SAMPLERS = ("always_on", "always_off", "traceidratio")


def _ratio() -> float:
    text = env.TRACES_SAMPLER_ARG.read()
    if not text:
        return 1.0
    try:
        ratio = float(text)
        if 0 <= ratio <= 1:
            return ratio
    except ValueError:
        pass
    env.report(ConfigurationError("OTEL_TRACES_SAMPLER_ARG", text, "a number from 0 to 1", "using the default, 1"))
    return 1.0


def _id_generator() -> IdGenerator:
    name = env.ID_GENERATOR.read()
    if name == "random":
        return FlxIdGenerator()
    made: Any = load(env.ID_GENERATOR, name, "opentelemetry_id_generator", ("random",), "using the default, random")
    return FlxIdGenerator() if made is None else made()
