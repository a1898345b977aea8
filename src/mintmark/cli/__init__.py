"""The command line: one file per command family, over the use cases of ``server``."""

import sys


def main() -> int:
    """Run the command that ``sys.argv`` holds; its exit status (:class:`mintmark.cli.status.Status`)."""
    try:
        from mintmark.cli.app import run  # noqa: PLC0415 - needs the extra, and must say so without it
    except ModuleNotFoundError as error:
        from mintmark.cli.status import Status, missing_package  # noqa: PLC0415 - the same

        sys.stderr.write(f"mintmark: {missing_package(error)}\n")
        return Status.MISUSED
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:])
