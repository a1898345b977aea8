"""One suite per port; every adapter runs all of it."""
