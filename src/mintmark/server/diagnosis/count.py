"""Numbers as a sentence says them."""


def counted(number: int, what: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
