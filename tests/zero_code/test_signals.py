"""One signal that fails leaves the others working; wrong values are told; files configure."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.collector import Collector
from tests.support.process import FLX_INSTRUMENT, Program, clean_environment
from tests.support.waiting import eventually, free_port

APP = """
import sys
from opentelemetry import metrics, trace
metrics.get_meter("m").create_counter("orders").add(3, {"kind": "a"})
with trace.get_tracer("t").start_as_current_span(sys.argv[1]):
    pass
print("ready", flush=True)
if len(sys.argv) > 2 and sys.argv[2] == "stay":
    import time
    time.sleep(4)  # the port is tried twice before it is told
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("signals") / "signals.py"
    path.write_text(APP)
    return str(path)


def run(app: str, name: str, how: str = "end", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLX_INSTRUMENT, sys.executable, app, name, how],
        env=clean_environment(**{"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port()), **env}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_taken_port_leaves_the_app_and_every_other_signal_going(app: str, collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        result = run(
            app, "taken-port", "stay",
            OTEL_EXPORTER_PROMETHEUS_PORT=port, OTEL_METRICS_EXPORTER="prometheus,otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc,
        )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "ready\n")
    assert result.stderr.count("flx-otel:") == 1
    assert f":{port} cannot be listened on" in result.stderr and "OTEL_EXPORTER_PROMETHEUS_PORT" in result.stderr
    collector.span("taken-port")
    eventually(
        "the counter over OTLP",
        lambda: [
            m
            for request in list(collector.metrics)
            for r in request.resource_metrics
            for s in r.scope_metrics
            for m in s.metrics
            if m.name == "orders"
        ],
    )


def test_a_program_that_ends_at_once_is_not_told_of_a_taken_port(app: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        result = run(app, "short", OTEL_EXPORTER_PROMETHEUS_PORT=port, OTEL_TRACES_EXPORTER="none")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ready\n", "")


def test_the_port_is_served_as_soon_as_it_is_free(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import sys, time\nfrom opentelemetry import metrics\n"
        "metrics.get_meter('m').create_counter('orders').add(3)\ntime.sleep(60)\n"
    )
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    with Program(sys.executable, str(script), env={"OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}) as program:
        assert program.process.stderr is not None
        assert b"cannot be listened on" in program.process.stderr.readline()
        holder.close()
        assert program.await_sample("orders_total") == 3


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("OTEL_TRACES_EXPORTER", "nonsense", "otlp"),
        ("OTEL_METRICS_EXPORTER", "nonsense", "prometheus"),
        ("OTEL_LOGS_EXPORTER", "nonsense", "otlp"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_traceidratio"),
        ("OTEL_PROPAGATORS", "telepathy", "tracecontext"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon", "a number"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many", "a whole number"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "a whole number"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "a whole number"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "http", "a whole number"),
        ("OTEL_RESOURCE_ATTRIBUTES", "just-a-word", "key=value"),
        ("OTEL_PYTHON_ID_GENERATOR", "nonsense", "random"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "nonsense", "trace_based"),
    ],
)
def test_a_wrong_value_is_one_line_and_the_rest_goes_on(
    variable: str, value: str, allowed: str, app: str, collector: Collector
) -> None:
    name = f"wrong-{variable}"
    result = run(app, name, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc, **{variable: value})
    assert (result.returncode, result.stdout) == (0, "ready\n")
    lines = [line for line in result.stderr.splitlines() if "cannot be listened on" not in line]
    assert len(lines) == 1, result.stderr
    assert f"{variable}={value!r} is not valid" in lines[0] and allowed in lines[0]
    if variable != "OTEL_TRACES_EXPORTER":
        collector.span(name)
    strict = run(app, "strict", OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc, FLX_OTEL_STRICT="true", **{variable: value})
    assert (strict.returncode, strict.stdout) == (2, "")
    assert variable in strict.stderr and "Traceback" not in strict.stderr


def test_a_ratio_out_of_range_is_told(app: str, collector: Collector) -> None:
    result = run(
        app, "ratio",
        OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="7", OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc,
    )  # fmt: skip
    assert "OTEL_TRACES_SAMPLER_ARG='7' is not valid: allowed is a number from 0 to 1" in result.stderr
    collector.span("ratio")


def test_console_exporters_leave_stdout_to_the_app(app: str) -> None:
    result = run(
        app, "console", OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="console", OTEL_LOGS_EXPORTER="console"
    )
    assert result.stdout == "ready\n"
    assert '"name": "console"' in result.stderr


CONFIG = """
file_format: "1.0"
resource:
  attributes:
    - {{name: service.name, value: declared}}
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_http: {{endpoint: "{endpoint}/v1/traces"}}
meter_provider:
  readers:
    - pull:
        exporter:
          prometheus/development: {{host: 127.0.0.1, port: {port}}}
instrumentation/development:
  python:
    fastapi: {{enabled: false}}
"""

SERVICE = """
import sys, threading, time, urllib.request
import fastapi, uvicorn
from opentelemetry import trace
app = fastapi.FastAPI()
@app.get("/items/{number}")
def item(number: int):
    return trace.get_current_span().get_span_context().span_id
def ask():
    while True:
        try:
            body = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/items/1").read()
            break
        except OSError:
            time.sleep(0.05)
    with trace.get_tracer("t").start_as_current_span("by-hand"):
        pass
    print("span", body.decode(), flush=True)
    server.should_exit = True
server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), log_level="error"))
threading.Thread(target=ask).start()
server.run()
"""


@pytest.mark.parametrize("enabled", [False, True])
def test_a_configuration_file_configures_and_switches_instrumentors_off(
    enabled: bool, tmp_path: Path, collector: Collector
) -> None:
    text = CONFIG.format(endpoint=collector.http, port=free_port())
    if enabled:
        text = text.replace("enabled: false", "enabled: true")
    config = tmp_path / "otel.yaml"
    config.write_text(text)
    script = tmp_path / "service.py"
    script.write_text(SERVICE)
    before = len(collector.spans())
    result = subprocess.run(
        [FLX_INSTRUMENT, sys.executable, str(script), str(free_port())],
        env=clean_environment(OTEL_CONFIG_FILE=str(config)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert (result.stdout.split()[1] != "0") is enabled
    new = lambda: collector.spans()[before:]  # noqa: E731
    eventually("the span made by hand", lambda: [s for s in new() if s.name == "by-hand"])
    assert [s.name for s in new() if s.kind == s.SPAN_KIND_SERVER] == (["GET /items/{number}"] if enabled else [])
    assert collector.resources()[-1]["service.name"] == "declared"


@pytest.mark.parametrize("content", [None, "file_format: [", "tracer_provider: {processors: 7}"])
def test_a_configuration_file_that_cannot_be_read_is_one_line(
    content: str | None, app: str, tmp_path: Path, collector: Collector
) -> None:
    config = tmp_path / "otel.yaml"
    if content is not None:
        config.write_text(content)
    result = run(app, "file", OTEL_CONFIG_FILE=str(config), OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc)
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 1 and str(config) in result.stderr, result.stderr
    collector.span("file")
