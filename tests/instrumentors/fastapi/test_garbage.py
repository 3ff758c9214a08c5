"""A request leaves nothing to the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from fastapi import FastAPI

from flx_otel_distro.testing import Capture


class Cycle:
    """A server's request and response, as uvicorn's: it keeps the scope, and its methods receive and send."""

    def __init__(self, path: str) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.status = 0

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


@pytest.mark.parametrize("path", ["/items/5", "/absent"])
def test_a_request_is_gone_with_its_last_reference(seen: Capture, path: str) -> None:
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    async def served() -> tuple[int, weakref.ref[Cycle]]:
        cycle = Cycle(path)
        await app(cycle.scope, cycle.receive, cycle.send)
        return cycle.status, weakref.ref(cycle)

    async def twice() -> tuple[int, weakref.ref[Cycle]]:
        await served()
        gc.collect()
        gc.disable()
        return await served()

    try:
        status, cycle = asyncio.run(twice())
    finally:
        gc.enable()
    assert status == (200 if path == "/items/5" else 404)
    assert cycle() is None
    assert len(seen.spans()) == 2
