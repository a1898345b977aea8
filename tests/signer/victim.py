"""A process that holds an RSA key and does not protect it as the signer does; run as a script.

``python -m tests.signer.victim FOLDER none|hide``: ``hide`` hides its memory before it makes the key, but
keeps the key in the very process that was open before.
"""

import os
import sys

from cryptography.hazmat.primitives.asymmetric import rsa
from tests.signer.unprivileged import drop

from mintmark.signer.hardening import hide_memory

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    os.environ["CANARY"] = "in the environment"
    drop()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    sys.stdin.readline()
    if sys.argv[2] == "hide":
        hide_memory()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sys.stdout.write(f"{key.public_key().public_numbers().n}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    key.private_numbers()  # The key lives until here.
