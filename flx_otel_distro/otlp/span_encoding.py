"""Spans in protobuf's wire format, written straight: the bytes of an ExportTraceServiceRequest.

Upstream makes an object of each message and each attribute and then serialises those, many spans at a time.
Here a span is one pass over what the SDK holds, and the bytes of attributes that come again (methods, routes,
hosts, status codes) are kept. It is encoded when it ends: then what it holds is still near, what waits to be
sent is bytes, which the garbage collector does not follow, and the thread that sends has little to do that would
keep the app from the interpreter. What a collector reads is what it would read from upstream's encoder, but for
text that UTF-8 cannot carry: lone surrogates become U+FFFD instead of costing the attribute or the batch.

Sources: https://protobuf.dev/programming-guides/encoding/ and opentelemetry/proto/trace/v1/trace.proto.
Safe from any thread and after a fork: what is kept is only added to, and two threads that add the same
add the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import SpanKind

from flx_otel_distro.errors import scrubbed
from flx_otel_distro.guard import fault, tell_once
from flx_otel_distro.recording.kinds import kind_of

# Tags: the number of a field, shifted by three, with its wire type (0 varint, 1 fixed64, 2 length, 5 fixed32).
_RESOURCE_SPANS = _RESOURCE = _SCOPE = _KEY = _NESTED = b"\x0a"
_SCOPE_SPANS = _SPANS = b"\x12"
_SCHEMA_URL = b"\x1a"
_ATTRIBUTES, _EVENTS, _LINKS = b"\x4a", b"\x5a", b"\x6a"
_SCOPE_ATTRIBUTES = _EVENT_ATTRIBUTES = b"\x1a"
_LINK_ATTRIBUTES = b"\x22"
_HAS_REMOTE, _IS_REMOTE = 0x100, 0x200

_LOW = (1 << 64) - 1
_IDS = Struct(">2sQQ2sQ").pack
_PARENT = Struct(">2sQ").pack
_TIMES = Struct("<BQBQ").pack
_TIME = Struct("<BQ").pack
_FLAGS = Struct("<I").pack
_DOUBLE = Struct("<d").pack

_LOCAL_PARENT = b"\x85\x01" + _FLAGS(_HAS_REMOTE)
_REMOTE_PARENT = b"\x85\x01" + _FLAGS(_HAS_REMOTE | _IS_REMOTE)
_LINK_LOCAL = b"\x35" + _FLAGS(_HAS_REMOTE)
_LINK_REMOTE = b"\x35" + _FLAGS(_HAS_REMOTE | _IS_REMOTE)

_MOST_KEPT, _MOST_OF_A_KEY, _MOST_LENGTH = 8192, 128, 64
"""Attributes whose bytes are kept: in all, of one key, and the characters of key or value."""

_DEEPEST = 64
"""Levels of nested lists and maps; protobuf's readers stop at 100 messages."""

_kept: dict[bytes, dict[object, dict[tuple[str, Any], bytes]]] = {}
"""By the tag under which attributes stand, and by the kind of their value."""
_of_a_key: dict[str, int] = {}


UNENCODABLE = "an attribute that OTLP cannot carry was left out; further ones are not told"


class _UnencodableError(Exception):
    """A value that OTLP cannot carry."""


Encoded = tuple[bytes, bytes, bytes]
"""A span: what stands once for all of its resource, once for all of its scope, and itself."""


def encode_span(span: ReadableSpan) -> Encoded | None:
    """Return a span as bytes, to be given to `request`; None, which is told, where nobody could encode it.

    An attribute that cannot be encoded is left out, which is told once. Never raises for a span of the SDK's,
    whatever an app put on it.
    """
    global _last
    try:
        resource, scope, resource_bytes, scope_bytes = _last
        if span._resource is not resource or span._instrumentation_scope is not scope:
            resource, scope = span._resource, span._instrumentation_scope
            resource_bytes, scope_bytes = _resources.of(resource), _scopes.of(scope)
            _last = (resource, scope, resource_bytes, scope_bytes)
        return resource_bytes, scope_bytes, _span(span)
    except Exception as error:  # noqa: BLE001 - one span that nobody can encode must not cost the others
        fault("encoding a span", error)
        return None


