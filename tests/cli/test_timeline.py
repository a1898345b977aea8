"""``mintmark keys timeline``: whatever the ring is, it is drawn within its width, and now is in it."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mintmark.cli.output import Output
from mintmark.cli.timeline import ASCII, MIN_WIDTH, UNICODE, Phase, bars, document, draw, window
from mintmark.core import keyring
from mintmark.core.key import Activation, Key, KeyMode, KeyState
from mintmark.core.keyring import Member, Ring
from mintmark.core.timing import Timing
from mintmark.ports.keyring import RingView
from mintmark.units import Issuer, Kid, NodeId, NumericDate, Seconds

ISSUER = Issuer("https://auth.example.com")
NOW = NumericDate(1_800_000_000)
TIMING = Timing()
HOUR = 3600

PICTURE = """
                  3h ago                         now
                                                  |
cluster, shared
  shared-k  ES256                      ..#########|####-----
node a, live
  old-key-+ ES256 .####################-----------|----
  new-key-  ES256                               ..|.
node b, gone
  key-of-b  ES256                      ..###xxxxxx|xxxx

. prepared   # active   - passive   x revoked   | now
+ held
"""


def key(
    kid: str, state: KeyState = KeyState.ACTIVE, *, node: str = "a", at: int = -HOUR, **changes: object
) -> Key:
    """A key that was prepared, and if it ever signed activated, so many seconds from now."""
    began = NumericDate(NOW + at)
    made = Key(
        kid=Kid(kid),
        node=NodeId(node),
        alg="ES256",
        jwk=b"{}",
        state=state,
        since=1,
        prepared_at=began,
        lease_until=NumericDate(NOW + 60),
    )
    if state is not KeyState.PREPARED:
        made = replace(
            made,
            activated_at=NumericDate(began + 600),
            activation=Activation.PROVEN,
            sign_until=NumericDate(began + 600 + TIMING.rotate_every),
            publish_until=NumericDate(NOW + 1500),
        )
    return replace(made, **changes)  # type: ignore[arg-type]


def view(*keys: Key, live: str = "a") -> RingView:
    members = tuple(Member(NodeId(node), NOW, 1) for node in live)
    return RingView(Ring(issuer=ISSUER, generation=3, keys=keys), members, NOW)


def spans(seen: RingView, kid: str) -> list[tuple[str, int, int, bool]]:
    (bar,) = [bar for bar in bars(seen, TIMING) if bar.key.kid == kid]
    return [(one.phase.value, one.begin - NOW, one.end - NOW, one.planned) for one in bar.spans]


# --- spans -------------------------------------------------------------------------------------------


def test_active_key_signs_until_its_target_and_is_kept_by_the_arithmetic():
    """What lies ahead is planned; past its target it signs on until now."""
    signs = 600 - HOUR + TIMING.rotate_every
    assert spans(view(key("k")), "k") == [
        ("prepared", -HOUR, 600 - HOUR, False),
        ("active", 600 - HOUR, signs, True),
        ("passive", signs, TIMING.covered_until(NumericDate(signs)), True),
    ]
    overdue = spans(view(key("k", at=-9 * HOUR)), "k")
    assert overdue[1] == ("active", 600 - 9 * HOUR, 0, True)


def test_prepared_key_signs_after_the_lead_at_the_earliest():
    """Counted from its proof, and from now where it was not proven."""
    assert spans(view(key("k", KeyState.PREPARED)), "k") == [("prepared", -HOUR, TIMING.lead, True)]
    proven = key("k", KeyState.PREPARED, proven_at=NumericDate(NOW - 100))
    assert spans(view(proven), "k")[0][2] == TIMING.lead - 100
    waiting = key("k", KeyState.PREPARED, proven_at=NumericDate(NOW - HOUR))
    assert spans(view(waiting), "k")[0][2] == 0


def test_passive_key_signed_until_its_successor_did():
    """Or until its lease ended; it is kept for as long as the store says, and for ever while it is held."""
    old, new = key("old", KeyState.PASSIVE), key("new", at=-1200)
    assert spans(view(old, new), "old")[1:] == [
        ("active", 600 - HOUR, -600, False),
        ("passive", -600, 1500, True),
    ]
    lapsed = replace(old, lease_until=NumericDate(NOW - 900))
    assert spans(view(lapsed, replace(new, node=NodeId("b"))), "old")[1][2] == -900
    held = replace(lapsed, publish_until=NumericDate(NOW - 300), held=True)
    assert spans(view(held), "old")[2] == ("passive", -900, 0, True)


def test_key_of_the_cluster_takes_the_place_of_all():
    """The own keys of every node end where it began, and its own successor ends it."""
    own, cluster = key("own", KeyState.PASSIVE), key("c", at=-1200, mode=KeyMode.SHARED)
    assert spans(view(own, replace(cluster, node=NodeId("z"))), "own")[1][2] == -600


def test_revoked_key_ends_where_it_was_revoked():
    """What it would have done later is not drawn."""
    revoked = key(
        "k", KeyState.REVOKED, revoked_at=NumericDate(NOW - 120), publish_until=NumericDate(NOW + 9**6)
    )
    assert [one[:3] for one in spans(view(revoked), "k")] == [
        ("prepared", -HOUR, 600 - HOUR),
        ("active", 600 - HOUR, -120),
        ("revoked", -120, 9**6),
    ]


# --- the picture -------------------------------------------------------------------------------------


def test_picture_is_told_apart_without_colour():
    """Each phase has a character of its own, in both sets, and the legend says which."""
    for glyphs in (UNICODE, ASCII):
        shown = [*glyphs.phases.values(), glyphs.now, glyphs.held, " "]
        assert len(set(shown)) == len(shown)
        assert set(glyphs.phases) == set(Phase)
        text = "\n".join(line.plain for line in draw(view(key("k")), TIMING, width=80, glyphs=glyphs))
        assert all(f"{sign} {phase.value}" in text for phase, sign in glyphs.phases.items())
    assert "".join(ASCII.phases.values()).isascii()


def test_picture_has_colour_on_a_terminal_alone(monkeypatch):
    """In a pipe, and where NO_COLOR asks for none, there is no escape code; on a terminal there is."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        Output(as_json=False, stdout=stream).answer({}, *draw(view(key("k")), TIMING, width=80))
        assert ("\x1b[" in stream.getvalue()) is coloured
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Output(as_json=False, stdout=stream).answer({}, *draw(view(key("k")), TIMING, width=80))
    assert "\x1b[3" not in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_picture_of_a_rotation():
    """Two nodes, one of them gone, and a key of the cluster, to the column."""
    timing = Timing(rotate_every=Seconds(2 * HOUR))
    seen = view(
        key("old-key-of-a", KeyState.PASSIVE, at=-3 * HOUR, lease_until=NumericDate(NOW - HOUR), held=True),
        key("new-key-of-a", KeyState.PREPARED, at=-600, proven_at=NumericDate(NOW - 300)),
        key("key-of-b", KeyState.REVOKED, node="b", revoked_at=NumericDate(NOW - 1800)),
        key("shared-key", mode=KeyMode.SHARED, node="b", sign_until=NumericDate(NOW + 1800)),
    )
    lines = [line.plain.rstrip() for line in draw(seen, timing, width=60, glyphs=ASCII)]
    assert "\n".join(lines) == PICTURE.strip("\n")


