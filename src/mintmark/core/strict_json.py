"""JSON that means one thing (RFC 8259, RFC 7493), or is refused.

Two readers of one token must not see two tokens: a duplicate member, a lone surrogate, a byte order
mark or a number that one reader rounds and another refuses is a way to show a gateway one audience
and a service the other. So: UTF-8 without a byte order mark, each member of an object once (after
unescaping), no NaN or Infinity, no float too large for a double, integers of 64 bits, and bounds on
size, depth and number of values, so that no input is costly.
"""

from typing import Annotated, Any, Final

import msgspec

from mintmark.errors import MintmarkError

MAX_SIZE: Final = 8192
"""The default limit in bytes, that of a whole token."""
MAX_DEPTH: Final = 16
"""How many arrays and objects may enclose each other."""
MAX_CONTAINERS: Final = 1024
MAX_COMMAS: Final = 16384
"""Bounds of the work on a text, counted before it is parsed and whether inside strings or not."""
MAX_INTEGER: Final = 2**63 - 1
MIN_INTEGER: Final = -(2**63)

_FAST_DEPTH: Final = 5


class NotStrictJson(MintmarkError, ValueError):
    """The bytes are not JSON as above; the message says which rule, and holds no part of them."""


def _type_of_depth(depth: int) -> Any:
    integer = Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
    nested: Any = integer | float | str | bool | None
    for _ in range(depth):
        nested = integer | float | str | bool | None | list[nested] | dict[str, nested]
    return nested


# The type bounds integers and depth while decoding, at no cost. It grows as 2**depth, so it stops
# where nearly all tokens do; what is deeper takes the slow way.
_decode: Final = msgspec.json.Decoder(_type_of_depth(_FAST_DEPTH)).decode
_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def decode(data: bytes, *, max_size: int = MAX_SIZE) -> object:
    """The value of ``data``: dict, list, str, int, float, bool or None.

    Raises :class:`NotStrictJson`, and nothing else, for every other input.
    """
    if len(data) > max_size:
        raise NotStrictJson("longer than the limit")
    return parse(data)


def parse(data: bytes) -> object:
    """As :func:`decode`, for bytes whose size somebody has checked."""
    try:
        value = _decode(data)
        # What the decoder kept, written compactly, is the input: so nothing was dropped, and no
        # member came twice. Most issuers write compact JSON; the others pay for a second parse.
        if _encode(value) == data:
            return value
    except (msgspec.DecodeError, UnicodeError):
        pass
    return _decode_slowly(data)


def _decode_slowly(data: bytes) -> object:
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS or data.count(b",") > MAX_COMMAS:
        raise NotStrictJson("too many values")
    problem = "not JSON in UTF-8"
    value: object = None
    try:
        value = _decode_any(data)
        _refuse_duplicates(data)
    except NotStrictJson as error:
        problem = str(error)
    except RecursionError:
        problem = "nested too deeply"
    except (msgspec.DecodeError, ValueError):
        pass
    else:
        _check_bounds(value)
        return value
    # Raised outside the handlers: the library's errors carry the input in their attributes.
    raise NotStrictJson(problem)


def _refuse_duplicates(data: bytes) -> None:
    # Imported here: compact JSON, which is nearly all there is, never needs it.
    import json  # noqa: PLC0415

    json.loads(data.decode(), object_pairs_hook=_members)


def _members(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise NotStrictJson("a member of an object comes twice")


def _check_bounds(value: object) -> None:
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        containers = False
        for item in level:
            if type(item) is dict:
                containers = True
                below.extend(item.values())
            elif type(item) is list:
                containers = True
                below.extend(item)
            elif type(item) is int and not MIN_INTEGER <= item <= MAX_INTEGER:
                raise NotStrictJson("an integer of more than 64 bits")
        depth += containers
        if depth > MAX_DEPTH:
            raise NotStrictJson("nested too deeply")
        level = below
