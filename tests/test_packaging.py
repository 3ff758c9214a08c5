"""The wheel: what it holds, what it registers, and that no extra switches instrumentors off."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_its_packages_are_ours_alone(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "flx_otel_distro", "flx_otel_configurators", "flx_otel_instrumentors", "flx_observability",
    }  # fmt: skip


def test_it_holds_types_the_boot_directory_and_the_license(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "flx_otel_distro/cli/boot/sitecustomize.py" in names
    assert sum(name.endswith("/py.typed") for name in names) == 4
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    parser = ConfigParser(delimiters="=")
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode())
    assert set(parser["opentelemetry_distro"]) == set(parser["opentelemetry_configurator"]) == {"flx"}
    assert all(name.startswith("flx_") for name in parser["opentelemetry_instrumentor"])
    assert set(parser["console_scripts"]) == {"flx-instrument", "flx-otel"}
    for section in parser.sections():
        for target in parser[section].values():
            module, _, name = target.partition(":")
            assert f"{module.replace('.', '/')}.py" in wheel.namelist() or (
                f"{module.replace('.', '/')}/__init__.py" in wheel.namelist()
            ), target
            assert not name or name.isidentifier()


def test_metadata(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_string(wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode())
    assert (metadata["Name"], metadata["License-Expression"]) == ("flx-otel-distro", "Apache-2.0")
    extras = set(metadata.get_all("Provides-Extra") or ())
    assert {"fastapi", "grpc", "all", "platform"} <= extras
    assert not {"instruments", "instruments-any"} & extras
    requires = " ".join(metadata.get_all("Requires-Dist") or ())
    assert "opentelemetry-instrumentation-aioredis" not in requires
    for name in ("distro", "instrumentation", "exporter-prometheus", "exporter-otlp", "propagator-b3"):
        assert f"opentelemetry-{name}" in requires
