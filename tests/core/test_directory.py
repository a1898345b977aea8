"""Names, scopes and audiences: one form for each, and narrower only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.core.directory import (
    LOCKED_FOR_GOOD,
    USER_PREFIX,
    User,
    check_client_id,
    check_origin,
    is_barred,
    narrow_audience,
    narrow_scope,
    normalize_username,
    parse_scope,
)
from mintmark.errors import InvalidScope, InvalidTarget
from mintmark.units import Issuer, NumericDate, Sub

words = st.lists(st.sampled_from(["read", "write", "orders:read", "a", "b"]), unique=True).map(tuple)

# --- user names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Ann", "ann"),
        ("  ann\N{NO-BREAK SPACE}", "ann"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}nn", "ann"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("\N{KELVIN SIGN}elvin", "kelvin"),
    ],
)
def test_spellings_that_look_alike_are_one_name(written: str, kept: str):
    """Case, width, composition and outer space make no second account."""
    assert normalize_username(written) == kept


marks = st.characters(categories=["Mn"])
letters = st.characters(categories=["Lu", "Ll", "Lt", "Lo"])


@given(st.text(st.one_of(letters, marks, marks), min_size=1, max_size=6))
def test_the_normal_form_of_a_name_is_its_own(text: str):
    """Normalizing twice is normalizing once: else one person would be looked up under two names."""
    try:
        name = normalize_username(text)
    except ValueError:
        return
    assert normalize_username(name) == name


def test_a_name_whose_case_folding_opens_a_composition_is_normalized_to_the_end():
    """U+1F9E folds to two letters, whose second composes with the breve that follows."""
    name = normalize_username("\u1f9e\u0306\u0359\u0363")
    assert name == normalize_username(name)


@pytest.mark.parametrize("text", ["", "   ", "a" * 255, "a\nb", "a\0b", "a\N{ZERO WIDTH JOINER}b", "a\ud800"])
def test_what_is_no_name_is_refused(text: str):
    """Empty, too long, or with characters that nobody sees."""
    with pytest.raises(ValueError, match="a user name has"):
        normalize_username(text)


def test_a_name_has_up_to_254_characters():
    """254 is the longest mail address (RFC 5321 s.4.5.3.1.3 less the brackets)."""
    assert normalize_username("a" * 254) == "a" * 254


# --- client ids --------------------------------------------------------------------------------------


@given(st.text())
def test_no_client_can_pass_for_a_user(text: str):
    """TC5, RFC 9700 s.4.15: no client id begins as every user's subject does."""
    with pytest.raises(ValueError, match="client id"):
        check_client_id(USER_PREFIX + text)


@pytest.mark.parametrize("text", ["a", "Web-1", "9.b_c", "a" * 64])
def test_a_client_id_is_short_and_plain(text: str):
    """1 to 64 letters, digits, dots, hyphens and underscores."""
    assert check_client_id(text) == text


@pytest.mark.parametrize("text", ["", ".a", "-a", "_a", "a" * 65, "a b", "a/b", "a\n", "ä", "a:b"])
def test_what_is_no_client_id_is_refused(text: str):
    """Nothing that would need an escape in a URL, a log or a file name."""
    with pytest.raises(ValueError, match="client id"):
        check_client_id(text)


# --- scopes ------------------------------------------------------------------------------------------


def test_a_scope_parameter_is_a_list_of_words():
    """RFC 6749 s.3.3: separated by spaces, the order means nothing, a repeated one is one."""
    assert parse_scope("read write read") == ("read", "write")
    assert parse_scope("") == parse_scope("   ") == ()


@given(st.text(st.characters(exclude_characters=" "), min_size=1, max_size=4))
def test_a_scope_has_only_the_characters_of_the_grammar(text: str):
    """RFC 6749 s.3.3: %x21 / %x23-5B / %x5D-7E, nothing else."""
    allowed = all("!" <= c <= "~" and c not in '"\\' for c in text)
    if allowed:
        assert parse_scope(text) == (text,)
    else:
        with pytest.raises(InvalidScope):
            parse_scope(text)


