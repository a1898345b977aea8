"""``python -m mintmark``: the command line without an installed script."""

import sys

from mintmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
