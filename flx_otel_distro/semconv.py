"""Names of metrics and attributes, their units and their buckets, as data.

Sources: OpenTelemetry semantic conventions 1.44 (HTTP stable; RPC as of `rpc.*.call.duration`).
Dashboards, rules, docs and instrumentors all read this file, so a rename happens in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; the boundaries the HTTP and RPC conventions recommend."""

SIZE_BUCKETS: Final = (0.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0, 100_000_000.0)
"""Bytes; powers of ten, as the conventions recommend none."""

MESSAGE_BUCKETS: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0, 100_000.0)
"""Messages in one call."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric: its OpenTelemetry name, its UCUM unit, what it tells, and its bucket boundaries."""

    name: str
    unit: str
    description: str
    buckets: tuple[float, ...] = ()


HTTP_SERVER_DURATION: Final = Instrument(
    "http.server.request.duration", "s", "Duration of HTTP server requests.", DURATION_BUCKETS
)
HTTP_SERVER_ACTIVE: Final = Instrument(
    "http.server.active_requests", "{request}", "Number of active HTTP server requests."
)
HTTP_SERVER_REQUEST_SIZE: Final = Instrument(
    "http.server.request.body.size", "By", "Size of HTTP server request bodies.", SIZE_BUCKETS
)
HTTP_SERVER_RESPONSE_SIZE: Final = Instrument(
    "http.server.response.body.size", "By", "Size of HTTP server response bodies.", SIZE_BUCKETS
)

RPC_SERVER_DURATION: Final = Instrument(
    "rpc.server.call.duration",
    "s",
    "Measures the duration of an incoming Remote Procedure Call (RPC).",
    DURATION_BUCKETS,
)
RPC_CLIENT_DURATION: Final = Instrument(
    "rpc.client.call.duration",
    "s",
    "Measures the duration of an outgoing Remote Procedure Call (RPC).",
    DURATION_BUCKETS,
)
RPC_SERVER_REQUESTS: Final = Instrument(
    "rpc.server.requests_per_rpc", "{count}", "Measures the number of messages received per RPC.", MESSAGE_BUCKETS
)
RPC_SERVER_RESPONSES: Final = Instrument(
    "rpc.server.responses_per_rpc", "{count}", "Measures the number of messages sent per RPC.", MESSAGE_BUCKETS
)
RPC_CLIENT_REQUESTS: Final = Instrument(
    "rpc.client.requests_per_rpc", "{count}", "Measures the number of messages sent per RPC.", MESSAGE_BUCKETS
)
RPC_CLIENT_RESPONSES: Final = Instrument(
    "rpc.client.responses_per_rpc", "{count}", "Measures the number of messages received per RPC.", MESSAGE_BUCKETS
)

HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_REQUEST_METHOD_ORIGINAL: Final = "http.request.method_original"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_SCHEME: Final = "url.scheme"
URL_PATH: Final = "url.path"
URL_QUERY: Final = "url.query"
NETWORK_PROTOCOL_NAME: Final = "network.protocol.name"
NETWORK_PROTOCOL_VERSION: Final = "network.protocol.version"
CLIENT_ADDRESS: Final = "client.address"
CLIENT_PORT: Final = "client.port"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
USER_AGENT_ORIGINAL: Final = "user_agent.original"
ERROR_TYPE: Final = "error.type"
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
OTHER: Final = "_OTHER"
"""What the conventions put in place of a value from outside that is not in the known set."""

HTTP_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
