"""Who is there, and whether a node may leave. Defaults: L = 935 s, H = 120 s."""

from tests.core.rings import NOW, at

from mintmark.core.membership import Watch

# --- watching ------------------------------------------------------------------------------------------


def test_a_watch_lasts_while_the_store_is_read_without_a_gap():
    """Reads less than half of LIVE_FOR apart are one watch; a gap, or a clock that goes back, begins anew."""
    watch = Watch(NOW, NOW)
    for offset in (0, 4, 8, 12):
        watch = watch.read(at(offset))
    assert watch.since == NOW
    assert watch.read(at(17)).since == at(17)
    assert watch.read(at(11)).since == at(11)
