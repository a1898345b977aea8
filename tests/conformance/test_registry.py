"""Whatever a setting can name runs the suites of its port."""

from tests import registry

from mintmark.adapters.registry import BUSES, STORES


def test_every_store_and_bus_that_can_be_configured_is_tested():
    """Each scheme of the registry of adapters has its line in the registry of the suites."""
    assert set(STORES) <= set(registry.STORES)
    assert set(BUSES) <= set(registry.BUSES)
