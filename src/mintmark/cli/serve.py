"""``mintmark serve``: run a node."""

from typing import Annotated, Literal

from cyclopts import Parameter

from mintmark.cli.invocation import Given


def serve(*, given: Given) -> int:
    """Run a node until it is told to leave (SIGTERM or Ctrl-C; a second one leaves at once)."""
    settings = given.of_node()
    for warning in settings.warnings:
        given.output.note(f"mintmark: warning: {warning}")
    from mintmark.node.control import serve as run_node  # noqa: PLC0415 - all of the server

    return run_node(settings)


def demo(
    *,
    store: Annotated[
        Literal["sqlite", "postgresql"],
        Parameter(help="What the nodes share: an SQLite file, or a PostgreSQL server that the demo starts."),
    ] = "sqlite",
    given: Given,
) -> int:
    """Show three nodes that rotate, die, restart and obey a logout, as a timeline on this machine."""
    del given
    from mintmark.cli.demonstration.scenario import run_demo  # noqa: PLC0415 - a service and its web framework

    return run_demo(store)
