"""From what the SDK collected to what a scraper reads, by upstream's translation and prometheus_client's encoders.

Imported at the first scrape: prometheus_client brings http.server and ssl with it, which a program may
want to run or to patch itself. Two faults of upstream's translation are mended here: two scopes that
record one metric with the same attributes are one series, not two that hide each other, and a label
that a series does not have is absent, not empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from opentelemetry.exporter.prometheus import _CustomCollector
from opentelemetry.sdk.metrics.export import MetricsData, Sum
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample

from flx_otel_distro.guard import fault, tell_once


def exposition(data: MetricsData | None, accept: str = "") -> tuple[bytes, str]:
    """Return the text for a scraper that accepts `accept`, and its content type.

    Metrics that the app keeps in prometheus_client's default registry follow ours; where a name is in
    both, ours stands. Never raises for what a label, a help text or an app's collector holds.
    """
    encode, content_type = _encoder(accept)
    ours = [] if data is None else merged(_translated(data), _additive(data))
    return _encoded(encode, list(_both(ours))), content_type


def _translated(data: MetricsData) -> list[Metric]:
    collector: Any = _CustomCollector(scope_info_enabled=False)
    collector.add_metrics_data(data)
    return list(collector.collect())


def _additive(data: MetricsData) -> frozenset[str]:
    """Return the names, as Prometheus spells them, of up-down counters: gauges there, but sums here."""
    return frozenset(
        re.sub(r"[^a-zA-Z0-9_:]", "_", metric.name)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if isinstance(metric.data, Sum)
    )


def merged(families: list[Metric], additive: frozenset[str] = frozenset()) -> list[Metric]:
    """Return each family once, and in it each series once.

    Counters, histograms and the families named in `additive` (without their unit) are summed over
    scopes; of a gauge the last stands. A family of the same name and another type is left out, told once.
    """
    found: dict[str, Metric] = {}
    for family in families:
        first = found.get(family.name)
        if first is None:
            found[family.name] = family
        elif first.type == family.type:
            first.samples = [*first.samples, *family.samples]
        else:
            tell_once(
                f"type:{family.name}",
                f"metric {family.name} is recorded as {first.type} and as {family.type}: "
                f"the {family.type} is not served",
            )
    for family in found.values():
        sums = family.type != "gauge" or any(
            family.name == name or family.name.startswith(f"{name}_") for name in additive
        )
        family.samples = _once_each(family.samples, sums)
    return list(found.values())


def _once_each(samples: list[Sample], sums: bool) -> list[Sample]:
    series: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
    for sample in samples:
        labels = {key: value for key, value in sample.labels.items() if value != ""}
        key = (sample.name, tuple(sorted(labels.items())))
        before = series.get(key)
        value = sample.value + before.value if before is not None and sums else sample.value
        series[key] = sample._replace(labels=labels, value=value)
    return list(series.values())


class _Families:
    """Families as an encoder asks a registry for them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


Encode = Callable[[_Families], bytes]


def _both(ours: list[Metric]) -> Iterator[Metric]:
    """Yield our families, then those of prometheus_client's default registry under names that are still free."""
    seen = {family.name for family in ours}
    yield from ours
    try:
        rest = list(REGISTRY.collect())
    except Exception as error:  # noqa: BLE001 - a collector of the app's may raise anything
        fault("collecting the app's own prometheus_client metrics", error)
        return
    yield from (family for family in rest if family.name not in seen)


def _encoder(accept: str) -> tuple[Encode, str]:
    """Return the encoder that `accept` asks for, the plain text's where it asks for what there is not."""
    try:
        encode, content_type = cast("tuple[Encode, str]", choose_encoder(accept))
        encode(_Families([]))
    except Exception:  # noqa: BLE001 - upstream raises whatever a client's version makes it raise
        return cast("tuple[Encode, str]", choose_encoder(""))
    return encode, content_type


def _encoded(encode: Encode, families: list[Metric]) -> bytes:
    """Return the exposition of the families, mended where text cannot be encoded, without those that cannot be."""
    try:
        return encode(_Families(families))
    except Exception:  # noqa: BLE001 - an app's collector may yield anything; the families that can be served are
        return encode(_Families([kept for each in families if (kept := _mended(encode, each)) is not None]))


def _mended(encode: Encode, family: Metric) -> Metric | None:
    try:
        try:
            encode(_Families([family]))
            return family
        except UnicodeEncodeError:
            mended = _escaped(family)
            encode(_Families([mended]))
            return mended
    except Exception as error:  # noqa: BLE001 - as above
        fault("rendering one of the metrics", error)
        return None


def _escaped(family: Metric) -> Metric:
    """Return a copy with lone surrogates written out as escapes, so that different values stay different series."""
    mended = Metric(family.name, _utf8(family.documentation), family.type)
    mended.unit = family.unit
    mended.samples = [
        each._replace(labels={_utf8(key): _utf8(value) for key, value in each.labels.items()}, exemplar=None)
        for each in family.samples
    ]
    return mended


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
