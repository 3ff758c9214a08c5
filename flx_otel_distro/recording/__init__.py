"""The fast way into the SDK's own aggregations.

A recording in the SDK builds a measurement, cleans and hashes its attributes, and asks each reader and
each view where it belongs; then one addition under one lock is all that happens. What that search finds
for a set of attributes stays true, so here it is kept: an instrument remembers, for each set of scalar
attributes it has seen, the aggregations they lead to, and the next recording goes straight there.

Nothing is stored elsewhere: views, readers, cardinality limits, exemplars and collection are the SDK's.
Whatever is not known to be the same takes the SDK's own way: other attribute types, delta readers,
overflow, custom filters and reservoirs, wrong amounts.

    install(provider)                    # every instrument of every library, until uninstall()
    requests = bind(counter, {"route": "/"})
    requests.add(1)                      # shorter still: the search is done once
"""

from flx_otel_distro.recording.bound import (
    BoundCounter,
    BoundGauge,
    BoundHistogram,
    BoundHistograms,
    BoundUpDownCounter,
    bind,
)
from flx_otel_distro.recording.installation import install, installed, uninstall
from flx_otel_distro.recording.routes import forget

__all__ = [
    "BoundCounter",
    "BoundGauge",
    "BoundHistogram",
    "BoundHistograms",
    "BoundUpDownCounter",
    "bind",
    "forget",
    "install",
    "installed",
    "uninstall",
]