@pytest.mark.parametrize("width", [0, 1, MIN_WIDTH, 80, 300])
def test_width_is_never_exceeded_and_at_least_forty(width):
    """A terminal too narrow to draw in gets forty columns."""
    lines = draw(view(key("k")), TIMING, width=width)
    assert max(cell_len(line.plain) for line in lines) == max(width, MIN_WIDTH)


_TIMES = st.integers(-(10**6), 10**6).map(lambda at: NumericDate(NOW + at)) | st.integers(0, 2**40).map(
    NumericDate
)
_NAMES = st.text(min_size=1, max_size=50)
_KEYS = st.builds(
    Key,
    kid=_NAMES.map(Kid),
    node=st.sampled_from(["a", "b", "\u7bc0\u70b9", "x\x1b[31m" * 20]).map(NodeId) | _NAMES.map(NodeId),
    alg=st.sampled_from(["RS256", "EdDSA"]) | _NAMES,
    jwk=st.just(b"{}"),
    state=st.sampled_from([state for state in KeyState if state is not KeyState.RETIRED]),
    since=st.just(1),
    prepared_at=_TIMES,
    lease_until=_TIMES,
    proven_at=st.none() | _TIMES,
    activated_at=st.none() | _TIMES,
    sign_until=st.none() | _TIMES,
    publish_until=_TIMES,
    revoked_at=st.none() | _TIMES,
    mode=st.sampled_from(KeyMode),
    held=st.booleans(),
)
_RINGS = st.lists(_KEYS, max_size=6).map(lambda keys: view(*keys))


