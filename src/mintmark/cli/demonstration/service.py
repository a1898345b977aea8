"""The service of the demo: it knows an issuer and an audience, and nothing else of the node.

A program of its own: ``python -m mintmark.cli.demonstration.service ISSUER AUDIENCE PORT``.
"""

import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI

from mintmark import AccessToken, Verifier
from mintmark.integrations.fastapi import Auth


def create_service(issuer: str, audience: str) -> FastAPI:
    """One endpoint that wants a token with the scope ``orders:read``."""
    auth = Auth(Verifier(issuer, audience=audience))
    service = FastAPI(title="Orders", lifespan=auth.lifespan)

    @service.get("/orders")
    async def orders(token: Annotated[AccessToken, auth.require("orders:read")]) -> dict[str, object]:
        return {"sub": token.sub, "orders": ["one ring", "two coins"], "revocation": token.revocation}

    return service


def main() -> None:
    """Serve on loopback until terminated."""
    issuer, audience, port = sys.argv[1:]
    uvicorn.run(create_service(issuer, audience), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
