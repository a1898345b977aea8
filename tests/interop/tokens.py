"""What is done to tokens that verifiers must refuse."""


def tampered(token: str) -> str:
    """The token with another payload under the same signature."""
    head, payload, signature = token.split(".")
    middle = len(payload) // 2
    changed = "A" if payload[middle] != "A" else "B"
    return f"{head}.{payload[:middle]}{changed}{payload[middle + 1 :]}.{signature}"
