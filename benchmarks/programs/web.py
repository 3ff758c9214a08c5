"""A FastAPI app of one route. Run: uvicorn web:app."""

from __future__ import annotations

import importlib
import os
from typing import Any

from fastapi import FastAPI

app = FastAPI()

match os.environ.get("BENCHMARK_CODE"):
    case "logfire":
        logfire: Any = importlib.import_module("logfire")

        logfire.configure(
            send_to_logfire=False,
            console=False,
            sampling=logfire.SamplingOptions(head=float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))),
        )
        logfire.instrument_fastapi(app)
    case "instrumentator":
        instrumentator: Any = importlib.import_module("prometheus_fastapi_instrumentator")
        instrumentator.Instrumentator().instrument(app).expose(app)
    case _:
        pass


@app.get("/items/{number}")
async def item(number: int) -> dict[str, Any]:
    """Answer with little."""
    return {"number": number, "name": "a thing"}
