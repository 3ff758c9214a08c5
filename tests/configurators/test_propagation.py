"""Context formats: what is read, what wins, what is written, and that hostile headers change nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flx_otel_configurators.propagation import FlxPropagator, _propagators, configure_propagation
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanContext

from flx_otel_distro import guard

W3C = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
B3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"
B3_MULTI = {
    "x-b3-traceid": "463ac35c9f6413ad48485a3953bb6124",
    "x-b3-spanid": "a2fb4a1d1a96d312",
    "x-b3-sampled": "0",
}
DEFAULT = ("tracecontext", "baggage", "b3")


def extracted(headers: Mapping[str, str], *names: str) -> SpanContext:
    context = FlxPropagator(_propagators(names or DEFAULT)).extract(headers)
    return trace.get_current_span(context).get_span_context()


@pytest.mark.parametrize(
    ("headers", "trace_id", "span_id", "sampled"),
    [
        ({"traceparent": W3C}, 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True),
        ({"b3": B3}, 0x80F198EE56343BA864FE8B2A57D3EFF7, 0xE457B5A2E4D86BD1, True),
        ({"b3": "64fe8b2a57d3eff7-e457b5a2e4d86bd1"}, 0x64FE8B2A57D3EFF7, 0xE457B5A2E4D86BD1, True),
        (B3_MULTI, 0x463AC35C9F6413AD48485A3953BB6124, 0xA2FB4A1D1A96D312, False),
        ({**B3_MULTI, "x-b3-flags": "1"}, 0x463AC35C9F6413AD48485A3953BB6124, 0xA2FB4A1D1A96D312, True),
        ({"traceparent": W3C, "b3": B3, **B3_MULTI}, 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True),
        ({"traceparent": "nonsense", "b3": B3}, 0x80F198EE56343BA864FE8B2A57D3EFF7, 0xE457B5A2E4D86BD1, True),
    ],
)
def test_w3c_and_both_forms_of_b3_are_read_and_w3c_wins(
    headers: dict[str, str], trace_id: int, span_id: int, sampled: bool
) -> None:
    found = extracted(headers)
    assert (found.trace_id, found.span_id, found.trace_flags.sampled, found.is_remote) == (
        trace_id, span_id, sampled, True,
    )  # fmt: skip


@pytest.mark.parametrize("order", [("b3", "tracecontext"), ("tracecontext", "b3")])
def test_w3c_wins_in_whatever_order_they_are_named(order: tuple[str, str]) -> None:
    assert extracted({"traceparent": W3C, "b3": B3}, *order).trace_id == 0x0AF7651916CD43DD8448EB211C80319C


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (DEFAULT, {"traceparent", "baggage", "b3"}),
        (("tracecontext",), {"traceparent"}),
        (("b3multi",), {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}),
        (("b3", "b3multi"), {"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}),
        (("none",), set[str]()),
    ],
)
def test_what_is_named_is_written(names: tuple[str, ...], written: set[str]) -> None:
    source = FlxPropagator(_propagators(DEFAULT)).extract({"traceparent": W3C, "baggage": "k=v"})
    carrier: dict[str, str] = {}
    FlxPropagator(_propagators(names)).inject(carrier, source)
    assert set(carrier) == written


def test_what_is_written_is_read_back() -> None:
    for names in (DEFAULT, ("b3",), ("b3multi",), ("tracecontext",)):
        propagator = FlxPropagator(_propagators(names))
        source = FlxPropagator(_propagators(DEFAULT)).extract({"traceparent": W3C, "baggage": "k=v%20w"})
        carrier: dict[str, str] = {}
        propagator.inject(carrier, source)
        back = trace.get_current_span(propagator.extract(carrier)).get_span_context()
        assert (back.trace_id, back.span_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
        if "baggage" in names:
            assert baggage.get_all(propagator.extract(carrier)) == {"k": "v w"}


def test_an_unknown_name_is_told_and_the_others_serve(caplog: pytest.LogCaptureFixture) -> None:
    assert extracted({"b3": B3}, "b3", "telepathy").is_valid
    assert "OTEL_PROPAGATORS='telepathy' is not valid: allowed is " in caplog.text


KEYS = ("traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags")
HOSTILE = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")),
    st.from_regex(r"[0-9a-fA-F-]{0,80}", fullmatch=True),
    st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    st.from_regex(r"([a-z]=[^,;]{0,9}[,;]){0,70}", fullmatch=True),
)


@given(st.dictionaries(st.sampled_from(KEYS), HOSTILE), st.sampled_from(KEYS), st.integers(0, 3))
def test_hostile_headers_never_raise_and_never_give_a_broken_parent(
    headers: dict[str, str], repeated: str, times: int
) -> None:
    carrier: dict[str, list[str]] = {key: [value] for key, value in headers.items()}
    carrier[repeated] = carrier.get(repeated, []) * times
    propagator = FlxPropagator(_propagators(("tracecontext", "baggage", "b3", "b3multi")))
    context = propagator.extract(carrier)
    found = trace.get_current_span(context).get_span_context()
    assert 0 <= found.trace_id < 2**128 and 0 <= found.span_id < 2**64
    out: dict[str, str] = {}
    propagator.inject(out, context)
    assert not any(c in value for value in out.values() for c in "\r\n\0")


def test_a_propagator_that_fails_leaves_the_others_working(faults_fail_tests: list[object]) -> None:
    class Broken(FlxPropagator):
        def extract(self, *args: object, **kwargs: object):
            raise RuntimeError("no")

    whole = FlxPropagator([Broken([]), *_propagators(("tracecontext",))])
    assert trace.get_current_span(whole.extract({"traceparent": W3C})).get_span_context().is_valid
    assert len(faults_fail_tests) == 1
    faults_fail_tests.clear()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The global propagator as a process has it, which has told nothing yet."""
    before = propagate.get_global_textmap()
    monkeypatch.setattr(guard, "_told", set[str]())
    configure_propagation()
    yield
    propagate.set_global_textmap(before)


