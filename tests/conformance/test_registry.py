"""Whatever a setting can name runs the suites of its port."""

from tests import registry

from mintmark.adapters.registry import BUSES, STORES


def test_every_store_and_bus_that_can_be_configured_is_tested():
    """Each scheme of the registry of adapters has its line in the registry of the suites; TLS is beneath
    the same adapters, and has tests of its own in tests/adapters/test_bus_tls.py."""
    assert set(STORES) <= set(registry.STORES)
    over_tls = {"rediss", "tls"}
    assert set(BUSES) - over_tls <= set(registry.BUSES)
