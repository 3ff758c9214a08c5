"""Variables: how text becomes a value, what a wrong one says, and that each is declared once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flx_otel_distro import environment
from flx_otel_distro.environment import Variable, problems, set_defaults, strict, without_wrong_values
from flx_otel_distro.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        (environment.SDK_DISABLED, "", False),
        (environment.SDK_DISABLED, " TRUE ", True),
        (environment.SDK_DISABLED, "off", False),
        (environment.PROMETHEUS_PORT, "", 9464),
        (environment.PROMETHEUS_PORT, " 80 ", 80),
        (environment.OTLP_TIMEOUT, "0.5", 0.5),
        (environment.OTLP_PROTOCOL, "HTTP/Protobuf", "http/protobuf"),
        (environment.OTLP_INSECURE, "", None),
        (environment.OTLP_INSECURE, "true", True),
        (environment.TRACES_EXPORTER, " otlp , console,", ("otlp", "console")),
        (environment.RESOURCE_ATTRIBUTES, "a=1, b=x%20y%2C,", {"a": "1", "b": "x y,"}),
        (environment.OTLP_HEADERS, "Authorization=Bearer%20x=", {"authorization": "Bearer x="}),
        (environment.OTLP_ENDPOINT, "collector:4317", "collector:4317"),
        (environment.OTLP_ENDPOINT, "https://[::1]:4318/base", "https://[::1]:4318/base"),
    ],
)
def test_text_becomes_a_value(variable: Variable[Any], text: str, value: object) -> None:
    assert variable.read({variable.name: text}) == value
    assert variable.problem({variable.name: text}) is None


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        (environment.SDK_DISABLED, "maybe"),
        (environment.PROMETHEUS_PORT, "65536"),
        (environment.PROMETHEUS_PORT, "-1"),
        (environment.PROMETHEUS_PORT, "1_000"),
        (environment.PROMETHEUS_PORT, "٣"),
        (environment.PROMETHEUS_PORT, "9464.0"),
        (environment.OTLP_TIMEOUT, "nan"),
        (environment.OTLP_TIMEOUT, "0"),
        (environment.OTLP_TIMEOUT, "inf"),
        (environment.OTLP_PROTOCOL, "http/json"),
        (environment.RESOURCE_ATTRIBUTES, "a"),
        (environment.OTLP_HEADERS, "a b=1"),
        (environment.OTLP_HEADERS, "a=x%0D%0Ay"),
        (environment.OTLP_ENDPOINT, "ftp://x"),
        (environment.OTLP_ENDPOINT, "http://x:99999"),
        (environment.OTLP_ENDPOINT, "http://"),
        (environment.BSP_BATCH, "0"),
        (environment.EXIT_TIMEOUT, "60001"),
    ],
)
def test_a_wrong_value_is_one_line_and_the_default(variable: Variable[Any], text: str) -> None:
    environ = {variable.name: text}
    error = variable.problem(environ)
    assert error is not None
    line = str(error)
    shown = "(hidden)" if variable.kind.secret else text
    assert line.startswith(
        f"{variable.name}={shown!r} is not valid: allowed is {variable.kind.allowed}; using the default, "
    )
    assert "\n" not in line
    assert variable.read(environ) == variable.kind.parse(variable.default)
    with pytest.raises(ConfigurationError, match=r"the run stops \(FLX_OTEL_STRICT\)"):
        variable.read({**environ, "FLX_OTEL_STRICT": "true"})


def test_every_default_is_allowed_and_every_variable_is_documented() -> None:
    for variable in environment.variables():
        variable.kind.parse(variable.default)
        assert variable.doc.endswith(".") and variable.section
        assert not variable.general or variable.general in {each.name for each in environment.variables()}


@pytest.mark.parametrize(
    ("text", "expected"), [("", False), ("false", False), ("0", False), ("true", True), ("1", True), ("nonsense", True)]
)
def test_strict(text: str, expected: bool) -> None:
    assert strict({"FLX_OTEL_STRICT": text}) is expected


def test_an_older_name_is_read_where_the_new_one_is_unset() -> None:
    port = environment.PROMETHEUS_PORT
    assert port.read({"PROMETHEUS_PORT": "9999"}) == 9999
    assert port.read({"PROMETHEUS_PORT": "9999", "OTEL_EXPORTER_PROMETHEUS_PORT": "1"}) == 1
    assert port.read({"PROMETHEUS_PORT": "9999", "OTEL_EXPORTER_PROMETHEUS_PORT": ""}) == 9999
    assert port.read({"PROMETHEUS_PORT": "tcp://10.0.0.7:9090"}) == 9464
    assert port.problem({"PROMETHEUS_PORT": "tcp://10.0.0.7:9090"}) is None


def test_defaults_are_set_only_where_nothing_is() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "", "PROMETHEUS_PORT": "9999"}
    set_defaults(environ)
    assert environ == {
        **{each.name: each.default for each in environment.DEFAULTS},
        "OTEL_TRACES_EXPORTER": "console",
        "PROMETHEUS_PORT": "9999",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "9999",
    }
    before = dict(environ)
    set_defaults(environ)
    assert environ == before


def test_upstream_reads_without_wrong_values_and_the_app_finds_them_again() -> None:
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "later", "OTEL_SERVICE_NAME": "x"}
    with without_wrong_values(environ):
        assert environ == {"OTEL_SERVICE_NAME": "x"}
    assert environ == {"OTEL_BSP_SCHEDULE_DELAY": "later", "OTEL_SERVICE_NAME": "x"}


def test_problems_are_listed_one_a_variable() -> None:
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "y", "OTEL_SERVICE_NAME": "z"}
    assert [error.variable for error in problems(environ)] == [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_BSP_SCHEDULE_DELAY",
    ]


def sources() -> Iterator[Path]:
    for folder in ("flx_otel_distro", "configurators", "instrumentors", "flx_observability"):
        yield from (ROOT / folder).rglob("*.py")


def test_every_variable_named_in_the_code_is_declared() -> None:
    """A name such as OTEL_…, FLX_… or PROMETHEUS_… in a string of the code is one of ours, or of upstream's loader."""
    declared = {name for each in environment.variables() for name in (each.name, *each.aliases)}
    declared |= set(environment.INTERNAL)
    pattern = re.compile(r"(OTEL|FLX|PROMETHEUS|LOG|HEALTH_CHECK|CPU|MEMORY|DISK)(_[A-Z0-9]+)+")
    unknown: dict[str, str] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and pattern.fullmatch(name) and name not in declared:
                unknown[name] = str(path.relative_to(ROOT))
    assert unknown == {}


def test_environment_reads_are_by_declared_names() -> None:
    """`os.environ` and `os.getenv` are asked only for names declared in environment.py, PYTHONPATH and the like."""
    allowed = {"PYTHONPATH", "LC_CTYPE", "TRACEPARENT", "TRACESTATE", "BAGGAGE", "PATH"}
    declared = {name for each in environment.variables() for name in (each.name, *each.aliases)} | allowed
    declared |= set(environment.INTERNAL)
    found: dict[str, str] = {}
    read = re.compile(r"(?:environ(?:\.get|\.pop|\.setdefault)?[\[(]|getenv\()\s*[\"']([A-Za-z_]+)[\"']")
    for path in sources():
        for name in read.findall(path.read_text()):
            if name not in declared:
                found[name] = str(path.relative_to(ROOT))
    assert found == {}
