"""The fast way, put in for one test and taken away again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flx_otel_distro import recording
from flx_otel_distro.recording import shape


@pytest.fixture
def fast() -> Iterator[None]:
    """Record the fast way for the length of the test."""
    why = shape.mismatch()
    if why:
        pytest.skip(why)
    was = recording.installed()
    assert recording.install(environ={})
    yield
    if not was:
        recording.uninstall()
