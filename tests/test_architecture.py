"""The dependency rule, read from the imports: who may import whom, and frameworks only in their own folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "flx_otel_distro": ROOT / "flx_otel_distro",
    "flx_otel_configurators": ROOT / "configurators/flx_otel_configurators",
    "flx_otel_instrumentors": ROOT / "instrumentors/flx_otel_instrumentors",
    "flx_observability": ROOT / "flx_observability",
}
MAY_IMPORT = {
    "flx_otel_distro": set[str](),
    "flx_otel_configurators": {"flx_otel_distro"},
    "flx_otel_instrumentors": {"flx_otel_distro"},
    "flx_observability": {"flx_otel_distro", "flx_otel_configurators", "flx_otel_instrumentors"},
}
FRAMEWORKS = {
    "fastapi": "flx_otel_instrumentors/fastapi",
    "starlette": "flx_otel_instrumentors/fastapi",
    "uvicorn": "flx_otel_instrumentors/fastapi",
    "grpc": "flx_otel_instrumentors/grpc",
}
FILES = [(name, path) for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("package", "path"), FILES, ids=lambda each: str(each).removeprefix(str(ROOT)))
def test_imports_point_one_way(package: str, path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        if top in PACKAGES and top != package:
            assert top in MAY_IMPORT[package], f"{path} imports {name}"
        if top in FRAMEWORKS:
            assert FRAMEWORKS[top] in path.as_posix(), f"{path} imports {name}"
        if package == "flx_otel_instrumentors":
            assert not name.startswith("opentelemetry.sdk"), f"{path} imports {name}: instrumentors speak the API"
        assert top not in ("configurators", "instrumentors"), f"{path} imports {name}"


def test_there_is_something_to_read() -> None:
    assert all(any(package == name for package, _ in FILES) for name in PACKAGES)


def test_modules_have_a_docstring_and_a_name_of_their_own() -> None:
    for _, path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} says nothing of itself"
        assert path.stem not in ("utils", "helpers", "common"), path
