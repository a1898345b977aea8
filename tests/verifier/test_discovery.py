"""Which parts of a discovery document are believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mintmark.verifier import discovery
from mintmark.verifier.discovery import Discovery
from mintmark.verifier.fetch import FetchFailed

ISSUER = "https://auth.example.com"
DOCUMENT = {
    "issuer": ISSUER,
    "jwks_uri": "https://auth.example.com/.well-known/jwks.json",
    "mintmark_feed": "https://auth.example.com/revocations",
    "mintmark_feed_stream": "https://auth.example.com/revocations/stream",
}


def parse(origins=(), issuer=ISSUER, **members) -> Discovery:
    """The document with ``members`` replaced, read for ``issuer``; None takes one out."""
    document = {name: value for name, value in (DOCUMENT | members).items() if value is not None}
    return discovery.parse(json.dumps(document).encode(), issuer=issuer, origins=frozenset(origins))


def refusal(**members) -> str:
    """Why such a document is refused."""
    with pytest.raises(FetchFailed) as refused:
        parse(**members)
    return refused.value.reason


def test_an_honest_document_gives_its_urls():
    """Keys, feed and stream."""
    found = parse()
    assert (found.jwks_uri, found.feed, found.stream) == tuple(DOCUMENT.values())[1:]
    assert parse(mintmark_feed=None, mintmark_feed_stream=None).feed is None


@pytest.mark.parametrize(
    "issuer",
    ["https://auth.example.com/", "https://AUTH.example.com", "https://auth.example.com:443", "", None, 7],
)
def test_the_issuer_must_be_named_byte_for_byte(issuer):
    """OpenID Connect Discovery s.4.3: no normalisation, which attackers know better than we do."""
    assert refusal(issuer=issuer) == "discovery_issuer"


@pytest.mark.parametrize("name", ["jwks_uri", "mintmark_feed", "mintmark_feed_stream"])
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/jwks.json",
        "https://auth.example.com.evil.com/jwks.json",
        "https://auth.example.com:8443/jwks.json",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/jwks.json",
    ],
)
def test_what_it_points_to_lies_at_the_issuers_origin(name, url):
    """Another host or port could have other keys, or be a service inside our network."""
    assert refusal(**{name: url}) == "discovery_origin"


@pytest.mark.parametrize("name", ["jwks_uri", "mintmark_feed", "mintmark_feed_stream"])
@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com/jwks.json",
        "https://user@auth.example.com/jwks.json",
        "https://auth.example.com\\@evil.example.com/",
        "https://auth.example.com/\njwks.json",
        "https://auth.example.com/#jwks",
        "https://auth.example.com:99999/",
        "//auth.example.com/jwks.json",
        "file:///etc/passwd",
        "/jwks.json",
        "",
        "https://auth.example.com/" + "x" * 2048,
        "https://áuth.example.com/",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused(name, url):
    """https, one host, no user, no fragment, printable ASCII, and short."""
    assert refusal(**{name: url}) in {"discovery_malformed", "discovery_origin"}


@pytest.mark.parametrize("members", [{"jwks_uri": None}, {"jwks_uri": 7}, {"mintmark_feed": ["x"]}])
def test_members_have_their_types(members):
    """A URL is text, and the key set's is required."""
    assert refusal(**members) == "discovery_malformed"


def test_the_default_port_is_the_same_origin():
    """RFC 6454 s.4: 443 said or not said."""
    assert parse(jwks_uri="https://auth.example.com:443/keys").jwks_uri.endswith(":443/keys")


def test_an_allowed_origin_may_hold_the_keys():
    """Google's keys, say, lie at another origin than its issuer."""
    url = "https://keys.example.net/certs"
    origin = discovery.origin(url)
    assert origin is not None
    assert parse(jwks_uri=url, origins=[origin]).jwks_uri == url
    with pytest.raises(FetchFailed):
        parse(jwks_uri="https://keys.example.net:444/certs", origins=[origin])
    with pytest.raises(FetchFailed):
        parse(jwks_uri="http://keys.example.net/certs", origins=[origin])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("172.16.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("localhost", False),
    ],
)
def test_which_addresses_are_public(address, public):
    """An allowed origin whose name leads into our own network is not asked."""
    assert discovery.is_public_address(address) is public


def test_both_forms_of_the_documents_address():
    """OpenID Connect appends; RFC 8414 s.3.1 inserts."""
    assert discovery.documents("https://a.example/tenant/") == (
        "https://a.example/tenant/.well-known/openid-configuration",
        "https://a.example/.well-known/oauth-authorization-server/tenant",
    )


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_document_brings_anything_but_a_failure(body):
    """Whatever bytes an origin sends."""
    with pytest.raises(FetchFailed):
        discovery.parse(body, issuer=ISSUER, origins=frozenset())


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_a_url(text):
    """Any text is an origin or none."""
    for url in (text, f"https://{text}", f"https://a.example/{text}"):
        discovery.origin(url)
        discovery.is_loopback(url)
