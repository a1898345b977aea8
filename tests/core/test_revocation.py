"""A revocation event says one thing, or is not made."""

import msgspec
import pytest

from mintmark.core.revocation import Kind, RevocationEvent
from mintmark.units import NumericDate


@pytest.mark.parametrize("kind", list(Kind))
def test_not_before_belongs_to_client_and_all(kind):
    """An event denies by time exactly if its kind does; the contradiction is never constructed."""
    by_time = kind in {Kind.CLIENT, Kind.ALL}
    assert kind.by_time is by_time
    good, bad = (NumericDate(5), None) if by_time else (None, NumericDate(5))
    event = RevocationEvent(kind=kind, value="v", expires_at=NumericDate(9), not_before=good)
    assert event.not_before == good
    with pytest.raises(ValueError, match="not_before"):
        RevocationEvent(kind=kind, value="v", expires_at=NumericDate(9), not_before=bad)


def test_it_survives_json_and_refuses_contradictions_there_too():
    """What one node encodes another decodes to an equal value; a contradiction in JSON is refused."""
    event = RevocationEvent(kind=Kind.RID, value="r", expires_at=NumericDate(9))
    assert msgspec.json.encode(event) == b'{"kind":"rid","value":"r","expires_at":9}'
    assert msgspec.json.decode(msgspec.json.encode(event), type=RevocationEvent) == event
    for hostile in (
        b'{"kind":"rid","value":"r","expires_at":9,"not_before":1}',
        b'{"kind":"all","value":"","expires_at":9}',
        b'{"kind":"user","value":"r","expires_at":9}',
        b'{"kind":"rid","value":1,"expires_at":9}',
        b'{"kind":"rid","value":"r","expires_at":"9"}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(hostile, type=RevocationEvent)
