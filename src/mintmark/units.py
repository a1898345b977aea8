"""The types of time and of identifiers, and the one place where text becomes either.

Times are ``NumericDate`` (RFC 7519 s.2: whole seconds since 1970-01-01T00:00:00Z), spans are
``Seconds``. Identifiers are opaque text; each kind has a type of its own, so that a checker notices
when one is passed for another.
"""

import re
from typing import Final, NewType

NumericDate = NewType("NumericDate", int)
Seconds = NewType("Seconds", int)

Kid = NewType("Kid", str)
"""A key's id: its RFC 7638 thumbprint, 43 characters of base64url."""
Rid = NewType("Rid", str)
"""A refresh session's public id: 128 random bits, 22 characters of base64url. The claim ``rid``."""
Jti = NewType("Jti", str)
"""One token's id: 128 random bits, 22 characters of base64url (RFC 7519 s.4.1.7)."""
Sub = NewType("Sub", str)
"""A subject (RFC 7519 s.4.1.2). A user's begins with ``usr_``, so that no client can have it."""
ClientId = NewType("ClientId", str)
"""A client's id (RFC 6749 s.2.2)."""
Issuer = NewType("Issuer", str)
"""An issuer's URL, compared byte for byte (RFC 8414 s.2)."""
NodeId = NewType("NodeId", str)
"""One run of ``mintmark serve``: random, never reused, so a restarted node is another node."""

_DURATION: Final = re.compile(r"([1-9][0-9]{0,8}|0)(s|m|h|d)")
_FACTORS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> Seconds:
    """The span that ``"15m"`` means: one whole number and one unit of ``s``, ``m``, ``h`` or ``d``.

    Raises ValueError, with a sentence for the person who wrote it, for anything else.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(
            f'{text!r} is not a duration: write a whole number and a unit, like "30s", "15m" or "4h"'
        )
    return Seconds(int(found[1]) * _FACTORS[found[2]])


def format_duration(span: Seconds) -> str:
    """``span`` in the largest unit that divides it; what :func:`parse_duration` reads back."""
    for unit in ("d", "h", "m"):
        if span and span % _FACTORS[unit] == 0:
            return f"{span // _FACTORS[unit]}{unit}"
    return f"{span}s"


def spoken(span: int) -> str:
    """The two largest units of ``span``, whichever its sign, as a sentence says it: ``15m 35s``, ``3h``."""
    left, parts = abs(span), list[str]()
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, _FACTORS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2]) or "0s"
