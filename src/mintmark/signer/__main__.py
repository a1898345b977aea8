"""``python -I -m mintmark.signer``: see :mod:`mintmark.signer.process`."""

import sys

from mintmark.signer.process import main

sys.exit(main())