def request(spans: Iterable[Encoded]) -> bytes:
    """Return the ExportTraceServiceRequest that holds `spans`, in the order and grouping of upstream's encoder."""
    groups: dict[int, tuple[bytes, dict[int, tuple[bytes, list[bytes]]]]] = {}  # by the ids of the bytes
    for resource, scope, span in spans:
        _, scopes = groups.get(id(resource)) or groups.setdefault(id(resource), (resource, {}))
        _, together = scopes.get(id(scope)) or scopes.setdefault(id(scope), (scope, []))
        together.append(span)
    return b"".join([_message(_RESOURCE_SPANS, _of_resource(*each)) for each in groups.values()])


def _of_resource(resource: bytes, scopes: dict[int, tuple[bytes, list[bytes]]]) -> bytes:
    parts = [_message(_SCOPE_SPANS, b"".join([scope, *spans])) for scope, spans in scopes.values()]
    return b"".join([resource, *parts])


def encode_spans(spans: Iterable[ReadableSpan]) -> bytes:
    """Return the ExportTraceServiceRequest that holds `spans`, without those that cannot be encoded."""
    return request([encoded for span in spans if (encoded := encode_span(span)) is not None])


_MOST_GROUPS = 256


class _Groups:
    """The bytes of resources or scopes, the same for those that are equal. Bounded; safe from any thread."""

    __slots__ = ("_encode", "_equal", "_same")

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._same: dict[int, tuple[Any, bytes]] = {}  # by the id of what is held, and so lives on
        self._equal: dict[Any, bytes] = {}

    def of(self, key: Any) -> bytes:
        found = self._same.get(id(key))
        if found is not None and found[0] is key:
            return found[1]
        values: Any = () if key is None or not key.attributes else key.attributes.values()
        exact = (key, *map(kind_of, values))  # 1 equals True
        encoded = self._equal.get(exact)
        if encoded is None:
            encoded = self._encode(key)
            if len(self._equal) >= _MOST_GROUPS:
                self._equal.clear()
            self._equal[exact] = encoded
        if len(self._same) >= _MOST_GROUPS:
            self._same.clear()
        self._same[id(key)] = (key, encoded)
        return encoded


def _resource(resource: Any) -> bytes:
    return _message(_RESOURCE, _pairs(_NESTED, resource.attributes)) + _text(_SCHEMA_URL, resource.schema_url)


def _scope(scope: Any) -> bytes:
    if not scope:
        return _message(_SCOPE, b"")
    described = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version)
    described += _pairs(_SCOPE_ATTRIBUTES, scope.attributes)
    return _message(_SCOPE, described) + _text(_SCHEMA_URL, scope.schema_url)


_resources, _scopes = _Groups(_resource), _Groups(_scope)
_last: tuple[Any, Any, bytes, bytes] = (object(), None, b"", b"")
"""Resource and scope of the span encoded last, and their bytes."""


def _span(span: Any) -> bytes:
    """Return a span with its tag and length."""
    context: Any = span._context
    trace_id: int = context[0]
    parts = [_IDS(b"\x0a\x10", trace_id >> 64, trace_id & _LOW, b"\x12\x08", context[1])]
    state: Any = context[4]
    if state:
        parts.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in state.items())))
    parent: Any = span._parent
    if parent:
        parts.append(_PARENT(b"\x22\x08", parent[1]))
    parts.append(_named(span._name, span._kind))
    start, end = span._start_time, span._end_time
    if start and end:
        parts.append(_TIMES(0x39, start, 0x41, end))
    elif start:
        parts.append(_TIME(0x39, start))
    elif end:
        parts.append(_TIME(0x41, end))
    attributes = span._attributes
    if type(attributes) is BoundedAttributes:
        _append_pairs(parts, _ATTRIBUTES, attributes._dict)
        if attributes.dropped:
            parts.append(_count(b"\x50", attributes.dropped))
    elif attributes:
        _append_pairs(parts, _ATTRIBUTES, attributes)
    events, links = span._events, span._links
    if events:
        parts += [_message(_EVENTS, _event(each)) for each in events]
    if type(events) is BoundedList and events.dropped:
        parts.append(_count(b"\x60", events.dropped))
    if links:
        parts += [_message(_LINKS, _link(each)) for each in links]
    if type(links) is BoundedList and links.dropped:
        parts.append(_count(b"\x70", links.dropped))
    status = span._status
    if status is not None:
        code, said = status._status_code._value_, status._description
        parts.append(
            _message(b"\x7a", _text(b"\x12", said) + (b"\x18%c" % code if code else b"")) if code or said else b"\x7a\0"
        )
    parts.append(_REMOTE_PARENT if parent and parent[2] else _LOCAL_PARENT)
    body = b"".join(parts)
    return _SPANS + _varint(len(body)) + body


