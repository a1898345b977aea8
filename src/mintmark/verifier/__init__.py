"""Drives the pure verification flow: key set, revocation feed, sync and async."""
