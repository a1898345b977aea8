"""What the control process does for one issuer: rotate and publish keys, prune rows, tell relying parties.

Each issuer of a node has its own, beside the others': the rows of one may be damaged, its public URL may not
answer, and the others go on.
"""

import asyncio
import contextlib
import functools
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from mintmark.adapters.doorway import TcpDoorway
from mintmark.adapters.relying_parties import HttpRelyingParties
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import KeyKind, KeyMode
from mintmark.core.timing import Timing
from mintmark.core.timing_change import mixed, stands_beside
from mintmark.errors import ConfigurationError, NotReady, Unavailable
from mintmark.grants import GRANTS
from mintmark.node.cluster import Cluster
from mintmark.node.custody import modes_of
from mintmark.ports.bus import Bus
from mintmark.ports.proof import PublicReader
from mintmark.ports.publisher import Publisher
from mintmark.ports.signer import Signer, SignerControl
from mintmark.ports.store import Store
from mintmark.server.agreement import agree, beside
from mintmark.server.audit import Audit
from mintmark.server.backchannel import Backchannel
from mintmark.server.document import JWKS_PATH, discovery, path_of
from mintmark.server.peering import Peering
from mintmark.server.peers import Peers
from mintmark.server.pruning import prune
from mintmark.server.publication import Publication
from mintmark.server.recall import finish
from mintmark.server.ring import RingFollower
from mintmark.server.rotation import Rotation
from mintmark.server.setting import PEER
from mintmark.server.settings import Settings, working_by
from mintmark.server.signing import Signing
from mintmark.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from mintmark.units import Issuer, NodeId

_ROUND: Final = 1.0
"""Seconds between two rounds where nothing wakes the control process."""
_WAITING: Final = 0.25
"""The same while this node has no key that signs: nobody announces that another one has fallen silent."""
_PAUSE: Final = 0.2
"""Seconds between two rounds at the least: a busy store wakes it with every login."""
_LONGEST_PAUSE: Final = 30.0
"""Seconds after a defect at the most before the same is tried again."""


class Charge:
    """One issuer of this process and what was opened for it: what one run of the node leaves to the next.

    ``settings`` are of this issuer alone, with the timing that this node works by; ``configured`` is the one
    that was written there, which may be another while the timing changes. ``reader`` reads its public URLs
    and its ``places``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        bus: Bus,
        reader: PublicReader,
        places: tuple[Publisher, ...],
    ) -> None:
        self.settings = settings
        self.configured: Final = settings.timing
        self.beside: tuple[Timing, ...] = ()
        """What other nodes of this issuer may work by, as it was when this one began."""
        self.store: Final = store
        self.bus: Final = bus
        self.reader: Final = reader
        self.places: Final = places
        self.agreed: Final = asyncio.Event()
        """Set once this process and the issuer's other nodes work with timing that goes together."""
        self._has_begun = False

    @property
    def issuer(self) -> Issuer:
        """The issuer."""
        return self.settings.issuer

    async def agree(self) -> None:
        """Set ``agreed``; raises ConfigurationError where the timing differs, and Unavailable.

        For a node that has begun already, it also differs where others may work by a timing that this one
        does not allow for.
        """
        await agree(self.store.keyring, self.issuer, self.configured, clock=SYSTEM_CLOCK)
        self.beside = await beside(self.store.keyring, self.issuer, self.configured)
        if self._has_begun and not all(stands_beside(self.settings.timing, one) for one in self.beside):
            raise ConfigurationError(
                "issuer", f"the timing of {self.issuer} changes, which could not be read before: start again"
            )
        self.agreed.set()

    def begin(self, timing: Timing) -> None:
        """Work by ``timing`` from now on."""
        self.settings = working_by(self.settings, timing)
        self._has_begun = True