def test_a_scope_longer_than_any_that_is_configured_is_refused():
    """128 characters are the limit; the description repeats nothing of the request."""
    assert parse_scope("a" * 128) == ("a" * 128,)
    with pytest.raises(InvalidScope) as caught:
        parse_scope("b" * 129)
    assert "bb" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "barred"),
    [
        ({}, False),
        ({"disabled_at": NumericDate(1)}, True),
        ({"disabled_at": NumericDate(2_000)}, True),
        ({"locked_until": NumericDate(1_000)}, False),
        ({"locked_until": NumericDate(1_001)}, True),
        ({"locked_until": LOCKED_FOR_GOOD}, True),
    ],
)
def test_a_user_is_barred_while_disabled_or_locked(changes, barred):
    """PW12: for good by the one, by the other up to the second at which the lock ends and no longer."""
    user = User(
        issuer=Issuer("https://auth.example.com"),
        sub=Sub("usr_1"),
        username="alice",
        password_hash="",
        scopes=(),
        created_at=NumericDate(1),
        password_changed_at=NumericDate(1),
        **changes,
    )
    assert is_barred(user, NumericDate(1_000)) is barred


@given(st.none() | words, words, words)
def test_a_request_narrows_and_never_widens(requested, client, user):
    """R6, RF5: what is granted everybody has; more than that is refused, not cut."""
    both = set(client) & set(user)
    if requested is not None and not set(requested) <= both:
        with pytest.raises(InvalidScope):
            narrow_scope(requested, client, user)
    else:
        granted = narrow_scope(requested, client, user)
        assert set(granted) == (both if requested is None else set(requested))


def test_an_empty_request_is_granted_nothing():
    """Asking for no scope is not asking for the default."""
    assert narrow_scope((), ("read",)) == ()


@given(words, words)
def test_an_audience_is_one_of_the_clients_own(requested, allowed):
    """RFC 8707 s.2: without a request the first one; another's is invalid_target."""
    if not requested:
        assert narrow_audience(requested or None, allowed) == allowed[:1]
    elif set(requested) <= set(allowed):
        assert narrow_audience(requested, allowed) == requested
    else:
        with pytest.raises(InvalidTarget):
            narrow_audience(requested, allowed)


def test_a_repeated_audience_is_one():
    """RFC 8707 s.2 lets ``resource`` come more than once."""
    assert narrow_audience(("a", "b", "a"), ("a", "b")) == ("a", "b")


def test_own_audience_is_granted_alone_and_never_by_default():
    """What nobody registered may be asked for, but not with another, whose owner would get it too."""
    assert narrow_audience(("us",), ("orders",), own="us") == ("us",)
    assert narrow_audience(("us", "us"), ("orders",), own="us") == ("us",)
    assert narrow_audience(None, ("orders",), own="us") == ("orders",)
    for asked in (("us", "orders"), ("orders", "us"), ("other",)):
        with pytest.raises(InvalidTarget):
            narrow_audience(asked, ("orders",), own="us")
    with pytest.raises(InvalidTarget):
        narrow_audience(("us",), ("orders",))


# --- origins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "https://app.example.com:8443",
        "https://xn--bcher-kva.example",
        "https://192.0.2.7",
        "https://[2001:db8::7]:8443",
        "http://127.0.0.1:5173",
        "http://localhost",
        "http://[::1]:5173",
    ],
)
def test_origin_is_taken_as_browsers_send_it(origin):
    """The one spelling that a browser puts into its header is an origin."""
    assert check_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "*",
        "https://*",
        "https://*.example.com",
        "app.example.com",
        "//app.example.com",
        "https://",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com?",
        "https://app.example.com#",
        "https://ada@app.example.com",
        "https://app.example.com:443",
        "http://127.0.0.1:80",
        "https://app.example.com:",
        "https://app.example.com:0",
        "https://app.example.com:08443",
        "https://app.example.com:65536",
        "https://app.example.com:٤٤٣",
        "https://App.example.com",
        "HTTPS://app.example.com",
        "https://app.example.com.",
        "https://bücher.example",
        "https://app_1.example.com",
        "https://app.example.com\n",
        " https://app.example.com",
        "https://app.example.com,https://evil.example",
        "https://app.example.com https://evil.example",
        "http://app.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://2130706433",
        "http://127.1",
        "https://192.0.2.007",
        "https://[2001:DB8::7]",
        "https://[2001:db8:0::7]",
        "https://[192.0.2.7]",
        "https://[::1%eth0]",
        "ftp://app.example.com",
        "file://",
        "chrome-extension://abcdefghijklmnop",
        "https://" + "a." * 130 + "example",
    ],
)
def test_what_no_browser_sends_is_no_origin(text):
    """Another spelling would never match, a wildcard would match too much, and plain http is heard by all."""
    with pytest.raises(ValueError, match="origin"):
        check_origin(text)
