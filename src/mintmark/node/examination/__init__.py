"""Looks at everything that a node needs, for ``mintmark doctor``; changes nothing."""
