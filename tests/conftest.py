"""Fixtures of all tests: faults that production swallows fail a test here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from flx_otel_distro import guard
from tests.support.collector import Collector

settings.register_profile("flx", deadline=None)  # a shared machine is slow at times
settings.load_profile("flx")


@pytest.fixture(autouse=True)
def faults_fail_tests() -> Iterator[list[tuple[str, BaseException]]]:
    """Fail the test in whose process our own code failed; a test that provokes a fault clears the list."""
    seen: list[tuple[str, BaseException]] = []
    before = guard.on_fault
    guard.on_fault = lambda place, error: seen.append((place, error))
    yield seen
    guard.on_fault = before
    if seen:
        place, error = seen[0]
        raise AssertionError(f"our own code failed at {place!r}") from error


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """One real collector for the session; tests tell their spans apart by service name or span name."""
    with Collector() as running:
        yield running