async def agree_all(charges: tuple[Charge, ...]) -> Timing:
    """Agree on the timing of every issuer whose rows can be read; what this node is to work by.

    Raises ConfigurationError where one differs; and what went wrong where nothing could be read for any.
    Who could not agree yet goes on trying in its own loop.
    """
    outcomes = await asyncio.gather(*(charge.agree() for charge in charges), return_exceptions=True)
    failures = [outcome for outcome in outcomes if outcome is not None]
    for failure in failures:
        if isinstance(failure, ConfigurationError) or len(failures) == len(charges):
            raise failure
    return mixed(charges[0].configured, *(other for charge in charges for other in charge.beside))


class Upkeep:
    """The loops of one issuer in one run of a node.

    ``served`` gives the ring generation that every worker answers with, None where none answers any more,
    ``own`` the URL of this node's listener; ``signing`` signs with its keys, and ``cluster`` reaches others.
    ``alone`` says that the node has no other issuer: then a defect ends it, as there is nobody to spare.
    """

    def __init__(
        self,
        charge: Charge,
        *,
        node: NodeId,
        signer: SignerControl,
        signing: Signer,
        cluster: Cluster,
        served: Callable[[], int | None],
        own: str,
        alone: bool,
    ) -> None:
        settings, one = charge.settings, charge.settings.only
        self._charge = charge
        self._alone = alone
        self._served = served
        self.audit: Final = Audit(issuer=charge.issuer, node=node)
        self._ring = RingFollower(
            charge.issuer,
            store=charge.store.keyring,
            bus=charge.bus,
            clock=SYSTEM_CLOCK,
            timing=settings.timing,
            audit=self.audit,
        )
        self.peering: Final = Peering(
            charge.issuer,
            node=node,
            ring=self._ring,
            store=charge.store,
            signer=signing,
            timing=settings.timing,
            clock=SYSTEM_CLOCK,
            audit=self.audit,
        )
        self.peers: Final = Peers(
            charge.issuer,
            node=node,
            ring=self._ring,
            caller=cluster.caller,
            clock=SYSTEM_CLOCK,
            audit=self.audit,
        )
        self.rotation: Final = Rotation(
            charge.issuer,
            node=node,
            kind=KeyKind(KeyMode(one.key_mode), Algorithm(one.algorithm)),
            spare=settings.spare,
            modes=modes_of(settings),
            store=charge.store.keyring,
            signer=signer,
            reader=charge.reader,
            bus=charge.bus,
            clock=SYSTEM_CLOCK,
            timing=settings.timing,
            configured=charge.configured,
            audit=self.audit,
            served=self._generation,
            own_url=own + path_of(charge.issuer) + JWKS_PATH,
            proof_urls=tuple(url + JWKS_PATH for url in one.proof_urls or (charge.issuer,)),
            places=tuple(place.place for place in charge.places),
            address=cluster.address,
            certificate=cluster.certificate,
            doorway=TcpDoorway(
                # A file is for the nodes of one machine.
                clock=SYSTEM_CLOCK,
                one_machine=settings.store.startswith("sqlite:"),
            ),
        )
        self._backchannel = Backchannel(
            charge.issuer,
            node=node,
            outbox=charge.store.outbox,
            ring=self._ring,
            signing=Signing(node=node, ring=self._ring, signer=signing),
            parties=HttpRelyingParties(),
            bus=charge.bus,
            clock=SYSTEM_CLOCK,
            entropy=SYSTEM_ENTROPY,
            timing=settings.timing,
            audit=self.audit,
        )

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the node does; none ends by itself, but for what must end the node."""
        return [
            self._lasting("rotation", self._rotate),
            self._lasting("pruning", self._prune),
            self._lasting("revocations", self._finish_revocations),
            self._lasting("backchannel", self._backchannel.run),
            self._lasting("key ring", self._ring.run),
            self._lasting("peers", self._stay_in_touch),
            *(
                self._lasting("publication", publication.run)
                for publication in map(self._publication, self._charge.places)
            ),
        ]

    def begin_to_leave(self) -> None:
        """The node was told to leave: this issuer's keys look for somebody to follow them."""
        self.rotation.leaving.begin()

    async def may_leave(self) -> None:
        """Return once nobody would miss this node at this issuer."""
        # Where nothing could ever be read there are no keys of ours.
        if self._charge.agreed.is_set():
            await self.rotation.leaving.allowed.wait()

    def is_replaced(self) -> bool:
        """Whether requests of this issuer find another node, so that this one need only sign for it."""
        return self.rotation.leaving.allowed.is_set() or self.peering.is_replaced()

    def _generation(self) -> int:
        """What no client of this node is behind."""
        served = self._served()
        if served is not None:
            return served
        # Nobody gets an older key set from a node that serves none.
        try:
            return self._ring.view.ring.generation
        except NotReady:
            return 0

    async def leave(self) -> None:
        """Sign no more and say so, if the store can be told; else the heartbeat grows old by itself."""
        try:
            await self.rotation.leave()
        except Unavailable as error:
            self.audit.record(EventName.STORE_FAILED, what="leaving", reason=str(error))
        except Exception as error:
            if self._alone:
                raise
            self._report("leaving", error)

    async def _lasting(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """``work``, begun again after a defect where other issuers must not end for it."""
        pause = 1.0
        while True:
            if what == "publication":
                await self._charge.agreed.wait()
            try:
                await work()
            except ConfigurationError:
                raise
            except Exception as error:
                if self._alone:
                    raise
                self._report(what, error)
                if what == "rotation":
                    self.rotation.leaving.failed()
            await SYSTEM_CLOCK.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _report(self, what: str, error: Exception) -> None:
        # Not its text: nobody knows what that holds.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        self.audit.record(EventName.UPKEEP_FAILED, what=what, cause=type(error).__name__, where=where)

    async def _rotate(self) -> None:
        """Rounds of rotation for as long as the node lives; a failing store is reported once."""
        subscription = self._charge.bus.subscribe()
        failing = False
        try:
            while True:
                try:
                    if not self._charge.agreed.is_set():
                        await self._charge.agree()
                    await self.rotation.round()
                except Unavailable as error:
                    if not failing:
                        self.audit.record(EventName.STORE_FAILED, what="rotation", reason=str(error))
                    failing = True
                else:
                    if failing:
                        self.audit.record(EventName.STORE_RESTORED, what="rotation")
                    failing = False
                await SYSTEM_CLOCK.sleep(_PAUSE)
                await subscription.wait(_WAITING if self.rotation.is_waiting else _ROUND)
        finally:
            subscription.close()

    async def _stay_in_touch(self) -> None:
        """Ask another node whether it would sign, while this one has no key that it surely can use.

        The connection is there when the first request comes, and that node knows who relies on it.
        """
        while self._charge.settings.cold_start == PEER:
            if self.rotation.is_waiting:
                with contextlib.suppress(Unavailable):
                    await self.peers.probe()
            await SYSTEM_CLOCK.sleep(_ROUND)
        await asyncio.get_running_loop().create_future()

    async def _prune(self) -> None:
        await prune(
            self._charge.issuer,
            store=self._charge.store,
            clock=SYSTEM_CLOCK,
            timing=self._charge.settings.timing,
            audit=self.audit,
        )

    async def _finish_revocations(self) -> None:
        await finish(
            self._charge.issuer,
            store=self._charge.store,
            bus=self._charge.bus,
            clock=SYSTEM_CLOCK,
            timing=self._charge.settings.timing,
            audit=self.audit,
        )

    def _publication(self, place: Publisher) -> Publication:
        charge, timing = self._charge, self._charge.settings.timing
        return Publication(
            charge.issuer,
            place=place,
            metadata=functools.partial(
                discovery,
                configured=Algorithm(charge.settings.only.algorithm),
                grant_types=tuple(GRANTS),
                max_age=timing.jwks_max_age,
            ),
            store=charge.store.keyring,
            bus=charge.bus,
            clock=SYSTEM_CLOCK,
            timing=timing,
            audit=self.audit,
        )
