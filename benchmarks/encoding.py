"""What it costs to encode a typical server span for OTLP: upstream's encoder and ours, in batches of 512.

python -m benchmarks.encoding [--json results.json] [--rounds 41]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_upstream
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from flx_otel_distro.otlp.span_encoding import encode_spans

BATCH = 512
ROUNDS = 41


class _Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def spans() -> list[ReadableSpan]:
    """Return a batch of spans as a FastAPI app makes them; path and port differ in each."""
    provider = TracerProvider(resource=Resource.create({"service.name": "orders"}), shutdown_on_exit=False)
    kept = _Kept()
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("app", "1.0")
    for index in range(BATCH):
        attributes: dict[str, str | int] = {
            "http.request.method": "GET",
            "url.scheme": "http",
            "url.path": f"/items/{index}",
            "client.address": "127.0.0.1",
            "network.peer.address": "127.0.0.1",
            "network.peer.port": 30000 + index,
            "server.address": "127.0.0.1",
            "server.port": 8000,
            "user_agent.original": "wrk/4.2.0",
            "network.protocol.version": "1.1",
            "http.route": "/items/{number}",
            "http.response.status_code": 200,
        }
        tracer.start_span("GET /items/{number}", kind=SpanKind.SERVER, attributes=attributes).end()
    return kept.spans


def measure(rounds: int = ROUNDS) -> tuple[float, float]:
    """Return the nanoseconds of CPU a span, upstream's and ours, medians of interleaved rounds."""
    batch = spans()
    found: tuple[list[int], list[int]] = ([], [])
    for _ in range(rounds):
        for encode, times in (
            (lambda: encode_upstream(batch).SerializeToString(), found[0]),
            (lambda: encode_spans(batch), found[1]),
        ):
            started = time.thread_time_ns()
            encode()
            times.append(time.thread_time_ns() - started)
    upstream, ours = (sorted(times)[rounds // 2] / BATCH for times in found)
    return upstream, ours


def main(arguments: list[str] | None = None) -> None:
    """Measure, print both figures and the ratio, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description="What encoding a span costs.")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args(arguments)
    upstream, ours = measure(given.rounds)
    told = f"upstream {upstream:.0f} ns, ours {ours:.0f} ns, {ours / upstream:.3f} of it"
    sys.stdout.write(f"OTLP encoding of a server span: {told}\n")
    if given.json:
        given.json.write_text(json.dumps({"upstream": upstream, "ours": ours}) + "\n")


if __name__ == "__main__":
    main()
