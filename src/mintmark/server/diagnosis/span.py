"""Spans and numbers as a sentence says them."""

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def spoken(seconds: int) -> str:
    """The two largest units of ``seconds``, whichever its sign: ``15m 35s``, ``3h``, ``0s``."""
    left, parts = abs(seconds), list[str]()
    for unit, size in _UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def counted(number: int, what: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
