"""Use cases: they ask the core what to do and perform its effects through ports."""
