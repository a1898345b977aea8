"""base64url without padding, as JOSE uses it (RFC 7515 s.2), each value with exactly one spelling.

A lenient decoder gives one signature many spellings: whatever denies or counts tokens by their text
is then blind to all but one of them. So nothing outside the alphabet passes, no padding, no white
space, and the unused bits of the last character are zero (RFC 4648 s.3.5).
"""

import pybase64

from mintmark.errors import MintmarkError

_ALTERNATIVE = b"-_"


class NotBase64url(MintmarkError, ValueError):
    """The text is not the base64url of anything; the message holds no part of it."""


def encode(data: bytes) -> str:
    """The unpadded base64url text of ``data``."""
    return pybase64.b64encode_as_string(data, _ALTERNATIVE, padded=False)


def decode(text: str | bytes) -> bytes:
    """The bytes that ``text`` spells; ``decode(encode(data)) == data`` and no other text gives ``data``.

    Raises :class:`NotBase64url` for a character outside the alphabet, padding, a length that no
    encoding has, or a last character with bits set that carry nothing.
    """
    try:
        return pybase64.b64decode(text, _ALTERNATIVE, True, padded=False, canonical=True)
    except ValueError:
        # binascii.Error for bytes, plain ValueError for text outside ASCII: one error for both, and
        # none of them as its cause, whose message or locals could hold the text.
        pass
    raise NotBase64url("not base64url without padding in its one canonical spelling")
