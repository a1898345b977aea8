"""``mintmark clients``."""

import hashlib

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
    )  # fmt: skip
    assert added.pop("client_id_issued_at") > 0
    assert added == {
        "client_id": "shop",
        "client_name": "Web shop",
        "token_endpoint_auth_method": "none",
        "grant_types": ["refresh_token"],
        "audiences": ["orders", "stock"],
        "scope": "orders:read stock:read",
        "first_party": True,
        "rotates_refresh": True,
    }
    assert cli.ok("clients", "list")["clients"][0] | {"client_id_issued_at": 0} == added | {
        "client_id_issued_at": 0
    }


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
