"""``mintmark keys switch``: other keys for an issuer, said beforehand with the times that follow from it."""

from typing import Annotated, Final, Literal

from cyclopts import Parameter

from mintmark.cli.invocation import Given, Opened
from mintmark.cli.output import distance, instant
from mintmark.cli.status import Failed, Misused
from mintmark.core.algorithm import Algorithm
from mintmark.core.events import EventName
from mintmark.core.key import KeyKind, KeyMode, KeyState
from mintmark.core.keyring import InvalidTransition, MixedAlgorithms
from mintmark.core.timing import Timing
from mintmark.ports.keyring import RingView
from mintmark.server.emergency import ModeUnavailable, switch_kind, switched
from mintmark.server.setting import shown
from mintmark.server.settings import Settings
from mintmark.units import NumericDate

_NODE_SHOWN: Final = 8


async def switch(
    *,
    mode: Annotated[Literal["own", "shared", "hsm"] | None, Parameter(help="Who is to hold keys.")] = None,
    algorithm: Annotated[
        Literal["RS256", "PS256", "ES256", "EdDSA"] | None, Parameter(help="What keys are to sign with.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Say what would happen, and change nothing.")] = False,
    given: Given,
) -> None:
    """Have keys of another mode or algorithm succeed those there are, on all nodes, and no token refused.

    New keys sign once they have been public for the lead; the present ones sign until then, and stay in the
    key set until the last token of theirs has expired. What is not named stays as it is.
    """
    if mode is None and algorithm is None:
        raise Misused("--mode or --algorithm is missing: say what keys are to be")
    async with given.open() as opened:
        view = await opened.store.keyring.read(opened.settings.issuer)
        former = view.ring.kind or _configured(opened.settings)
        kind = KeyKind(KeyMode(mode or former.mode), Algorithm(algorithm or former.alg))
        done = await _switch(opened, view, kind, dry_run=dry_run)
        if done and not dry_run:
            opened.audit.record(EventName.KIND_SWITCHED, former=str(former), wanted=str(kind))
    signs_at, gone_at = _arithmetic(view, opened.settings.timing)
    given.output.answer(
        {
            "issuer": view.ring.issuer,
            "from": kind_document(former),
            "to": kind_document(kind),
            "changed": done and not dry_run,
            "dry_run": dry_run,
            "signs_from": signs_at if done else None,
            "former_until": gone_at if done else None,
        },
        *_prospect(view, former, kind, (signs_at, gone_at), done=done, dry_run=dry_run),
    )


async def _switch(opened: Opened, view: RingView, kind: KeyKind, *, dry_run: bool) -> bool:
    try:
        if dry_run:
            return switched(view, kind) is not view.ring
        return await switch_kind(opened.store.keyring, opened.settings.issuer, kind)
    except ModeUnavailable as error:
        nodes = ", ".join(shown(member.node[:_NODE_SHOWN]) for member in error.nodes)
        raise Failed(f"{kind.mode.value}: not every live node is set up for it: {nodes}") from None
    except MixedAlgorithms as error:
        leaves = f"the last key of the other kind leaves {instant(error.until)}"
        if any(member.is_live(view.now) for member in view.members):
            # Each renewal of a lease moves that time on, so waiting alone leads nowhere.
            leaves += ", if all nodes are stopped until then: those that run keep theirs"
        raise Failed(f"{error}; {leaves}") from None
    except InvalidTransition as error:
        raise Misused(f"{kind}: {error}") from None


def _arithmetic(view: RingView, timing: Timing) -> tuple[NumericDate, NumericDate]:
    """When a key that is prepared now signs at the earliest, and when those before it may then be gone."""
    signs_at = NumericDate(view.now + timing.lead)
    return signs_at, timing.covered_until(NumericDate(signs_at + timing.lease))


def _prospect(
    view: RingView,
    former: KeyKind,
    kind: KeyKind,
    times: tuple[NumericDate, NumericDate],
    *,
    done: bool,
    dry_run: bool,
) -> tuple[str, ...]:
    if not done or former == kind:
        return (f"Keys are {kind} already; nothing {'would change' if dry_run else 'changed'}.",)
    signs_at, gone_at = times
    lives = any(member.is_live(view.now) for member in view.members)
    one = "One key of the cluster" if kind.mode is not KeyMode.OWN else "A key of each node that signs"
    said = [
        f"{'Would switch' if dry_run else 'Switched'} from {former} to {kind}.",
        f"{one} is prepared {'now' if lives else 'when a node starts: none is live'}.",
    ]
    if any(key.state is KeyState.ACTIVE for key in view.ring.keys):
        said.append(
            f"It signs {distance(signs_at, view.now)} ({instant(signs_at)}) at the earliest: once every "
            "public URL has shown it, and the lead has passed."
        )
        said.append(
            "Until then the present keys sign. They leave the key set "
            f"{distance(gone_at, view.now)} ({instant(gone_at)}) at the earliest."
        )
    return (*said, "Nothing was changed.") if dry_run else tuple(said)


def _configured(settings: Settings) -> KeyKind:
    only = settings.only
    return KeyKind(KeyMode(only.key_mode), Algorithm(only.algorithm))


def kind_document(kind: KeyKind | None) -> dict[str, str] | None:
    """A kind of key for programs; None where nobody has said one."""
    return None if kind is None else {"mode": kind.mode.value, "algorithm": kind.alg.value}
