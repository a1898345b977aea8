"""``mintmark clients``: the programs that ask for tokens."""

from typing import Annotated

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given
from mintmark.cli.output import distance, table
from mintmark.cli.recall import DryRun, IssuedBefore, consequences, recall_document, time_of
from mintmark.cli.status import Misused
from mintmark.core.directory import Client
from mintmark.core.logout_token import origin_of
from mintmark.grants import GRANTS
from mintmark.server.recall import foresee, named, revoke_tokens_of

app = App(name="clients", help="Add, list and remove clients, and change their secrets.")

_ONCE = "The secret is shown this once and kept nowhere in clear."

ClientId = Annotated[str, Parameter(name="CLIENT_ID", help="The client's id.")]


@app.command
async def add(
    name: Annotated[str, Parameter(help="A name for people.")],
    /,
    *,
    audience: Annotated[
        list[str] | None,
        Parameter(
            help="What its tokens are for; the first is the default. May be given many times. Only a client "
            "that does nothing but `--serves` needs none."
        ),
    ] = None,
    client_id: Annotated[str | None, Parameter(help="Its id; a random one where none is given.")] = None,
    public: Annotated[
        bool, Parameter(help="It cannot keep a secret (a page, an app on a phone), so it gets none.")
    ] = False,
    first_party: Annotated[
        bool, Parameter(help="It is one of your own, and may send a user's password to `/v1/sessions`.")
    ] = False,
    grant: Annotated[
        list[str] | None,
        Parameter(
            help=f"A grant type that it may use: {', '.join(f'`{name}`' for name in sorted(GRANTS))}. May be "
            "given many times. Without one: `refresh_token` for a first-party client, "
            "`client_credentials` for another one with a secret."
        ),
    ] = None,
    scope: Annotated[
        list[str] | None, Parameter(help="A scope that it may ask for. May be given many times.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        Parameter(
            help="The origin of its pages, like `https://app.example.com`: these may keep its sessions in a "
            "cookie. May be given many times."
        ),
    ] = None,
    no_refresh_rotation: Annotated[
        bool,
        Parameter(
            negative="",
            help="Its refresh tokens stay the same, as FAPI 2.0 asks. Only for a client with a secret: a "
            "refresh token that does not change shows nobody that it was stolen.",
        ),
    ] = False,
    backchannel_logout_uri: Annotated[
        str | None,
        Parameter(
            help="Where it is told of each session of its that ended (OIDC Back-Channel Logout): https."
        ),
    ] = None,
    serves: Annotated[
        list[str] | None,
        Parameter(
            help="An audience that it is the service of: it may ask at `/introspect` about tokens for that. "
            "May be given many times."
        ),
    ] = None,
    given: Given,
) -> None:
    """Add a client, and show its secret once."""
    if not audience and not serves:
        raise Misused("--audience is missing: what its tokens are for")
    async with given.open(create=True) as opened:
        added = await opened.accounts.add_client(
            name,
            audiences=tuple(audience or ()),
            client_id=client_id,
            public=public,
            first_party=first_party,
            grant_types=tuple(grant or ()),
            scopes=tuple(scope or ()),
            origins=tuple(origin or ()),
            rotates_refresh=not no_refresh_rotation,
            backchannel_logout_uri=backchannel_logout_uri,
            serves=tuple(serves or ()),
        )
    secret = {} if added.secret is None else {"client_secret": added.secret}
    given.output.answer(
        _document(added.client) | secret,
        f"Added client {added.client.client_id}.",
        *_shown(added.secret),
    )


@app.command(name="list")
async def list_clients(*, given: Given) -> None:
    """List the clients."""
    async with given.open() as opened:
        clients, now = await opened.accounts.clients(), await opened.store.now()
    rows = [
        (
            client.client_id,
            client.name,
            _kind(client),
            " ".join(client.grant_types),
            " ".join(client.audiences),
            " ".join(client.scopes),
            # A path and a query may hold a secret, and people look over shoulders.
            origin_of(client.backchannel_logout_uri or ""),
            distance(client.created_at, now),
        )
        for client in clients
    ]
    columns = ("CLIENT ID", "NAME", "KIND", "GRANTS", "AUDIENCES", "SCOPE", "LOGOUTS TO", "ADDED")
    given.output.answer(
        {"clients": [_document(client) for client in clients]},
        table(columns, rows) if rows else "No clients.",
    )


