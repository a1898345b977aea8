"""A claim is of its type, or the token is invalid: there is no third reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core import forge
from tests.core.forge import DROP, NOW, claims

from mintmark.core.claims import AccessToken, Revocation, access_token, texts_of, time_of
from mintmark.core.policy import Profile
from mintmark.core.refusal import Code
from mintmark.errors import InvalidToken
from mintmark.units import Kid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=5,
)


def read(members: dict[str, object], profile: Profile = Profile.RFC9068) -> AccessToken:
    rules = forge.policy(profile=profile)
    exp = members.get("exp")
    assert isinstance(exp, int)
    return access_token(members, rules, NOW, ("orders",), exp, Kid("k"), Revocation.CHECKED, {})


@given(JSON)
def test_a_time_is_an_integer(value):
    """RFC 7519 s.2 allows fractions; here an integer is a time, and a bool, a float and a text are not."""
    if type(value) is int:
        assert time_of({"exp": value}, "exp") == value
        return
    with pytest.raises(InvalidToken) as caught:
        time_of({"exp": value}, "exp")
    assert caught.value.code == Code.BAD_CLAIM


@given(JSON)
def test_an_audience_is_text_or_a_list_of_text(value):
    """Everything else is invalid, and a list with one wrong item is."""
    if isinstance(value, str):
        assert texts_of({"aud": value}, "aud") == (value,)
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        assert texts_of({"aud": value}, "aud") == tuple(value)
    else:
        with pytest.raises(InvalidToken) as caught:
            texts_of({"aud": value}, "aud")
        assert caught.value.code == Code.BAD_CLAIM


@pytest.mark.parametrize("name", ["iat", "sub", "client_id", "jti"])
def test_absent_and_wrong_are_two_codes(name):
    """A missing claim is ``missing_claim``, a null one ``bad_claim``: null is a value of the wrong type."""
    for value, code in ((DROP, Code.MISSING_CLAIM), (None, Code.BAD_CLAIM)):
        with pytest.raises(InvalidToken) as caught:
            read(claims(**{name: value}))
        assert caught.value.code == code
        assert name in str(caught.value)


@given(JSON)
def test_a_message_names_the_claim_and_not_its_value(value):
    """What a person may put into a claim never gets into an error."""
    members = claims(acr=value, sub="usr_secret")
    try:
        read(members)
    except InvalidToken as refusal:
        shown = str(refusal)
    else:
        return
    assert shown == "the claim acr has the wrong type"


@pytest.mark.parametrize("profile", list(Profile))
def test_unknown_claims_are_kept_and_read_only(profile):
    """RFC 7519 s.4: what is not understood is ignored; it is there for the application to read."""
    result = read(claims(plan={"tier": [1]}), profile)
    assert result.claims["plan"] == {"tier": [1]}
    with pytest.raises(TypeError):
        del result.claims["plan"]  # type: ignore[attr-defined]


def test_equal_tokens_are_equal():
    """Two readings of one payload are equal values."""
    assert read(claims()) == read(claims())
    assert read(claims()) != read(claims(sub="usr_other"))
