"""Where and how one signal is sent, read from the `OTEL_EXPORTER_OTLP_*` variables.

Follows the OpenTelemetry Protocol Exporter specification: the signal's own variable wins over the
general one; the general HTTP endpoint is a base to which `/v1/<signal>` is added, the signal's own is
taken as it is; a gRPC endpoint's scheme decides about TLS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from flx_otel_distro import environment as env
from flx_otel_distro.environment import read_for_signal

Signal = Literal["traces", "metrics", "logs"]
Protocol = Literal["grpc", "http/protobuf"]

EXPORTERS: Mapping[str, Protocol | None] = {
    "otlp": None,
    "otlp_proto_grpc": "grpc",
    "otlp_proto_http": "http/protobuf",
}
"""The exporter names that mean OTLP, and the protocol each insists on."""


@dataclass(frozen=True, slots=True)
class Target:
    """One signal's destination. `timeout` is in seconds; `headers` are secret and not shown."""

    signal: Signal
    protocol: Protocol
    host: str
    port: int
    path: str
    tls: bool
    timeout: float
    compression: Literal["gzip", "deflate", "none"]
    headers: Mapping[str, str] = field(repr=False)
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""

    @property
    def authority(self) -> str:
        """Return `host:port`, without user information."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the address for people, without user information, query or headers."""
        path = "" if self.protocol == "grpc" else self.path.split("?")[0]
        return f"{'https' if self.tls else 'http'}://{self.authority}{path}"


def target(signal: Signal, environ: Mapping[str, str] | None = None, spoken: Protocol | None = None) -> Target:
    """Return the destination of `signal`; `spoken` overrides the protocol of the variables.

    A wrong variable is told once and its default used; under strict mode ConfigurationError is raised.
    """
    grpc = (spoken or read_for_signal(env.OTLP_PROTOCOL, signal, environ)) == "grpc"
    own = env.for_signal(env.OTLP_ENDPOINT, signal)
    is_own = own.source(environ) is not None and own.problem(environ) is None
    text = read_for_signal(env.OTLP_ENDPOINT, signal, environ) or f"http://localhost:{4317 if grpc else 4318}"

    has_scheme = "://" in text
    parts = urlsplit(text if has_scheme else f"//{text}")
    tls = parts.scheme == "https" if has_scheme else grpc and not read_for_signal(env.OTLP_INSECURE, signal, environ)
    if grpc:
        path = f"/opentelemetry.proto.collector.{_service(signal)}/Export"
    elif is_own:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        path = parts.path.rstrip("/") + f"/v1/{signal}"

    headers = read_for_signal(env.OTLP_HEADERS, signal, environ)
    if parts.username:
        headers = {"authorization": _basic(unquote(parts.username), unquote(parts.password or "")), **headers}
    default_port = 4317 if grpc else (443 if tls else (80 if has_scheme else 4318))
    return Target(
        signal=signal,
        protocol="grpc" if grpc else "http/protobuf",
        host=parts.hostname or "localhost",
        port=parts.port or (443 if grpc and tls and has_scheme else default_port),
        path=path,
        tls=tls,
        timeout=read_for_signal(env.OTLP_TIMEOUT, signal, environ),
        compression=_compression(read_for_signal(env.OTLP_COMPRESSION, signal, environ)),
        headers=headers,
        certificate=read_for_signal(env.OTLP_CERTIFICATE, signal, environ),
        client_certificate=read_for_signal(env.OTLP_CLIENT_CERTIFICATE, signal, environ),
        client_key=read_for_signal(env.OTLP_CLIENT_KEY, signal, environ),
    )


def _service(signal: Signal) -> str:
    names = {"traces": "trace.v1.TraceService", "metrics": "metrics.v1.MetricsService", "logs": "logs.v1.LogsService"}
    return names[signal]


def _compression(name: str) -> Literal["gzip", "deflate", "none"]:
    return "gzip" if name == "gzip" else "deflate" if name == "deflate" else "none"


def _basic(user: str, password: str) -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
