"""base64url without padding, as JOSE uses it (RFC 7515 s.2), each value with exactly one spelling.

A lenient decoder gives one signature many spellings: whatever denies or counts tokens by their text
is then blind to all but one of them. So nothing outside the alphabet passes, no padding, no white
space, and the unused bits of the last character are zero (RFC 4648 s.3.5).
"""

from typing import Final

from pybase64 import b64decode, b64encode_as_string

from mintmark.errors import MintmarkError

_ALTERNATIVE: Final = b"-_"
# Octets: asking bytes for one of these is six times as fast as asking for a string of length one.
_PAD, _62, _63 = b"=+/"
# By the length of the last quantum: what pads it, and the characters that may end it, those whose bits
# beyond the last whole byte are zero. No text ends with a quantum of one character.
_PADDING: Final = (b"", b"", b"==", b"=")
_LAST: Final = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")


class NotBase64url(MintmarkError, ValueError):
    """The text is not the base64url of anything; the message holds no part of it."""


def encode(data: bytes) -> str:
    """The unpadded base64url text of ``data``."""
    return b64encode_as_string(data, _ALTERNATIVE).rstrip("=")


def decode(text: str | bytes) -> bytes:
    """The bytes that ``text`` spells; ``decode(encode(data)) == data`` and no other text gives ``data``.

    Raises :class:`NotBase64url` for a character outside the alphabet, padding, a length that no
    encoding has, or a last character with bits set that carry nothing.
    """
    return decode_ascii(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))


def decode_ascii(text: bytes) -> bytes:
    """As :func:`decode`, for text that is already bytes."""
    rest = len(text) & 3
    # The library knows these rules too, but takes three times as long when asked for all of them; and
    # with an alternative alphabet it still lets the characters of the ordinary one pass.
    if (rest == 0 or text[-1] in _LAST[rest]) and _PAD not in text and _62 not in text and _63 not in text:
        try:
            return b64decode(text + _PADDING[rest], _ALTERNATIVE, True)
        except ValueError:
            pass
    # Raised outside the handler: the library's error would stay with ours as its context.
    raise NotBase64url("not base64url without padding in its one canonical spelling")


def decode_both(first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """:func:`decode_ascii` of two texts, in one call: it is made for every token."""
    rest, more = len(first) & 3, len(second) & 3
    if (
        (rest == 0 or first[-1] in _LAST[rest])
        and (more == 0 or second[-1] in _LAST[more])
        and _PAD not in first
        and _62 not in first
        and _63 not in first
        and _PAD not in second
        and _62 not in second
        and _63 not in second
    ):
        try:
            return (
                b64decode(first + _PADDING[rest], _ALTERNATIVE, True),
                b64decode(second + _PADDING[more], _ALTERNATIVE, True),
            )
        except ValueError:
            pass
    raise NotBase64url("not base64url without padding in its one canonical spelling")
