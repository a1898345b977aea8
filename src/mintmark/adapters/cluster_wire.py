"""What both ends of the cluster listener share: a node's certificate, TLS with pinned ones, and messages.

A certificate says nothing but a public key: no authority signed it, and its times and names are ignored.
What counts is that the very same bytes stand in a live node's row. OpenSSL verifies a chain first, so each
pinned certificate is loaded as an authority, and the bytes are compared after the handshake: one that a
pinned certificate had signed would pass the first and fails the second.
"""

import asyncio
import contextlib
import datetime as dt
import os
import ssl
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mintmark.core.minting import MAX_PAYLOAD
from mintmark.core.peering import PeerRefusal
from mintmark.ports.clock import Clock, Entropy
from mintmark.units import Issuer, NodeId

MAX_REQUEST: Final = MAX_PAYLOAD + 4096
"""Bytes of a request: the largest payload, an issuer and the envelope."""
MAX_ANSWER: Final = 16 * 1024
HANDSHAKE: Final = 2.0
"""Seconds that a handshake may take."""
_CLOSING: Final = 1.0

# The order of P-256's group (FIPS 186-5, SP 800-186 s.3.2.1.3).
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# RFC 5280 s.4.1.2.5: no well-defined end. A clock that is off must not keep nodes apart: other rules do.
_BEGINNING: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_NO_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)

T = TypeVar("T")


class Identity:
    """A node's key pair and certificate for as long as it runs, made here and in memory alone.

    ``certificate`` is what others pin, in DER.
    """

    __slots__ = ("_private", "_shown", "certificate")

    def __init__(self, node: NodeId, entropy: Entropy) -> None:
        # FIPS 186-5 A.2.1: 64 bits more than the order has, so that the remainder favours none.
        secret = int.from_bytes(entropy.token_bytes(40)) % (_ORDER - 1) + 1
        key = ec.derive_private_key(secret, ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        made = (
            x509.CertificateBuilder(name, name, key.public_key())
            .serial_number(int.from_bytes(entropy.token_bytes(16)) >> 1 | 1)
            .not_valid_before(_BEGINNING)
            .not_valid_after(_NO_END)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        self._private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._shown = made.public_bytes(Encoding.PEM)
        self.certificate = made.public_bytes(Encoding.DER)

    def serving(self, callers: Iterable[bytes]) -> ssl.SSLContext:
        """TLS for a listener that ends the handshake of whoever has none of ``callers``."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER, callers)
        # A resumed session would skip the certificates.
        context.num_tickets = 0
        return context

    def calling(self, certificate: bytes) -> ssl.SSLContext:
        """TLS for a call to whoever has ``certificate``."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, (certificate,))

    def _context(self, side: int, pinned: Iterable[bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        with contextlib.ExitStack() as read_once:
            # Python's ssl takes certificate and key from files only. These are pipes: in memory, without a
            # name, and empty once they were read.
            shown, private = (
                read_once.enter_context(_pipe_with(pem)) for pem in (self._shown, self._private)
            )
            context.load_cert_chain(f"/dev/fd/{shown}", f"/dev/fd/{private}")
        for certificate in pinned:
            try:
                context.load_verify_locations(cadata=certificate)
            except (ssl.SSLError, ValueError):
                # Whoever can write a row could put anything there; it must not lock the others out.
                continue
        return context


@contextlib.contextmanager
def _pipe_with(content: bytes) -> Iterator[int]:
    """The end of a pipe from which ``content`` can be read, once; it is short enough not to block."""
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, content)
        finally:
            os.close(writing)
        yield reading
    finally:
        os.close(reading)


def certificate_of(transport: asyncio.BaseTransport) -> bytes:
    """What the other side proved to hold, in DER; empty where it proved nothing."""
    found: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return (found.getpeercert(binary_form=True) or b"") if found is not None else b""


# --- connections -----------------------------------------------------------------------------------


class Connection:
    """Frames both ways over one TLS connection: four bytes of length, big-endian, and the message."""

    __slots__ = ("_protocol", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader(limit=2 * MAX_ANSWER)
        self._protocol = asyncio.StreamReaderProtocol(self._reader)
        self._writer: asyncio.StreamWriter | None = None

    async def accept(self, sock: Any, context: ssl.SSLContext) -> bytes:
        """Shake hands with whoever came on ``sock``; the certificate that was shown. Raises OSError."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: self._protocol,
            sock,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE,
            ssl_shutdown_timeout=_CLOSING,
        )
        return self._opened(transport)

    async def call(self, host: str, port: int, context: ssl.SSLContext) -> bytes:
        """Shake hands with whoever is at ``host`` and ``port``; as :meth:`accept`."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: self._protocol,
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE,
            ssl_shutdown_timeout=_CLOSING,
        )
        return self._opened(transport)

    def _opened(self, transport: asyncio.WriteTransport) -> bytes:
        self._writer = asyncio.StreamWriter(
            transport, self._protocol, self._reader, asyncio.get_running_loop()
        )
        return certificate_of(transport)

    async def receive(self, limit: int) -> bytes | None:
        """The next message, or None at the end, or where what came is none."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4))
            return await self._reader.readexactly(size) if 0 < size <= limit else None
        except (OSError, EOFError):
            return None

    def send(self, message: bytes) -> None:
        """Queue one message; what nobody reads any more is dropped."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(len(message).to_bytes(4) + message)

    def unsent(self) -> int:
        """Bytes that the other side has not taken yet."""
        if self._writer is None or self._writer.is_closing():
            return 0
        return self._writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        """End it now, without a word. Idempotent."""
        if self._writer is not None:
            self._writer.transport.abort()


async def within(clock: Clock, span: float, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` comes to; raises TimeoutError, and cancels it, after ``span`` seconds."""
    working = asyncio.ensure_future(work)
    late = asyncio.ensure_future(clock.sleep(span))
    try:
        await asyncio.wait((working, late), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise TimeoutError
        return working.result()
    finally:
        late.cancel()
        working.cancel()
        await asyncio.gather(working, late, return_exceptions=True)


# --- messages --------------------------------------------------------------------------------------


class Sign(msgspec.Struct, array_like=True, tag="sign", frozen=True, gc=False):
    """From a caller: sign this with the key of yours that is active."""

    id: int
    issuer: Issuer
    typ: str
    payload: bytes

    def __repr__(self) -> str:
        """The request without its payload, so that nothing that prints it shows claims."""
        return f"Sign(id={self.id})"


class Probe(msgspec.Struct, array_like=True, tag="probe", frozen=True, gc=False):
    """From a caller: would you sign now?"""

    id: int
    issuer: Issuer


class Signed(msgspec.Struct, array_like=True, tag="signed", frozen=True, gc=False):
    """To a caller: the compact JWS."""

    id: int
    token: str

    def __repr__(self) -> str:
        """The answer without its token."""
        return f"Signed(id={self.id})"


class Ready(msgspec.Struct, array_like=True, tag="ready", frozen=True, gc=False):
    """To a caller: it would."""

    id: int


class Refused(msgspec.Struct, array_like=True, tag="refused", frozen=True, gc=False):
    """To a caller: no, and why."""

    id: int
    reason: PeerRefusal


Request: TypeAlias = Sign | Probe
Answer: TypeAlias = Signed | Ready | Refused

encode: Final = msgspec.msgpack.Encoder().encode
decode_request: Final = msgspec.msgpack.Decoder(Request).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode
