"""`flx-otel demo`: what a new user sees first."""

from __future__ import annotations

import re
import socket
import subprocess

from tests.support.process import BIN, clean_environment


def demo(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "flx-otel"), "demo", *options]
    return subprocess.run(command, env=clean_environment(**env), capture_output=True, text=True, timeout=90)


def test_the_demo_shows_metrics_a_trace_and_the_next_step() -> None:
    result = demo()
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    text = result.stdout
    assert re.search(r"Metrics, for Prometheus to scrape: http://localhost:\d+/metrics", text)
    counts = dict(
        re.findall(r'_count\{.*?http_response_status_code="(\d+)",.*?http_route="/orders/\{number\}".*?\} (\S+)', text)
    )
    assert counts == {"200": "9.0", "404": "3.0"}
    tree = text.split("One of its traces", 1)[1]
    assert [re.sub(r"\s+[\d.]+ ms.*", "", line) for line in tree.splitlines() if " ms" in line] == [
        "  GET /orders/{number}", "  ├─ load order", "  ├─ price order", "  └─ send receipt",
    ]  # fmt: skip
    assert "flx-instrument uvicorn yours:app" in text


def test_a_taken_metrics_port_gives_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = demo("--once", OTEL_EXPORTER_PROMETHEUS_PORT=str(port))
    assert result.returncode == 0, result.stderr
    assert f"localhost:{port}/" not in result.stdout


def test_an_unknown_option_is_refused() -> None:
    result = demo("--forever")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--forever" in result.stderr
