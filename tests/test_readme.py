"""Every command and every snippet of the README is run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.readme_table import README, with_table
from tests.support.process import BIN, clean_environment
from tests.support.waiting import eventually, free_port, listening

ROOT = README.parent
TEXT = README.read_text()
FIRST, SECOND, *OTHERS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.strip().splitlines()
]
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SERVERS = {"app.py": ("PORT", "GET"), "uvicorn": ("--port", "GET"), "server.py": ("PORT", None)}


def test_the_table_of_variables_is_up_to_date() -> None:
    assert with_table(TEXT) == TEXT, "run: python -m tests.readme_table"


def test_the_second_command_is_what_ci_runs() -> None:
    assert SECOND in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.timeout(400)
def test_the_first_command_installs_and_shows_the_demo_on_a_machine_with_pip_alone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    ignore = shutil.ignore_patterns(".git", "__pycache__", ".venv", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, clone, ignore=ignore)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    env = clean_environment(PATH=f"{tmp_path / 'venv/bin'}{os.pathsep}{os.environ['PATH']}")
    env.pop("VIRTUAL_ENV", None)
    result = subprocess.run(["bash", "-c", FIRST], cwd=clone, env=env, capture_output=True, text=True, timeout=380)
    assert result.returncode == 0, result.stderr[-3000:]
    shown = result.stdout
    for what in ("/metrics", "http_server_request_duration_seconds_count", "GET /orders/{number}", "└─ send receipt"):
        assert what in shown


@pytest.mark.parametrize("command", OTHERS)
def test_a_command_does_what_the_readme_says(command: str) -> None:
    serves = any(word in command for word in ("app.py", "uvicorn", "server.py"))
    port, metrics = free_port(), free_port()
    words = f"exec {command}" + (f" --port {port}" if "uvicorn" in command else "")
    process = subprocess.Popen(
        ["bash", "-c", words],
        cwd=ROOT,
        env=clean_environment(
            PORT=str(port), OTEL_EXPORTER_PROMETHEUS_PORT=str(metrics), OTEL_TRACES_EXPORTER="none", CI=""
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if serves:
            eventually(command, lambda: listening(port), 30)
            eventually("its metrics", lambda: _get(f"http://127.0.0.1:{metrics}/metrics"), 30)
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in ((0, -signal.SIGTERM) if serves else (0,)), err
    if "observed" in command:
        assert out == "observed\n"
    elif not serves:
        assert "--" in out or "OTEL_" in out


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs(snippet: str) -> None:
    script = f"import asyncio\nasync def main():\n{_indented(snippet)}\nasyncio.run(main())\n"
    result = subprocess.run(
        [str(BIN / "python"), "-W", "error", "-c", script],
        env=clean_environment(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
