"""What comes in: bodies of bounded size and time, read strictly, and the credentials of a client."""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from starlette.requests import Request

from mintmark.core import strict_json
from mintmark.errors import InvalidClient, InvalidRequest, MintmarkError
from mintmark.http.refusal import BodyTooLarge, BodyTooSlow, WrongMediaType
from mintmark.ports.clock import Clock
from mintmark.server.clients import ClientAuthMethod, Credentials
from mintmark.server.deadline import Deadline

T = TypeVar("T")

MAX_BODY: Final = 16 * 1024
"""Bytes of any body."""
BODY_WITHIN: Final = 10.0
"""Seconds in which a body must have arrived, however evenly it drips."""
_MAX_FIELDS: Final = 64
_MAX_SHOWN: Final = 200
_REPEATABLE: Final = "resource"
"""The one parameter that may come more than once (RFC 8707 s.2)."""


class Incoming(Request):
    """A request with its body, which was read before anything looked at it."""

    content: bytes = b""


class BodyReader:
    """Reads the bodies of one application."""

    def __init__(self, clock: Clock) -> None:
        self._deadline = Deadline(clock, BODY_WITHIN, _too_slow)

    async def read(self, request: Request) -> bytes:
        """The whole body; raises BodyTooLarge, BodyTooSlow, and ClientDisconnect."""
        return await self._deadline.hold(_body(request))


def form_of(request: Incoming) -> "Form":
    """The parameters of a form body (RFC 6749 appendix B).

    Raises WrongMediaType, and InvalidRequest for a parameter in the query, a repeated one, or bytes that
    are no form in UTF-8.
    """
    _refuse_query(request)
    _check_media_type(request, "application/x-www-form-urlencoded")
    parameters: dict[str, str] = {}
    resources = []
    for name, value in _pairs(request.content):
        if name == _REPEATABLE:
            if value:
                resources.append(value)
        elif name in parameters:
            raise InvalidRequest(f"{_shown(name)}: more than once")
        else:
            parameters[name] = value
    # A parameter without a value counts as left out (RFC 6749 s.3.2).
    return Form({name: value for name, value in parameters.items() if value}, tuple(resources))


def json_of(request: Incoming, shape: type[T]) -> T:
    """The JSON body as ``shape``, a msgspec Struct that forbids unknown fields.

    Raises WrongMediaType, and InvalidRequest, which names the member that is wrong.
    """
    _refuse_query(request)
    _check_media_type(request, "application/json")
    try:
        return msgspec.convert(strict_json.decode(request.content, max_size=MAX_BODY), shape)
    except strict_json.NotStrictJson as error:
        problem = f"the body is refused: {error}"
    except msgspec.ValidationError as error:
        # The message names types and members, and holds no value.
        problem = str(error)
    # Raised outside the handlers: the library's error would stay with ours as its context.
    raise InvalidRequest(_shown(problem))


@dataclass(frozen=True, slots=True, repr=False)
class Form:
    """Parameters with a value: each once, but for the list of ``resources``."""

    parameters: Mapping[str, str]
    resources: tuple[str, ...]

    def audience(self) -> tuple[str, ...]:
        """Every audience asked for: ``audience`` is a list with spaces, ``resource`` one each time."""
        return (*self.parameters.get("audience", "").split(), *self.resources)


def credentials_of(request: Request, client_id: str | None, client_secret: str | None) -> Credentials | None:
    """What the request says of its client, in the header or in the body; None where it says nothing.

    Raises InvalidRequest for two methods at once (RFC 6749 s.2.3), InvalidClient for a header that is none.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        if client_id is None:
            return None
        if client_secret is None:
            return Credentials(ClientAuthMethod.NONE, client_id)
        return Credentials(ClientAuthMethod.CLIENT_SECRET_POST, client_id, client_secret)
    if len(headers) > 1 or client_secret is not None:
        raise InvalidRequest("the client authenticates in more than one way")
    credentials = _basic(headers[0])
    if client_id is not None and client_id != credentials.client_id:
        raise InvalidRequest("client_id: not the client that authenticates")
    return credentials


def bearer_of(request: Request) -> str | None:
    """The token of the Authorization header (RFC 6750 s.2.1); None where there is no such header."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, token = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise InvalidRequest("the Authorization header is no Bearer token")
    return token.strip(" ")


def address_of(request: Request) -> str:
    """The caller's address; behind a trusted proxy the one that the proxy names. Empty where it has none.

    What a proxy passes on may be anything: what is no address is none. The zone of one (RFC 4007 s.11) means
    something on this machine alone.
    """
    try:
        address = ipaddress.ip_address(request.client.host.partition("%")[0] if request.client else "")
    except ValueError:
        return ""
    # A socket for both families has IPv4 in IPv6 (RFC 4291 s.2.5.5.2).
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def device_of(request: Request) -> str:
    """What the caller's program calls itself; anything, and as long as a header may be."""
    return request.headers.get("user-agent", "")


def query_of(request: Request, name: str) -> str | None:
    """The query parameter ``name``; raises InvalidRequest where it comes twice, or is no UTF-8."""
    values = [value for key, value in _pairs(request.scope["query_string"]) if key == name]
    if len(values) > 1:
        raise InvalidRequest(f"{name}: more than once")
    return values[0] if values else None


def names_etag(request: Request, etag: str) -> bool:
    """Whether If-None-Match names ``etag``, compared weakly (RFC 9110 s.13.1.2): proxies add ``W/``."""
    values = request.headers.getlist("if-none-match")
    named = [tag.strip().removeprefix("W/") for value in values for tag in value.split(",")]
    return etag in named or "*" in named


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if len(length) > 9 or (length.isdecimal() and int(length) > MAX_BODY):
        raise BodyTooLarge("the body is too large")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise BodyTooLarge("the body is too large")
        parts.append(part)
    return b"".join(parts)


def _refuse_query(request: Request) -> None:
    # URLs end up in logs and histories; what must not be there is refused, so that nobody gets used to it.
    if request.scope["query_string"]:
        raise InvalidRequest("parameters belong in the body, not in the URL")


def _check_media_type(request: Request, wanted: str) -> None:
    media_type, _, parameter = request.headers.get("content-type", "").partition(";")
    charset = parameter.strip().lower().replace('"', "")
    if media_type.strip().lower() != wanted or charset not in {"", "charset=utf-8"}:
        raise WrongMediaType(f"the body must be {wanted}")


def _pairs(text: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            text.decode(),
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
            encoding="utf-8",
            errors="strict",
        )
    except ValueError:
        pass
    raise InvalidRequest("the parameters are not URL-encoded UTF-8, or too many")


def _basic(header: str) -> Credentials:
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        name, colon, secret = base64.b64decode(encoded.strip(" "), validate=True).decode().partition(":")
        if not colon:
            raise ValueError
        # RFC 6749 s.2.3.1: both parts are form-encoded first.
        return Credentials(
            ClientAuthMethod.CLIENT_SECRET_BASIC,
            unquote_plus(name, errors="strict"),
            unquote_plus(secret, errors="strict"),
        )
    except (ValueError, binascii.Error):
        pass
    raise InvalidClient("the Authorization header is no Basic authentication")


def _shown(text: str) -> str:
    # A stranger chose it, or part of it.
    return text[:_MAX_SHOWN].encode("ascii", "backslashreplace").decode()


def _too_slow() -> MintmarkError:
    return BodyTooSlow("the body did not arrive in time")
