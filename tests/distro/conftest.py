"""A tiny instrumentor of nobody's, installed for one test, and programs run in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import run

__all__ = ["instrumentors", "run"]

NAMES = ("first", "second")


@pytest.fixture
def instrumentors(tmp_path: Path) -> dict[str, str]:
    """Install instrumentors `first` and `second`, which print their name; return the environment that has them."""
    folder = tmp_path / "packages"
    metadata = folder / "tiny-1.dist-info"
    metadata.mkdir(parents=True)
    (folder / "tiny.py").write_text(
        "from opentelemetry.instrumentation.instrumentor import BaseInstrumentor\n"
        + "".join(
            f"class {name.title()}(BaseInstrumentor):\n"
            "    _instance = None\n"
            "    def instrumentation_dependencies(self): return ()\n"
            "    def _uninstrument(self, **kwargs): pass\n"
            f"    def _instrument(self, **kwargs): print({name!r}, flush=True)\n"
            for name in NAMES
        )
        + "class Broken(First):\n"
        "    _instance = None\n"
        "    def _instrument(self, **kwargs): raise RuntimeError('broken\\nin two lines')\n"
    )
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
    entries = "".join(f"{name} = tiny:{name.title()}\n" for name in NAMES)
    (metadata / "entry_points.txt").write_text(
        f"[opentelemetry_instrumentor]\nbroken = tiny:Broken\nabsent = no_such_library:X\n{entries}"
    )
    return {"PYTHONPATH": str(folder), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ""}
