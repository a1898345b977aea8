"""``mintmark clients``."""

import hashlib

import pytest

from mintmark.units import ClientId


def kept(cli, client_id):
    """The client as the store has it."""
    issuer = cli.settings.issuer
    return cli.within(lambda store: store.directory.client(issuer, ClientId(client_id)))


def test_secret_is_shown_once_and_kept_as_a_digest(cli):
    """The answer has the secret, the store its SHA-256, and no other command shows either."""
    added = cli.ok("clients", "add", "Billing", "--client-id", "billing", "--audience", "orders")
    assert added["client_secret"].startswith("mms_")
    assert kept(cli, "billing").secret_hash == hashlib.sha256(added["client_secret"].encode()).digest()
    shown = cli("clients", "list").out + cli("clients", "list", "--json").out
    assert "mms_" not in shown
    assert "secret" not in shown.replace("client_secret_basic", "")


def test_people_see_the_secret_on_standard_output_alone(cli):
    """What may be piped to a safe place is on standard output; standard error has none of it."""
    added = cli("clients", "add", "Billing", "--audience", "orders")
    assert added.out.splitlines()[1].startswith("Secret: mms_")
    assert "mms_" not in added.err


def test_rotated_secret_replaces_the_old_one(cli):
    """After a rotation the store has the digest of the new secret."""
    first = cli.ok("clients", "add", "Billing", "--client-id", "billing", "--audience", "orders")
    second = cli.ok("clients", "rotate-secret", "billing")
    assert second["client_secret"] != first["client_secret"]
    assert kept(cli, "billing").secret_hash == hashlib.sha256(second["client_secret"].encode()).digest()


def test_client_is_what_its_options_say(cli):
    """Every option ends up in the client, under the names of RFC 7591."""
    added = cli.ok(
        "clients", "add", "Web shop", "--client-id", "shop", "--public", "--first-party",
        "--grant", "refresh_token", "--audience", "orders", "--audience", "stock",
        "--scope", "orders:read", "--scope", "stock:read",
        "--origin", "https://shop.example.com", "--origin", "http://127.0.0.1:5173",
    )  # fmt: skip
    assert added.pop("client_id_issued_at") > 0
    assert added == {
        "client_id": "shop",
        "client_name": "Web shop",
        "token_endpoint_auth_method": "none",
        "grant_types": ["refresh_token"],
        "audiences": ["orders", "stock"],
        "serves": [],
        "scope": "orders:read stock:read",
        "first_party": True,
        "origins": ["https://shop.example.com", "http://127.0.0.1:5173"],
        "rotates_refresh": True,
    }
    assert cli.ok("clients", "list")["clients"][0] | {"client_id_issued_at": 0} == added | {
        "client_id_issued_at": 0
    }


@pytest.mark.parametrize(
    ("origin", "more"),
    [
        ("https://shop.example.com/", ("--first-party",)),
        ("https://shop.example.com", ()),
    ],
)
def test_origin_that_no_page_may_have_is_refused(cli, origin, more):
    """What a browser never sends is refused, and so are pages of a client that is not first-party."""
    refused = cli(
        "clients", "add", "Shop", "--client-id", "x", "--audience", "orders", "--origin", origin, *more
    )
    assert refused.status != 0
    assert "origin" in refused.err
    assert kept(cli, "x") is None


def test_client_with_a_secret_may_do_without_rotation(cli):
    """RF1: FAPI 2.0 s.5.3.2.1 asks for it; a client without a secret is refused, and nothing is added."""
    added = cli.ok("clients", "add", "Bank", "--audience", "orders", "--first-party", "--no-refresh-rotation")
    assert added["rotates_refresh"] is False
    assert not kept(cli, added["client_id"]).rotates_refresh
    assert "confidential, first-party, no rotation" in cli("clients", "list").out
    refused = cli(
        "clients", "add", "Page", "--client-id", "page", "--audience", "orders", "--public", "--first-party",
        "--no-refresh-rotation",
    )  # fmt: skip
    assert refused.status != 0
    assert "without a secret" in refused.err
    assert kept(cli, "page") is None


def test_client_that_is_told_of_logouts_has_its_address(cli):
    """The address is kept and shown under its registered name; the table has no path of it, nor a query."""
    uri = "https://shop.example.com/hooks/s3cret?key=t0ken"
    added = cli.ok("clients", "add", "Shop", "--client-id", "shop", "--audience", "orders",
                   "--backchannel-logout-uri", uri)  # fmt: skip
    assert (added["backchannel_logout_uri"], added["backchannel_logout_session_required"]) == (uri, True)
    assert kept(cli, "shop").backchannel_logout_uri == uri
    assert cli.ok("clients", "list")["clients"][0]["backchannel_logout_uri"] == uri
    table = cli("clients", "list").out
    assert "https://shop.example.com" in table
    assert "s3cret" not in table
    assert "t0ken" not in table


@pytest.mark.parametrize(
    "uri",
    [
        "http://shop.example.com/logout",
        "http://169.254.169.254/latest",
        "https://user:password@shop.example.com/",
        "https://shop.example.com/#x",
        "shop.example.com",
        "",
    ],
)
def test_address_that_nobody_may_be_told_at_is_refused(cli, uri):
    """DP4: plain http beyond this machine, a user name, a fragment: the error says which rule, and nothing is
    added."""
    refused = cli("clients", "add", "Shop", "--client-id", "shop", "--audience", "orders",
                  "--backchannel-logout-uri", uri)  # fmt: skip
    assert refused.status != 0
    assert "must " in refused.err
    assert "password" not in refused.err.replace("user name and password", "")
    assert kept(cli, "shop") is None


def test_address_of_a_client_can_be_changed_and_taken_away(cli):
    """`clients set` replaces it by another good one, and an empty one ends it."""
    cli.ok("clients", "add", "Shop", "--client-id", "shop", "--audience", "orders")
    uri = "https://shop.example.com/logout"
    changed = cli.ok("clients", "set", "shop", "--backchannel-logout-uri", uri)
    assert changed["backchannel_logout_uri"] == kept(cli, "shop").backchannel_logout_uri == uri
    for wrong in ("http://shop.example.com/", "https://shop.example.com/#x"):
        assert cli("clients", "set", "shop", "--backchannel-logout-uri", wrong).status != 0
    assert kept(cli, "shop").backchannel_logout_uri == uri
    assert "backchannel_logout_uri" not in cli.ok("clients", "set", "shop", "--backchannel-logout-uri", "")
    assert kept(cli, "shop").backchannel_logout_uri is None
    assert cli("clients", "set", "nobody", "--backchannel-logout-uri", uri).status != 0


def test_grants_follow_the_kind_of_client(cli):
    """Without --grant a first-party client may refresh, and another one with a secret may ask for itself."""
    assert cli.ok("clients", "add", "a", "--audience", "x")["grant_types"] == ["client_credentials"]
    assert cli.ok("clients", "add", "b", "--audience", "x", "--first-party")["grant_types"] == [
        "refresh_token"
    ]
    added = cli.ok("clients", "add", "c", "--audience", "x", "--public", "--grant", "refresh_token")
    assert added["grant_types"] == ["refresh_token"]
    assert added["client_id"].startswith("mmc_")


def test_removed_client_is_gone_with_its_sessions(shop):
    """Removing says how many sessions ended, and the client is not found any more."""
    shop.add_session("ada", "shop")
    assert shop.ok("clients", "remove", "shop") == {"client_id": "shop", "sessions_ended": 1}
    assert kept(shop, "shop") is None
    assert shop("clients", "remove", "shop").status == 3
    assert shop.ok("sessions", "list")["sessions"] == []


def test_service_that_only_asks_about_tokens_gets_none(cli):
    """With --serves alone a client has a secret, and neither audiences nor grants of its own."""
    added = cli.ok("clients", "add", "Orders", "--serves", "orders", "--serves", "stock")
    assert added["serves"] == ["orders", "stock"]
    assert (added["audiences"], added["grant_types"]) == ([], [])
    assert added["client_secret"]
    both = cli.ok("clients", "add", "Stock", "--serves", "stock", "--audience", "orders")
    assert (both["audiences"], both["grant_types"]) == (["orders"], ["client_credentials"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--audience", "a", "--public", "--first-party", "--serves", "a"), "only a client with a secret"),
        (("--serves", "*"), "without spaces and wildcards"),
        (("--serves", ""), "1 to 255 printable"),
        (("--serves", "a", "--grant", "client_credentials"), "at least one audience"),
    ],
)
def test_who_may_be_told_about_tokens_proves_a_secret(cli, argv, said):
    """A public client, a wildcard and no name serve nothing; nobody is added."""
    result = cli("clients", "add", "x", *argv)
    assert result.status == 2
    assert said in result.err
    assert cli.ok("clients", "list")["clients"] == []


def test_tokens_of_a_client_are_revoked_by_one_event(shop):
    """The event names the client, its sessions live on, and the answer says for how long it gets none."""
    session, _ = shop.add_session("ada", "shop")
    forecast = shop.ok("clients", "revoke-tokens", "shop", "--dry-run")
    assert (forecast["revoked"], forecast["dry_run"]) == (False, True)
    assert events_of(shop) == []
    answer = shop.ok("clients", "revoke-tokens", "shop")
    assert answer["revoked"] is True
    assert events_of(shop) == [("client", "shop", answer["not_before"])]
    assert [one["rid"] for one in shop.ok("sessions", "list")["sessions"]] == [session.rid]
    past = str(session.created_at - 100)
    again = shop("clients", "revoke-tokens", "shop", "--issued-before", past).out.splitlines()
    assert again[0] == "Revoked the tokens of client shop."
    assert again[2] == "Minting does not pause for that."


def test_tokens_of_nobody_are_not_revoked(shop):
    """A mistyped id is no success."""
    for wrong in ("shopp", "SHOP", "*", ""):
        assert shop("clients", "revoke-tokens", wrong).status == 3
    assert events_of(shop) == []


def events_of(cli):
    """What the log holds: kind, value and ``not_before``."""
    issuer = cli.settings.issuer

    async def read(store):
        page = await store.revocations.read(issuer, None, limit=100)
        return [(one.event.kind, one.event.value, one.event.not_before) for one in page.entries]

    return cli.within(read)
