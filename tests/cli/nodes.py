"""What a node does about the timing when it starts, without the node."""

from tests.cli.command_line import CommandLine

from mintmark.core.timing_change import mixed
from mintmark.ports.store import Store
from mintmark.server.agreement import agree, beside, check_agreed
from mintmark.system import SYSTEM_CLOCK
from mintmark.units import NodeId


def start(cli: CommandLine, node: str) -> None:
    """A node starts with the settings here, and lives."""
    own = cli.settings.timing

    async def join(store: Store) -> None:
        for issuer in (one.issuer for one in cli.settings.issuers):
            await agree(store.keyring, issuer, own, clock=SYSTEM_CLOCK)
            working = mixed(own, *await beside(store.keyring, issuer, own))
            await store.keyring.beat(issuer, NodeId(node), ring_generation=0)
            await check_agreed(store.keyring, issuer, own, node=NodeId(node), working=working)

    cli.within(join)


def stop(cli: CommandLine, node: str) -> None:
    """It leaves."""

    async def leave(store: Store) -> None:
        for one in cli.settings.issuers:
            await store.keyring.leave(one.issuer, NodeId(node))

    cli.within(leave)
