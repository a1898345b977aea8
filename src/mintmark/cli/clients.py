"""``mintmark clients``: the programs that ask for tokens."""

from typing import Annotated

from cyclopts import App, Parameter

from mintmark.cli.invocation import Given
from mintmark.cli.output import distance, table
from mintmark.core.directory import Client
from mintmark.grants import GRANTS

app = App(name="clients", help="Add, list and remove clients, and change their secrets.")

_ONCE = "The secret is shown this once and kept nowhere in clear."

ClientId = Annotated[str, Parameter(name="CLIENT_ID", help="The client's id.")]


@app.command
async def add(
    name: Annotated[str, Parameter(help="A name for people.")],
    /,
    *,
    audience: Annotated[
        list[str],
        Parameter(help="What its tokens are for; the first is the default. May be given many times."),
    ],
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
    no_refresh_rotation: Annotated[
        bool,
        Parameter(
            negative="",
            help="Its refresh tokens stay the same, as FAPI 2.0 asks. Only for a client with a secret: a "
            "refresh token that does not change shows nobody that it was stolen.",
        ),
    ] = False,
    given: Given,
) -> None:
    """Add a client, and show its secret once."""
    async with given.open(create=True) as opened:
        added = await opened.accounts.add_client(
            name,
            audiences=tuple(audience),
            client_id=client_id,
            public=public,
            first_party=first_party,
            grant_types=tuple(grant or ()),
            scopes=tuple(scope or ()),
            rotates_refresh=not no_refresh_rotation,
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
            distance(client.created_at, now),
        )
        for client in clients
    ]
    columns = ("CLIENT ID", "NAME", "KIND", "GRANTS", "AUDIENCES", "SCOPE", "ADDED")
    given.output.answer(
        {"clients": [_document(client) for client in clients]},
        table(columns, rows) if rows else "No clients.",
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
        "scope": " ".join(client.scopes),
        "first_party": client.first_party,
        "rotates_refresh": client.rotates_refresh,
        "client_id_issued_at": client.created_at,
    }
