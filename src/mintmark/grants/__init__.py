"""One file per grant_type."""