@given(_RINGS, st.integers(0, 200), st.sampled_from([UNICODE, ASCII]))
def test_any_ring_is_drawn_within_its_width_with_now_in_each_bar(seen, width, glyphs):
    """One line a key, none wider than the terminal, now in one column of all, and nothing that it obeys."""
    lines = draw(seen, TIMING, width=width, glyphs=glyphs)
    texts = [line.plain for line in lines]
    assert all(cell_len(text) <= max(width, MIN_WIDTH) for text in texts)
    assert all(text.isprintable() for text in texts)
    column = cell_len(texts[1]) - 1
    assert texts[1].endswith(glyphs.now)
    drawn = [text for text in texts[2:] if text.startswith("  ")]
    assert len(drawn) == len(seen.ring.keys)
    for text in drawn:
        before = next(n for n in range(len(text)) if cell_len(text[:n]) == column)
        assert text[before] == glyphs.now
        assert text.count(glyphs.now, before) == 1
        assert any(sign in text for sign in glyphs.phases.values()) or text.rstrip().endswith(glyphs.now)


@given(_RINGS)
def test_spans_of_any_ring_follow_one_another(seen):
    """Each begins where the one before ended and none ends before it begins; programs get the same ones."""
    found = bars(seen, TIMING)
    for bar in found:
        assert all(one.begin <= one.end for one in bar.spans)
        assert all(one.end == other.begin for one, other in zip(bar.spans, bar.spans[1:], strict=False))
    begin, end = window(found, TIMING, NOW)
    assert begin < NOW < end
    assert end - begin <= 4 * TIMING.rotate_every
    told = document(seen, TIMING)["keys"]
    assert isinstance(told, list)
    assert [len(one["spans"]) for one in told] == [len(bar.spans) for bar in found]


def test_life_of_a_key_is_drawn_as_core_makes_it():
    """From preparation to retirement by the functions that nodes use, its spans are those of its states."""
    ring = keyring.prepare(
        Ring(issuer=ISSUER), kid=Kid("k"), node=NodeId("a"), alg="ES256", jwk=b"{}", timing=TIMING, now=NOW
    )
    now = NumericDate(NOW + 10)
    ring = keyring.activate(ring, Kid("k"), Activation.BOOTSTRAP, timing=TIMING, now=now)
    later = NumericDate(now + TIMING.lease)
    ring = keyring.lapse(ring, Kid("k"), now=later)
    (bar,) = bars(RingView(ring, (), later), TIMING)
    assert [(one.phase, one.begin, one.end) for one in bar.spans] == [
        (Phase.PREPARED, NOW, now),
        (Phase.ACTIVE, now, later),
        (Phase.PASSIVE, later, ring.keys[0].publish_until),
    ]
