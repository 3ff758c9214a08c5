"""A real Prometheus that scrapes given ports, and promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import eventually, free_port, listening


def debian_program(name: str) -> str:
    """Return the path of a program of Debian's package `prometheus`; without it the test is skipped, but not in CI."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def promtool_complaints(text: str) -> list[str]:
    """Return what `promtool check metrics` says of an exposition, but for what prometheus_client itself exposes."""
    checked = subprocess.run(
        [debian_program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
    )
    return [line for line in checked.stderr.splitlines() if not line.startswith(("process_", "python_"))]


class Prometheus:
    """Prometheus scraping each job's port every second. A context manager that kills it."""

    def __init__(self, folder: Path, jobs: Mapping[str, int]) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in jobs.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._process = subprocess.Popen(
            [
                debian_program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Prometheus:
        eventually("Prometheus", lambda: listening(self.port), 30)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the vector an instant query gives."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    def value(self, expression: str) -> float | None:
        """Return the value of a query with one sample, None where it has another number of them."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None
