"""Verify access tokens of Mintmark, or of any other issuer, and obey its logouts."""
