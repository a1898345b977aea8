"""JSON that two readers could read differently is refused; all other JSON means what it says."""

import json
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core import strict_json
from mintmark.errors import MintmarkError

INTEGERS = st.integers(min_value=strict_json.MIN_INTEGER, max_value=strict_json.MAX_INTEGER)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT, below, max_size=4),
    max_leaves=12,
)


def is_refused(data: bytes, **options) -> bool:
    try:
        strict_json.decode(data, **options)
    except strict_json.NotStrictJson:
        return True
    return False


@pytest.mark.parametrize(
    "data", [b'{"a":1,"a":1}', b'"secret', b'"\xff"', b"[" * 500, b"9" * 5000, b"[" * 9000]
)
def test_the_error_is_our_own_and_carries_nothing(data):
    """Neither the error nor any error behind it holds the input, as the libraries' errors do."""
    with pytest.raises(strict_json.NotStrictJson) as caught:
        strict_json.decode(data)
    assert isinstance(caught.value, MintmarkError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "secret" not in str(caught.value)


@given(VALUES, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]), st.booleans())
def test_any_value_survives_any_spelling(value, separators, escaped):
    """Compact or spaced, escaped or not, JSON decodes to the value that was written."""
    text = json.dumps(value, separators=separators, ensure_ascii=escaped)
    assert strict_json.decode(text.encode()) == value


@given(VALUES)
def test_types_are_kept(value):
    """A bool stays a bool, an integer an integer, a float a float: equality alone would not tell."""
    decoded = strict_json.decode(json.dumps(value).encode())
    assert json.dumps(decoded) == json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"a":2}',
        '{"a":1,"b":2,"a":3}',
        '{"\\u0061":1,"a":2}',
        '{"a":1,"\\u0061":1}',
        '{ "a" : 1 , "a" : 2 }',
        '{"":1,"":2}',
        '[{"a":{"b":[{"c":1,"c":1}]}}]',
        '{"a":{"x":1},"b":{"x":1,"x":1}}',
        '{"\\ud83d\\ude00":1,"\U0001f600":2}',
        '{"\\/":1,"/":2}',
    ],
)
def test_duplicate_members_are_refused(text):
    """VF10, RFC 7519 s.4, RFC 7493 s.2.3: a member comes once in an object, however spelled or nested."""
    assert is_refused(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"{}{}",
        b"{}x",
        b"{}\x00",
        b"\x00{}",
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1,}',
        b"[1,]",
        b"[,1]",
        b'{"a"}',
        b'{"a":}',
        b"nul",
        b"TRUE",
        b"undefined",
        b"// c\n{}",
        b"/**/{}",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"exp":NaN}',
        b"1e400",
        b"-1e400",
        b'{"exp": 1e400}',
        b"01",
        b"-01",
        b"+1",
        b".5",
        b"5.",
        b"0x10",
        b"1_000",
        b"1e",
        b"--1",
        b"9223372036854775808",
        b"-9223372036854775809",
        b" 9223372036854775808",
        b"18446744073709551616",
        b'[[[[[[[{"a":9223372036854775808}]]]]]]]',
        b"1" * 100,
        b"1" * 5000,
        b'"\x01"',
        b'"a\nb"',
        b'"a\tb"',
        b'"\\x41"',
        b'"\\u12"',
        b'"unfinished',
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\\udc00\\ud800"',
        b'"\\ud800\\u0041"',
        b'{"\\ud800":1}',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xe2\x82"',
        b"\xef\xbb\xbf{}",
        b"\x0b{}",
        b"\xc2\xa0{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_strict_json_is_refused(data):
    """RFC 8259 and RFC 7493: UTF-8, no byte order mark, finite numbers, 64 bits, whole characters."""
    assert is_refused(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"-0", 0),
        (b"1e308", 1e308),
        (b"1e-400", 0.0),
        (b'"\\u0000"', "\0"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b' {"a" : [ ] }\r\n', {"a": []}),
    ],
)
def test_the_edges_of_what_is_allowed(data, value):
    """The largest integers, spaces, escapes and tiny floats are all right."""
    assert strict_json.decode(data) == value


def nested(depth: int, compact: bool) -> bytes:
    text = b"[" * depth + b"]" * depth
    return text if compact else text + b" "


@pytest.mark.parametrize("compact", [True, False])
def test_depth_is_bounded(compact):
    """Sixteen containers may enclose each other and seventeen may not, whichever way is taken."""
    assert not is_refused(nested(strict_json.MAX_DEPTH, compact))
    assert is_refused(nested(strict_json.MAX_DEPTH + 1, compact))
    assert is_refused(b'{"a":' * 17 + b"1" + b"}" * 17)
    assert is_refused(nested(900, compact))
    assert is_refused(b"[" * 8000)


def test_a_deep_caller_changes_nothing():
    """Little stack left is no reason for another error, nor for another verdict on a shallow text."""

    def descend(levels: int) -> bool:
        if levels:
            return descend(levels - 1)
        return is_refused(b"[" * 800 + b"]" * 800 + b" ") and not is_refused(b'{"a": [1]}')

    assert descend(min(600, sys.getrecursionlimit() - 300))


def test_size_is_checked_first():
    """A text over the limit is refused whatever it says; one at the limit is read."""
    text = b'"' + b"a" * 98 + b'"'
    assert not is_refused(text, max_size=100)
    assert is_refused(text, max_size=99)


def work(data: bytes) -> Counter[str]:
    """Lines and calls that decoding ``data`` takes, by kind."""
    done: Counter[str] = Counter()

    def tracer(_frame, event, _arg):
        done[event] += 1
        return tracer

    sys.settrace(tracer)
    try:
        is_refused(data)
    finally:
        sys.settrace(None)
    return done


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 8192,
        b"[" + b"[]," * 2700 + b"[]]",
        b"[" + b"1," * 4000 + b"1 ]",
        b'{"a":' * 1300 + b"1" + b"}" * 1300,
        b"{" + b",".join(b'"%d":{}' % i for i in range(800)) + b" }",
        b'"' + b"\\u0041" * 1300 + b'" ',
        b" " * 8191 + b"1",
        b"9" * 8192,
        b"0." + b"9" * 8000 + b" ",
        b"1e" + b"9" * 8000,
        b'"' + b"[{," * 2700 + b'" ',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_work_is_bounded(data):
    """No text of a token's size makes our code run more than a few thousand lines: nothing is quadratic."""
    assert sum(work(data).values()) < 20_000


def test_nothing_is_parsed_beyond_the_bounds():
    """Beyond the limits of size and number the answer comes in a few lines, before any parse."""
    assert sum(work(b"[" * 10_000).values()) < 60
    assert sum(work(b"[" + b"[]," * 1100 + b"[] ]").values()) < 60


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123abe-+.tfn \n', max_size=60).map(str.encode))
def test_any_bytes_agree_with_an_independent_reader(data):
    """On any input the verdict is that of the standard library's reader with every rule added to it."""

    expected = reference(data)
    if expected is None:
        assert is_refused(data)
    else:
        assert strict_json.decode(data) == expected[0]


def reference(data: bytes) -> tuple[object] | None:
    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    def constant(name):
        raise ValueError(name)

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
        # Refuses infinities that a literal made, and characters that no text has.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None
    return None if any(abs(item) >= 2**63 for item in integers(value)) else (value,)


def integers(value: object) -> list[int]:
    if isinstance(value, dict):
        return [item for below in value.values() for item in integers(below)]
    if isinstance(value, list):
        return [item for below in value for item in integers(below)]
    return [value] if type(value) is int else []