def _named(name: str, kind: Any) -> bytes:
    """Return the fields of a span's name and kind."""
    found = _names.get((name, kind._value_))  # the hash of a member of an enumeration is dear
    if found is None:
        if type(kind) is not SpanKind:
            raise TypeError(f"a span kind {type(kind).__name__}")
        found = _text(b"\x2a", name) + b"\x30%c" % (kind._value_ + 1)
        if len(_names) < _MOST_NAMES and len(found) < 4 * _MOST_LENGTH:
            _names[name, kind._value_] = found
    return found


_MOST_NAMES = 2048
_names: dict[tuple[str, int], bytes] = {}


def _event(event: Any) -> bytes:
    time = event.timestamp
    return b"".join(
        (
            _TIME(0x09, time) if time else b"",
            _text(b"\x12", event.name),
            _pairs(_EVENT_ATTRIBUTES, event.attributes),
            _count(b"\x20", event.dropped_attributes),
        )
    )


def _link(link: Any) -> bytes:
    context = link.context
    return b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            _pairs(_LINK_ATTRIBUTES, link.attributes),
            _count(b"\x28", link.dropped_attributes),
            _LINK_REMOTE if context.is_remote else _LINK_LOCAL,
        )
    )


# --- attributes ----------------------------------------------------------------------------------


