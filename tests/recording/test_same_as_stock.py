"""Whatever an app does, the fast way leaves the data points, exceptions and log lines that the SDK leaves."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from flx_otel_distro import recording
from flx_otel_distro.recording import shape
from tests.recording.player import Player
from tests.recording.scenarios import AGGREGATIONS, scenarios, thorough

pytestmark = pytest.mark.skipif(shape.mismatch() is not None, reason="the fast way stays away from this SDK")
EXAMPLES = int(os.environ.get("FLX_TEST_EXAMPLES", "300"))


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios)
def test_any_sequence_is_recorded_as_the_sdk_records_it(scenario: dict[str, Any]) -> None:
    assert_same(scenario)


@pytest.mark.parametrize("context", [0, 4], ids=["unsampled", "sampled"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda each: type(each).__name__)
def test_every_amount_is_recorded_as_the_sdk_records_it(aggregation: Any, context: int) -> None:
    assert_same(thorough(aggregation, context))


def assert_same(scenario: dict[str, Any]) -> None:
    """Play the scenario both ways and compare all that was seen."""
    was = recording.installed()
    recording.uninstall()
    stock = Player(scenario).play()
    assert recording.install(environ={})
    try:
        fast = Player(scenario).play()
    finally:
        if not was:
            recording.uninstall()
    assert fast == stock