W3C_JUNK = {
    "baggage-members": {"baggage": ",".join(f"evil\x85flx-otel: forged {number}" for number in range(50))},
    "baggage-control": {"baggage": "a b\x9b31mevil=1;\tx"},
    "baggage-bare": {"baggage": "evil,evil,evil"},
    "baggage-long": {"baggage": "k=" + "evil" * 5000},
    "baggage-member-long": {"baggage": "k=" + "evil" * 1500},
    "baggage-many": {"baggage": ",".join(f"evil{number}=1" for number in range(200))},
    "tracestate-junk": {"traceparent": W3C, "tracestate": "evil\xff=\x85forged,y@@=1"},
    "tracestate-many": {"traceparent": W3C, "tracestate": ",".join(f"evil{number}=v" for number in range(40))},
    "tracestate-long": {"traceparent": W3C, "tracestate": ",".join(f"evil{number}=v" for number in range(3000))},
    "traceparent-long": {"traceparent": "evil" * 200},
    "b3-long": {"b3": "evil" * 100},
    "b3-multi-long": {**B3_MULTI, "x-b3-flags": "evil" * 100},
}


@pytest.mark.parametrize("headers", W3C_JUNK.values(), ids=W3C_JUNK)
def test_what_an_outsider_sends_is_told_once_and_never_in_his_words(
    configured: None, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    for _ in range(3):
        propagate.extract(headers)
    (said,) = caplog.messages
    assert "was left out" in said and "further ones are not told" in said
    assert "evil" not in said and said.isascii()


def test_what_is_well_formed_is_not_told(configured: None, caplog: pytest.LogCaptureFixture) -> None:
    propagate.extract({"traceparent": W3C, "tracestate": "a=1", "baggage": "k=v,l=w;p", "b3": B3, **B3_MULTI})
    assert caplog.messages == []


def test_a_mistake_of_the_app_itself_is_still_told_by_upstream(
    configured: None, caplog: pytest.LogCaptureFixture
) -> None:
    trace.TraceState().add("Not Valid", "1")
    assert caplog.messages == ["Invalid key/value pair (Not Valid, 1) found."]


def test_configuring_twice_filters_once(configured: None) -> None:
    configure_propagation()
    assert len(logging.getLogger("opentelemetry.baggage.propagation").filters) == 1


def test_a_header_that_is_too_long_is_not_read(configured: None) -> None:
    read: list[str] = []

    class Reading(TextMapPropagator):
        def extract(self, carrier: object, context: Context | None = None, getter: Any = None) -> Context:
            read.extend(key for key in ("traceparent", "baggage", "b3", "uber-trace-id") if getter.get(carrier, key))
            return Context()

        def inject(self, *args: object, **kwargs: object) -> None: ...

        @property
        def fields(self) -> set[str]:
            return set()

    def headers(**lengths: int) -> dict[str, list[str]]:
        return {key.replace("_", "-"): ["x" * length] for key, length in lengths.items()}

    propagator = FlxPropagator([Reading()])
    propagator.extract(headers(traceparent=512, baggage=8192, b3=128, uber_trace_id=8192))
    assert read == ["traceparent", "baggage", "b3", "uber-trace-id"]
    propagator.extract(headers(traceparent=513, baggage=8193, b3=129, uber_trace_id=8193))
    propagator.extract({"baggage": ["x" * 100] * 100})
    assert len(read) == 4


class LowerCase(Getter[dict[str, list[str]]]):
    """A getter that promises lower-case names."""

    lower_case = True

    def get(self, carrier: dict[str, list[str]], key: str) -> list[str] | None:
        return carrier.get(key)

    def keys(self, carrier: dict[str, list[str]]) -> list[str]:
        return list(carrier)


hexadecimal = st.text("0123456789abcdef", min_size=16, max_size=16)
traceparents = st.one_of(
    st.builds(
        "{}-{}{}-{}-{}".format,
        st.sampled_from(["00", "01", "ff"]),
        hexadecimal,
        hexadecimal,
        hexadecimal,
        st.sampled_from(["00", "01", "02", "03", "ff", "0g"]),
    ),
    st.sampled_from(
        [
            W3C,
            f" {W3C}",
            f"{W3C}-x",
            f"{W3C}\n",
            W3C.upper(),
            "00" * 600,
            "",
            f"00-{'0' * 32}-{'1' * 16}-01",
            f"00-{'1' * 32}-{'0' * 16}-01",
            "00-\u0661" + "1" * 31 + f"-{'1' * 16}-01",
        ]
    ),
    st.text(max_size=60),
)
carriers = st.fixed_dictionaries(
    {},
    optional={
        "traceparent": st.lists(traceparents, min_size=1, max_size=2),
        "tracestate": st.lists(st.sampled_from(["a=1", "", "a=1,b=2", "no"]), min_size=1, max_size=2),
        "baggage": st.lists(st.sampled_from(["k=v", "", "k", "k=v;p=1"]), min_size=1, max_size=2),
        "b3": st.lists(st.sampled_from([B3, "0", "nonsense"]), min_size=1, max_size=1),
        "x-b3-traceid": st.just([B3_MULTI["x-b3-traceid"]]),
        "x-b3-spanid": st.just([B3_MULTI["x-b3-spanid"]]),
        "x-b3-sampled": st.sampled_from([["1"], ["0"], ["d"]]),
    },
)  # fmt: skip


@given(carriers, st.sampled_from([DEFAULT, ("tracecontext",), ("b3multi", "tracecontext"), ("baggage", "b3")]))
def test_the_short_way_reads_what_the_long_way_reads(carrier: dict[str, list[str]], names: tuple[str, ...]) -> None:
    propagator = FlxPropagator(_propagators(names))
    short, long = propagator.extract(carrier, Context(), LowerCase()), propagator.extract(carrier, Context())
    assert tuple(trace.get_current_span(short).get_span_context()) == tuple(
        trace.get_current_span(long).get_span_context()
    )
    assert baggage.get_all(short) == baggage.get_all(long)
    assert len(short) == len(long)


spans_of_others = st.sampled_from([None, trace.INVALID_SPAN, "not a span"])
span_contexts = st.builds(
    SpanContext,
    st.sampled_from([0, 1, 2**128 - 1, 0x0AF7651916CD43DD8448EB211C80319C]),
    st.sampled_from([0, 1, 2**64 - 1]),
    st.booleans(),
    st.integers(0, 255).map(trace.TraceFlags),
    st.sampled_from([None, trace.TraceState(), trace.TraceState([("a", "1"), ("b@c", "2")])]),
)


@given(
    st.one_of(spans_of_others, span_contexts.map(trace.NonRecordingSpan)),
    st.dictionaries(st.sampled_from(["k", "ü"]), st.sampled_from(["v", "a b", ""]), max_size=2),
    st.sampled_from([DEFAULT, ("tracecontext",), ("b3",), ("b3multi", "baggage"), ("b3", "b3multi", "tracecontext")]),
    st.booleans(),
)
def test_what_is_written_is_what_upstream_writes(
    span: Any, bag: dict[str, str], names: tuple[str, ...], is_current: bool
) -> None:
    context = Context() if span is None else trace.set_span_in_context(span, Context())
    for name, value in bag.items():
        context = baggage.set_baggage(name, value, context)
    propagators = _propagators(names)
    expected: dict[str, str] = {}
    for each in propagators:
        each.inject(expected, context)
    written: dict[str, str] = {}
    if is_current:
        token = attach(context)
        FlxPropagator(propagators).inject(written)
        detach(token)
    else:
        FlxPropagator(propagators).inject(written, context)
    assert written == expected
    assert list(written) == list(expected)
