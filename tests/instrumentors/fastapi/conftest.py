"""An instrumented process in miniature: providers in memory, requests in the same process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flx_otel_instrumentors.fastapi import FlxFastAPIInstrumentor

from flx_otel_distro.testing import Capture, capture


@pytest.fixture
def seen() -> Iterator[Capture]:
    """What is recorded, with the instrumentor active."""
    with capture() as found:
        FlxFastAPIInstrumentor().instrument()
        try:
            yield found
        finally:
            FlxFastAPIInstrumentor().uninstrument()


@pytest.fixture
def bare() -> Iterator[Capture]:
    """What is recorded, with the instrumentor not active."""
    with capture() as found:
        yield found
