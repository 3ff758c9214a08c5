"""Every environment variable of the distro, once: name, default, meaning, and how its text is read.

An empty variable counts as unset, as the OpenTelemetry specification asks. A wrong value is told
once, in one line that names the variable, the value and what is allowed; the run goes on with the
default, or stops where `FLX_OTEL_STRICT=true`. Nothing here imports OpenTelemetry, and little else:
the wrapper reads this module before every program it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from flx_otel_distro.errors import ConfigurationError, printable

T = TypeVar("T")

TOLD = "FLX_OTEL_TOLD"
"""Names of the wrong variables this tree of processes was told of; written by us, read by our children."""

INTERNAL = (TOLD, "FLX_OTEL_WRAPPED_PID", "FLX_OTEL_PROGRAM")
"""What one process of ours tells the next through the environment; nobody else sets these."""


class Kind(NamedTuple, Generic[T]):
    """How a variable's text becomes a value. `parse` raises ValueError for text it cannot read."""

    parse: Callable[[str], T]
    allowed: str
    secret: bool = False


class Variable(NamedTuple, Generic[T]):
    """One environment variable. `aliases` are older names, read only where `name` is unset.

    `general` names the variable that is read in its place where it is unset; `section` is the heading
    it stands under in the documentation.
    """

    name: str
    default: str
    doc: str
    kind: Kind[T]
    aliases: tuple[str, ...] = ()
    section: str = ""
    general: str = ""

    def source(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Return the name under which the variable is set, its own or an alias, or None."""
        env = os.environ if environ is None else environ
        if env.get(self.name, "").strip():
            return self.name
        return next((alias for alias in self.aliases if not _is_unset_alias(env.get(alias, ""))), None)

    def problem(self, environ: Mapping[str, str] | None = None) -> ConfigurationError | None:
        """Return what is wrong with the value that is set, or None."""
        env = os.environ if environ is None else environ
        name = self.source(env)
        if name is None:
            return None
        text = env[name].strip()
        try:
            self.kind.parse(text)
        except ValueError:
            shown = "(hidden)" if self.kind.secret else printable(without_credentials(text))
            default = self.default or "(unset)"
            return ConfigurationError(name, shown, self.kind.allowed, f"using the default, {default}")
        return None

    def read(self, environ: Mapping[str, str] | None = None) -> T:
        """Return the value that is set, or the default where it is unset or wrong.

        Raises ConfigurationError for a wrong value under `FLX_OTEL_STRICT=true`; tells it once
        otherwise. Safe from any thread.
        """
        env = os.environ if environ is None else environ
        error = self.problem(env)
        if error is not None:
            report(error, env)
            return self.kind.parse(self.default)
        name = self.source(env)
        return self.kind.parse(env[name].strip() if name else self.default)

    @property
    def option(self) -> str:
        """Return the wrapper's option for this variable, as `--traces-exporter`."""
        stem = self.name.removeprefix("FLX_").removeprefix("OTEL_").removeprefix("PYTHON_")
        return "--" + stem.lower().replace("_", "-")


def _is_unset_alias(text: str) -> bool:
    """Return whether an alias holds nothing for us.

    Kubernetes gives every container `PROMETHEUS_PORT=tcp://10.0.0.7:9090` where the namespace has a
    service called prometheus: that is an address of another process, not our port.
    """
    return not text.strip() or text.startswith("tcp://")


def report(error: ConfigurationError, environ: Mapping[str, str] | None = None) -> None:
    """Tell a configuration error once in a tree of processes, or stop the run under strict mode.

    Strict mode raises the error, except while Python is still starting: there nobody could catch it,
    and the process ends with exit code 2 after one line for each wrong variable.
    """
    env = os.environ if environ is None else environ
    if strict(env):
        if env is os.environ and _python_is_starting():
            stop([error, *(other for other in problems(env) if other.variable != error.variable)])
        raise stopping(error)
    if error.variable in told(env):
        return
    from flx_otel_distro.guard import tell_once

    tell_once(f"variable:{error.variable}", str(error))
    if env is os.environ:
        remember_told([error.variable])


def told(environ: Mapping[str, str]) -> set[str]:
    """Return the wrong variables that this tree of processes was told of."""
    return set(_names(environ.get(TOLD, "")))


def remember_told(names: Iterable[str], environ: MutableMapping[str, str] | None = None) -> None:
    """Keep the processes that inherit this environment from telling of `names` again."""
    env = os.environ if environ is None else environ
    env[TOLD] = ",".join(sorted(told(env) | set(names)))


def stop(errors: Iterable[ConfigurationError]) -> NoReturn:
    """Write one line an error and end the process with exit code 2, before the app has begun."""
    lines = [f"flx-otel: {stopping(error)}\n" for error in errors]
    write_error("".join(lines))
    os._exit(2)


def write_error(text: str) -> None:
    """Write text to stderr at once, past any object the app put in its place; never raises."""
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


def stopping(error: ConfigurationError) -> ConfigurationError:
    """Return `error` as it reads where the run stops at it."""
    return ConfigurationError(error.variable, error.value, error.allowed, "the run stops (FLX_OTEL_STRICT)")


def _python_is_starting() -> bool:
    """Return whether this runs inside sitecustomize, where an exception cannot end the process cleanly."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "execsitecustomize" and frame.f_globals.get("__name__") == "site":
            return True
        frame = frame.f_back
    return False


def disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether `OTEL_SDK_DISABLED` asks us to stay away; a wrong value does not."""
    return SDK_DISABLED.problem(environ) is None and SDK_DISABLED.read(environ)


def strict(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether a wrong variable stops the run. A wrong `FLX_OTEL_STRICT` itself counts as true."""
    env = os.environ if environ is None else environ
    return env.get("FLX_OTEL_STRICT", "").strip().lower() not in ("", "false", "0", "no", "off")


def without_credentials(text: str) -> str:
    """Return text with what a URL may hold of credentials hidden: user information and query."""
    at = text.rfind("@")
    if at >= 0:
        scheme = text.find("//")
        text = (text[: scheme + 2] if 0 <= scheme < at else "") + "***" + text[at:]
    return text.split("?", 1)[0] + "?***" if "?" in text else text


# --- kinds ---------------------------------------------------------------------------------------


_MOST = 2**31 - 1
"""What every clock, queue and limit below can still count."""


def _whole(low: int, high: int = _MOST, unit: str = "") -> Kind[int]:
    bound = f"from {low} to {high}" if high != _MOST else f"of at least {low}"

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high or not text.isascii() or "_" in text:
            raise ValueError(text)
        return value

    return Kind(parse, f"a whole number {bound}" + (f" ({unit})" if unit else ""))


def _number(low: float, high: float) -> Kind[float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Kind(parse, f"a number from {low:g} to {high:g}")


def _optional(kind: Kind[T]) -> Kind[T | None]:
    def parse(text: str) -> T | None:
        return kind.parse(text) if text else None

    return Kind(parse, kind.allowed, kind.secret)


def _boolean(text: str) -> bool:
    value = text.lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("", "false", "0", "no", "off"):
        return False
    raise ValueError(text)


def _choice(*values: str) -> Kind[str]:
    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(text)
        return text.lower()

    return Kind(parse, "one of " + ", ".join(values))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def pairs(text: str) -> dict[str, str]:
    """Read `key=value,key2=value2`, percent-decoded, as the specification writes headers and resources.

    Raises ValueError where a part has no `=` or an empty key.
    """
    from urllib.parse import unquote

    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(part)
        found[unquote(key.strip())] = unquote(value.strip())
    return found


_FRAMING = frozenset(
    {"connection", "content-length", "content-type", "content-encoding", "host", "te", "transfer-encoding", "upgrade"}
)
"""Headers of the transport itself; setting them would break every request."""


def _headers(text: str) -> dict[str, str]:
    found = pairs(text)
    for key, value in found.items():
        if not key.isascii() or any(ord(c) < 33 or c in ':;,()<>@"' for c in key):
            raise ValueError("a header name")
        if key.lower() in _FRAMING:
            raise ValueError("a header that frames the request")
        if any(ord(c) < 32 and c != "\t" for c in value):
            raise ValueError("a header value")
    return {key.lower(): value for key, value in found.items()}


def _url(text: str) -> str:
    if not text:
        return text
    from urllib.parse import urlsplit

    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a blank or a control character")
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in ("", "http", "https") or not parts.hostname:
        raise ValueError(text)
    _ = parts.port  # raises ValueError when out of range
    return text


def _patterns(text: str) -> str:
    if text:
        import re

        for each in text.split(","):
            try:
                re.compile(each.strip())
            except re.error as error:
                raise ValueError(each) from error
    return text


def _sampler(text: str) -> str:
    if not text or any(c.isspace() for c in text):
        raise ValueError(text)
    return text


BOOLEAN: Kind[bool] = Kind(_boolean, "true or false")
TEXT: Kind[str] = Kind(str, "any text")
NAMES: Kind[tuple[str, ...]] = Kind(_names, "names, comma-separated")
PAIRS: Kind[dict[str, str]] = Kind(pairs, "key=value pairs, comma-separated")
HEADERS: Kind[dict[str, str]] = Kind(_headers, "key=value pairs, comma-separated, percent-encoded", secret=True)
PATTERNS: Kind[str] = Kind(_patterns, "regular expressions, comma-separated")
URL: Kind[str] = Kind(_url, "a URL such as http://collector:4317")
PORT = _whole(0, 65535)
MILLISECONDS = _whole(0, unit="milliseconds")
COUNT = _whole(1)
LIMIT = _optional(_whole(0))

# --- the variables -------------------------------------------------------------------------------

_ALL: dict[str, Variable[Any]] = {}
_section = "The service"


def _variable(name: str, default: str, kind: Kind[T], doc: str, *aliases: str, general: str = "") -> Variable[T]:
    variable = Variable(name, default, doc, kind, aliases, _section, general)
    _ALL[name] = variable
    return variable


SERVICE_NAME = _variable(
    "OTEL_SERVICE_NAME", "", TEXT, "Name of the service; the program's own name where it is unset."
)
RESOURCE_ATTRIBUTES = _variable(
    "OTEL_RESOURCE_ATTRIBUTES", "", PAIRS, "More about the service, such as deployment.environment.name=production."
)
SDK_DISABLED = _variable("OTEL_SDK_DISABLED", "false", BOOLEAN, "Run the app as if we were not there.")
STRICT = _variable("FLX_OTEL_STRICT", "false", BOOLEAN, "Stop the run at a wrong variable, with exit code 2.")
CONFIG_FILE = _variable("OTEL_CONFIG_FILE", "", TEXT, "Declarative configuration (YAML) in place of the variables.")

_section = "Where each signal goes"
TRACES_EXPORTER = _variable("OTEL_TRACES_EXPORTER", "otlp", NAMES, "Where traces go: otlp, console or none.")
METRICS_EXPORTER = _variable(
    "OTEL_METRICS_EXPORTER", "prometheus", NAMES, "Where metrics go: prometheus, otlp, console or none."
)
LOGS_EXPORTER = _variable("OTEL_LOGS_EXPORTER", "none", NAMES, "Where log records go beside stderr: otlp or none.")
PROPAGATORS = _variable(
    "OTEL_PROPAGATORS",
    "tracecontext,baggage,b3",
    NAMES,
    "Context formats read and written: tracecontext, baggage, b3, b3multi, none. W3C wins over B3.",
)
TRACES_SAMPLER = _variable(
    "OTEL_TRACES_SAMPLER",
    "parentbased_always_on",
    Kind(_sampler, "a sampler such as parentbased_traceidratio"),
    "Which traces are kept: [parentbased_]always_on, always_off or traceidratio.",
)
TRACES_SAMPLER_ARG = _variable(
    "OTEL_TRACES_SAMPLER_ARG", "", TEXT, "The sampler's argument; for traceidratio the share kept, from 0 to 1."
)
ID_GENERATOR = _variable("OTEL_PYTHON_ID_GENERATOR", "random", TEXT, "How trace and span ids are made.")

_section = "Metrics to scrape"
PROMETHEUS_HOST = _variable(
    "OTEL_EXPORTER_PROMETHEUS_HOST", "localhost", TEXT, "Address the metrics endpoint listens on."
)
PROMETHEUS_PORT = _variable(
    "OTEL_EXPORTER_PROMETHEUS_PORT", "9464", PORT, "Port of the metrics endpoint.", "PROMETHEUS_PORT"
)
PROMETHEUS_MULTIPROC_DIR = _variable(
    "PROMETHEUS_MULTIPROC_DIR", "", TEXT, "Directory of an app's own prometheus_client multiprocess files."
)

_section = "The collector (OTLP)"
OTLP_ENDPOINT = _variable(
    "OTEL_EXPORTER_OTLP_ENDPOINT", "", URL, "The collector; http://localhost:4317 for grpc, :4318 for http/protobuf."
)
OTLP_PROTOCOL = _variable(
    "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", _choice("grpc", "http/protobuf"), "How OTLP is spoken."
)
OTLP_HEADERS = _variable("OTEL_EXPORTER_OTLP_HEADERS", "", HEADERS, "Headers sent to the collector (secret).")
OTLP_TIMEOUT = _variable(
    "OTEL_EXPORTER_OTLP_TIMEOUT", "10", _number(0.001, 86_400), "Seconds one export may take, retries included."
)
OTLP_COMPRESSION = _variable(
    "OTEL_EXPORTER_OTLP_COMPRESSION", "none", _choice("gzip", "deflate", "none"), "Compression of what is exported."
)
OTLP_CERTIFICATE = _variable("OTEL_EXPORTER_OTLP_CERTIFICATE", "", TEXT, "File of the CA that signs the collector.")
OTLP_CLIENT_CERTIFICATE = _variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "", TEXT, "Our certificate, for mTLS.")
OTLP_CLIENT_KEY = _variable("OTEL_EXPORTER_OTLP_CLIENT_KEY", "", TEXT, "File of our certificate's key, for mTLS.")
OTLP_INSECURE = _variable(
    "OTEL_EXPORTER_OTLP_INSECURE", "", _optional(BOOLEAN), "Whether grpc without a URL scheme goes without TLS."
)

_OTLP_SETTINGS: tuple[Variable[Any], ...] = (
    OTLP_ENDPOINT,
    OTLP_PROTOCOL,
    OTLP_HEADERS,
    OTLP_TIMEOUT,
    OTLP_COMPRESSION,
    OTLP_CERTIFICATE,
    OTLP_CLIENT_CERTIFICATE,
    OTLP_CLIENT_KEY,
    OTLP_INSECURE,
)
_section = "The collector, for one signal alone"
for _signal in ("TRACES", "METRICS", "LOGS"):
    for _setting in _OTLP_SETTINGS:
        _kind: Kind[Any] = _setting.kind
        _variable(
            _setting.name.replace("OTLP_", f"OTLP_{_signal}_"),
            _setting.default,
            _kind,
            f"The same for {_signal.lower()} alone.",
            general=_setting.name,
        )

_section = "Metrics sent over OTLP"
METRICS_TEMPORALITY = _variable(
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "cumulative",
    _choice("cumulative", "delta", "lowmemory"),
    "Temporality of metrics sent over OTLP.",
)
METRICS_HISTOGRAM = _variable(
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "explicit_bucket_histogram",
    _choice("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
    "Histograms sent over OTLP.",
)
METRIC_INTERVAL = _variable(
    "OTEL_METRIC_EXPORT_INTERVAL",
    "60000",
    _whole(1, unit="milliseconds"),
    "Milliseconds between two pushes of metrics.",
)
METRIC_TIMEOUT = _variable(
    "OTEL_METRIC_EXPORT_TIMEOUT", "30000", MILLISECONDS, "Milliseconds one push of metrics may take."
)
EXEMPLAR_FILTER = _variable(
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "trace_based",
    _choice("trace_based", "always_on", "always_off"),
    "Which measurements may become exemplars.",
)
FAST_RECORDING = _variable(
    "FLX_OTEL_FAST_RECORDING", "true", BOOLEAN, "Record metrics by the short way into the SDK's aggregations."
)

_section = "Batches and the end of the process"
BSP_DELAY = _variable(
    "OTEL_BSP_SCHEDULE_DELAY", "5000", MILLISECONDS, "Milliseconds a finished span waits at most before it is sent."
)
BSP_TIMEOUT = _variable("OTEL_BSP_EXPORT_TIMEOUT", "30000", MILLISECONDS, "Milliseconds one batch of spans may take.")
BSP_QUEUE = _variable("OTEL_BSP_MAX_QUEUE_SIZE", "2048", COUNT, "Spans kept while they cannot be sent.")
BSP_BATCH = _variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512", COUNT, "Spans in one export.")
BLRP_DELAY = _variable("OTEL_BLRP_SCHEDULE_DELAY", "1000", MILLISECONDS, "Milliseconds a log record waits at most.")
BLRP_TIMEOUT = _variable(
    "OTEL_BLRP_EXPORT_TIMEOUT", "30000", MILLISECONDS, "Milliseconds one batch of log records may take."
)
BLRP_QUEUE = _variable("OTEL_BLRP_MAX_QUEUE_SIZE", "2048", COUNT, "The same for log records: queue.")
BLRP_BATCH = _variable("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "512", COUNT, "The same for log records: batch.")
EXIT_TIMEOUT = _variable(
    "FLX_OTEL_EXIT_TIMEOUT",
    "1500",
    _whole(0, 60_000, "milliseconds"),
    "Milliseconds the end of the process waits at most for what is still to be sent.",
)

_section = "Limits"
_COUNT, _LENGTH = "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"
for _name, _default, _doc, _general in (
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", "128", "Attributes of a span, event, link or log record.", ""),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", "Characters of a text attribute.", ""),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "128", "Attributes of a span.", _COUNT),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", "Characters of a span's text attribute.", _LENGTH),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", "128", "Events of a span.", ""),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", "128", "Links of a span.", ""),
    ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "128", "Attributes of an event.", _COUNT),
    ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "128", "Attributes of a link.", _COUNT),
    ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "128", "Attributes of a log record.", _COUNT),
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", "Characters of a log record's text attribute.", _LENGTH),
):
    _variable(_name, _default, LIMIT, _doc, general=_general)

_section = "Instrumentors"
DISABLED_INSTRUMENTATIONS = _variable(
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "", NAMES, "Instrumentors that must not act; * for all."
)
ENABLED_INSTRUMENTATIONS = _variable(
    "FLX_OTEL_INSTRUMENTATIONS", "", NAMES, "The only instrumentors that may act; all where it is unset."
)
EXCLUDED_URLS = _variable(
    "OTEL_PYTHON_EXCLUDED_URLS", "", PATTERNS, "Regular expressions of URLs that leave no trace and no metric."
)
FASTAPI_EXCLUDED_URLS = _variable(
    "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS",
    "",
    PATTERNS,
    "The same for FastAPI alone; it wins over the general one.",
    general="OTEL_PYTHON_EXCLUDED_URLS",
)
GRPC_EXCLUDED_SERVICES = _variable(
    "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", "", NAMES, "gRPC services that leave no trace and no metric."
)
CAPTURE_REQUEST_HEADERS = _variable(
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", "", NAMES, "Request headers put on server spans."
)
CAPTURE_RESPONSE_HEADERS = _variable(
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE", "", NAMES, "Response headers put on server spans."
)
SANITIZE_HEADERS = _variable(
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS", "", NAMES, "Captured headers shown as [REDACTED]."
)
SEMCONV_OPT_IN = _variable(
    "OTEL_SEMCONV_STABILITY_OPT_IN", "http,database", NAMES, "Stable semantic conventions upstream code uses."
)
DISTRO = _variable("OTEL_PYTHON_DISTRO", "flx", TEXT, "Which distro acts.")
CONFIGURATOR = _variable("OTEL_PYTHON_CONFIGURATOR", "flx", TEXT, "Which configurator sets the SDK up.")
ASGI_MESSAGE_SPANS = _variable(
    "FLX_OTEL_ASGI_MESSAGE_SPANS", "false", BOOLEAN, "Add spans for each ASGI receive and send."
)
PROBE_PATHS = _variable(
    "FLX_OTEL_PROBE_PATHS",
    "/livez,/readyz,/startupz,/healthz,/health,/health/live,/health/ready,/health/started,/metrics",
    NAMES,
    "Paths of probes and metrics: no trace, no metric.",
)

DEFAULTS = (
    TRACES_EXPORTER,
    METRICS_EXPORTER,
    LOGS_EXPORTER,
    PROPAGATORS,
    OTLP_PROTOCOL,
    SEMCONV_OPT_IN,
    CONFIGURATOR,
)
"""What the distro puts into the environment where it is unset, so that upstream code agrees with us."""


def variables() -> tuple[Variable[Any], ...]:
    """Return every variable, in the order of the documentation."""
    return tuple(_ALL.values())


def for_signal(variable: Variable[T], signal: str) -> Variable[T]:
    """Return the variable of `signal` (traces, metrics, logs) that overrides a general OTLP one."""
    return _ALL[variable.name.replace("OTLP_", f"OTLP_{signal.upper()}_")]


def read_for_signal(variable: Variable[T], signal: str, environ: Mapping[str, str] | None = None) -> T:
    """Return the signal's own value where it is set and right, else the general one."""
    own = for_signal(variable, signal)
    if own.source(environ) is None:
        return variable.read(environ)
    if (error := own.problem(environ)) is not None:
        report(error, environ)
        return variable.read(environ)
    return own.read(environ)


def problems(environ: Mapping[str, str] | None = None) -> list[ConfigurationError]:
    """Return what is wrong in the environment, one error a variable."""
    return [error for variable in variables() if (error := variable.problem(environ)) is not None]


@contextmanager
def without_wrong_values(environ: MutableMapping[str, str] | None = None) -> Generator[None, None, None]:
    """Hide wrong variables while upstream code reads the environment, then put them back.

    Each is told once (or raised under strict mode). Upstream would raise from deep inside, and take
    every signal with it.
    """
    env = os.environ if environ is None else environ
    wrong = problems(env)
    for error in wrong:
        report(error, env)
    with hidden([error.variable for error in wrong], env):
        yield


@contextmanager
def hidden(names: Iterable[str], environ: MutableMapping[str, str] | None = None) -> Generator[None, None, None]:
    """Take variables out of the environment for the length of the block. Not for use in parallel threads."""
    env = os.environ if environ is None else environ
    taken = {name: env.pop(name) for name in names if name in env}
    try:
        yield
    finally:
        for name, value in taken.items():
            env.setdefault(name, value)


def set_defaults(environ: MutableMapping[str, str] | None = None) -> None:
    """Set what is unset: the distro's defaults, and the OTEL name of each alias the seed knows."""
    env = os.environ if environ is None else environ
    for variable in DEFAULTS:
        if not env.get(variable.name, "").strip():
            env[variable.name] = variable.default
    source = PROMETHEUS_PORT.source(env)
    if source is not None and source != PROMETHEUS_PORT.name and PROMETHEUS_PORT.problem(env) is None:
        env[PROMETHEUS_PORT.name] = env[source]