@app.command(name="set")
async def change(
    client_id: ClientId,
    /,
    *,
    backchannel_logout_uri: Annotated[
        str,
        Parameter(help="Where it is told of each session of its that ended, from now on; empty: nowhere."),
    ],
    given: Given,
) -> None:
    """Change where a client is told of logouts; what it was not told yet goes there too."""
    async with given.open() as opened:
        client = await opened.accounts.tell_client(client_id, backchannel_logout_uri or None)
    told = client.backchannel_logout_uri
    given.output.answer(
        _document(client),
        f"Client {client_id} is told of logouts at {origin_of(told)}."
        if told
        else f"Client {client_id} is told of no logouts.",
    )


@app.command
async def rotate_secret(client_id: ClientId, /, *, given: Given) -> None:
    """Give a client another secret, and show it once; the old one is refused from then on."""
    async with given.open() as opened:
        secret = await opened.accounts.rotate_secret(client_id)
    given.output.answer(
        {"client_id": client_id, "client_secret": secret},
        f"Changed the secret of client {client_id}; the old one is refused from now on.",
        *_shown(secret),
    )


@app.command
async def remove(client_id: ClientId, /, *, given: Given) -> None:
    """Remove a client, and end all sessions that it began."""
    async with given.open() as opened:
        ended = await opened.accounts.remove_client(client_id)
    given.output.answer(
        {"client_id": client_id, "sessions_ended": ended},
        f"Removed client {client_id}; sessions ended: {ended}.",
    )


@app.command
async def revoke_tokens(
    client_id: ClientId,
    /,
    *,
    issued_before: IssuedBefore = None,
    dry_run: DryRun = False,
    given: Given,
) -> None:
    """Have every token of a client refused that was issued until now, by one event; its sessions go on.

    For a client whose secret was stolen: change that first. It gets no new token for a short while, unless
    `--issued-before` lies that far back.
    """
    before = time_of(issued_before)
    async with given.open() as opened:
        store, issuer, timing = opened.store, opened.settings.issuer, opened.settings.timing
        found = await named(store, issuer, client_id)
        if dry_run:
            recall = await foresee(store, timing=timing, before=before)
        else:
            recall = await revoke_tokens_of(
                store, issuer, found, timing=timing, audit=opened.audit, before=before
            )
    done = {"revoked": not dry_run} | ({"dry_run": True} if dry_run else {})
    given.output.answer(
        {"client_id": client_id} | done | recall_document(recall),
        "Nothing was changed." if dry_run else f"Revoked the tokens of client {client_id}.",
        *consequences(recall, client_id),
    )


def _shown(secret: str | None) -> tuple[str, ...]:
    return () if secret is None else (f"Secret: {secret}", _ONCE)


def _kind(client: Client) -> str:
    kind = "public" if client.secret_hash is None else "confidential"
    kind = f"{kind}, first-party" if client.first_party else kind
    return kind if client.rotates_refresh else f"{kind}, no rotation"


def _document(client: Client) -> dict[str, object]:
    return {
        "client_id": client.client_id,
        "client_name": client.name,
        "token_endpoint_auth_method": "none" if client.secret_hash is None else "client_secret_basic",
        "grant_types": list(client.grant_types),
        "audiences": list(client.audiences),
        "serves": list(client.serves),
        "scope": " ".join(client.scopes),
        "first_party": client.first_party,
        "origins": list(client.origins),
        "rotates_refresh": client.rotates_refresh,
        "client_id_issued_at": client.created_at,
    } | _told(client)


def _told(client: Client) -> dict[str, object]:
    if client.backchannel_logout_uri is None:
        return {}
    # Which session it was is in every logout token, whether a client needs it or not.
    return {
        "backchannel_logout_uri": client.backchannel_logout_uri,
        "backchannel_logout_session_required": True,
    }