def _pairs(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    """Return the attributes as repeated KeyValue under `tag`."""
    if not attributes:
        return b""
    parts: list[bytes] = []
    _append_pairs(parts, tag, attributes._dict if type(attributes) is BoundedAttributes else attributes)
    return b"".join(parts)


def _append_pairs(parts: list[bytes], tag: bytes, attributes: Mapping[str, Any]) -> None:
    by_kind = _kept.get(tag) or _kept.setdefault(tag, {str: {}, int: {}, bool: {}})
    for item in attributes.items():
        kept = by_kind.get(kind_of(item[1]))
        found = None if kept is None else kept.get(item)
        if found is None:
            try:
                found = tag + _pair(*item)
            except Exception:  # noqa: BLE001 - an int beyond 64 bits, a foreign class, a cycle
                tell_once("unencodable", UNENCODABLE)
                continue
            if kept is not None:
                _keep(kept, item, found)
        parts.append(found)


def _keep(kept: dict[tuple[str, Any], bytes], item: tuple[str, Any], encoded: bytes) -> None:
    key = item[0]
    if type(key) is not str or len(encoded) > 2 * _MOST_LENGTH or len(kept) >= _MOST_KEPT:
        return
    seen = _of_a_key.get(key, 0)
    if seen < _MOST_OF_A_KEY and (seen or len(_of_a_key) < _MOST_KEPT):
        _of_a_key[key] = seen + 1
        kept[item] = encoded


def _pair(key: str, value: Any, depth: int = 0) -> bytes:
    """Return a KeyValue with its length. Raises what says that it cannot be encoded."""
    kind = kind_of(value)
    if kind is str:
        try:
            text = value.encode()
        except UnicodeEncodeError:
            text = _utf8(value)
        if len(text) < _SHORT:
            value = _TEXT_OF[len(text)] + text
        else:
            inner = b"\x0a" + _varint(len(text)) + text
            value = b"\x12" + _varint(len(inner)) + inner
    elif kind is int and 0 <= value < 16384:
        value = b"\x12\x02\x18%c" % value if value < 128 else b"\x12\x03\x18%c%c" % (value & 127 | 128, value >> 7)
    else:
        inner = _value(value, depth)
        value = b"\x12" + _varint(len(inner)) + inner
    named = _keys.get(key)
    if named is None:
        named = _text(_KEY, key)
        if type(key) is str and len(_keys) < _MOST_KEPT and len(named) <= 2 * _MOST_LENGTH:
            _keys[key] = named
    length = len(named) + len(value)
    return (_ONE[length] if length < 128 else _varint(length)) + named + value


_keys: dict[str, bytes] = {}
_SHORT = 120
_TEXT_OF = [bytes((0x12, length + 2, 0x0A, length)) for length in range(_SHORT)]


def _value(value: Any, depth: int) -> bytes:
    """Return an AnyValue, which shows what it holds even where that is empty or zero."""
    write = _WRITERS.get(kind_of(value))
    if write is not None:
        return write(value)
    if value is None:
        return b""
    for kind in (bool, str, int, float, bytes):  # subclasses
        if isinstance(value, kind):
            return _WRITERS[kind](value)
    if depth >= _DEEPEST:
        raise _UnencodableError
    if isinstance(value, Sequence):
        items = [_message(_NESTED, _value(each, depth + 1)) for each in value]  # pyright: ignore[reportUnknownVariableType]
        return _message(b"\x2a", b"".join(items))
    if isinstance(value, Mapping):
        pairs = [_NESTED + _pair(str(key), each, depth + 1) for key, each in value.items()]  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        return _message(b"\x32", b"".join(pairs))
    raise _UnencodableError


def _integer(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        raise _UnencodableError
    return b"\x18" + _varint(value if value >= 0 else value + (1 << 64))


def _string(value: str) -> bytes:
    encoded = _utf8(value)
    return b"\x0a" + _varint(len(encoded)) + encoded


_WRITERS: dict[object, Callable[[Any], bytes]] = {
    str: _string,
    bool: lambda value: b"\x10\x01" if value else b"\x10\x00",
    int: _integer,
    float: lambda value: b"\x21" + _DOUBLE(value),
    bytes: lambda value: b"\x3a" + _varint(len(value)) + value,
}


# --- the wire ------------------------------------------------------------------------------------


def _message(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _text(tag: bytes, value: str | None) -> bytes:
    """Return a string field; nothing where it is empty, as protobuf has it."""
    if not value:
        return b""
    encoded = _utf8(value)
    return tag + _varint(len(encoded)) + encoded


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        return scrubbed(value).encode()


def _count(tag: bytes, value: int) -> bytes:
    return tag + _varint(value) if value else b""


_ONE = [bytes((each,)) for each in range(128)]


def _varint(value: int) -> bytes:
    """Return an unsigned integer, seven bits a byte, the lowest first."""
    if value < 128:
        return _ONE[value]
    if value < 16384:
        return bytes((value & 127 | 128, value >> 7))
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# --- the answer ----------------------------------------------------------------------------------


def rejected(body: bytes) -> tuple[int, str] | None:
    """Return how many items a collector took apart and why, from an Export*ServiceResponse; None where none.

    The three signals' responses share their field numbers. Raises ValueError for what is no such message.
    """
    partial = b""
    for number, value in _fields(body):
        if number == 1 and isinstance(value, bytes):
            partial += value  # protobuf merges a message that comes twice
    count, said = 0, b""
    for number, value in _fields(partial):
        if number == 1 and isinstance(value, int):
            count = value - (1 << 64) if value >> 63 else value
        elif number == 2 and isinstance(value, bytes):
            said = value
    return (count, said.decode(errors="replace")) if count else None


def _fields(body: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Give number and value of each field: bytes of a length, an int of a varint; others are passed over."""
    at = 0
    while at < len(body):
        tag, at = _read(body, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read(body, at)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _read(body, at)
        if length is None or at + length > len(body):
            raise ValueError("not a protobuf message")
        if kind == 2:
            yield tag >> 3, body[at : at + length]
        at += length


def _read(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(body):
            break
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7
    raise ValueError("not a protobuf message")
