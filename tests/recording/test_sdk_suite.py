"""The SDK's own metrics tests, from its source release, hold with the fast way installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from opentelemetry.sdk.version import __version__

from flx_otel_distro.recording import shape
from tests.support.process import clean_environment

DRIVER = Path(__file__).with_name("sdk_suite.py")
ROOT = Path(__file__).parents[2]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--retries", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean_environment())
    if done.returncode:
        pytest.skip(f"no package index here: {done.stderr.strip()[-200:]}")


@pytest.mark.timeout(400)
@pytest.mark.skipif(shape.mismatch() is not None, reason="the fast way stays away from this SDK")
def test_the_sdks_own_tests_pass(tmp_path: Path) -> None:
    _pip("download", "--no-binary", ":all:", "--no-deps", "--dest", str(tmp_path), f"opentelemetry-sdk=={__version__}")
    _pip("install", "--pre", "--no-deps", "--target", str(tmp_path / "utils"), "opentelemetry-test-utils")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    source = archive.with_suffix("").with_suffix("")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(source), str(tmp_path / "utils")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 300
