"""Both sides instrumented, with the data in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flx_otel_instrumentors.grpc import FlxGrpcClientInstrumentor, FlxGrpcServerInstrumentor

from flx_otel_distro.testing import Capture, capture


@pytest.fixture
def seen() -> Iterator[Capture]:
    """In-memory providers behind the global API, without any instrumentation."""
    with capture() as captured:
        yield captured


@pytest.fixture
def instrumented(seen: Capture) -> Iterator[Capture]:
    """The same with servers and channels instrumented as zero code does."""
    instrumentors = (FlxGrpcServerInstrumentor(), FlxGrpcClientInstrumentor())
    for each in instrumentors:
        each.instrument()
    yield seen
    for each in instrumentors:
        each.uninstrument()
