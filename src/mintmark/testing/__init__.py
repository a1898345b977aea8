"""For tests: a clock that stands still, an issuer that misbehaves on demand."""
