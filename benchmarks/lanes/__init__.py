"""What is measured: the lanes by name, in the order in which they are run."""

from __future__ import annotations

from benchmarks.lanes import grpc, instructions, memory, micro, promises, requests, startup
from benchmarks.samples import Lane

LANES: dict[str, Lane] = {
    each.name: each
    for each in (
        *micro.LANES,
        *requests.LANES,
        *grpc.LANES,
        *startup.LANES,
        *memory.LANES,
        *promises.LANES,
        *instructions.LANES,
    )
}
GROUPS = tuple(dict.fromkeys(each.group for each in LANES.values()))
