"""The page about publication: its examples are taken, and what it lists is what the code has."""

import json
import re
import tomllib
from pathlib import Path

from mintmark.core.events import EventName
from mintmark.ports.publisher import bucket_of
from mintmark.server.document import discovery_paths, jwks_path, key_path
from mintmark.server.publication import name_of
from mintmark.server.settings import read
from mintmark.units import Issuer

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "how-to" / "publish-keys.md").read_text("utf-8")
ISSUER = Issuer("https://auth.example.com")


def between(name: str) -> str:
    """What stands between the marks ``name``, without the fence of a block."""
    found = re.search(rf"(?s)<!-- {name} -->\n(?:```\w+\n)?(.*?)(?:```\n)?<!-- /{name} -->", PAGE)
    assert found is not None, name
    return found[1]


def first_column(name: str) -> set[str]:
    """The names in the first column of a table."""
    return set(re.findall(r"(?m)^\| `([^`]+)` \|", between(name)))


def test_configurations_of_the_page_are_taken():
    """Both examples are settings without a mistake."""
    assert read(tomllib.loads(between("folder")), {}).only.publish == ("file:///srv/www",)
    assert len(read(tomllib.loads(between("bucket")), {}).only.publish) == 2


def test_policy_is_about_the_bucket_of_the_example():
    """The policy names the bucket and the prefix of the configuration above it."""
    bucket, prefix = bucket_of(read(tomllib.loads(between("bucket")), {}).only.publish[0])
    objects, listing = json.loads(between("policy"))["Statement"]
    assert objects["Resource"] == f"arn:aws:s3:::{bucket}/{prefix}/*"
    assert listing["Resource"] == f"arn:aws:s3:::{bucket}"
    assert listing["Condition"] == {"StringLikeIfExists": {"s3:prefix": f"{prefix}/*"}}


def test_names_of_the_page_are_those_that_are_published():
    """The table of names is complete for an issuer without a path."""
    paths = {jwks_path(ISSUER), *discovery_paths(ISSUER), key_path(ISSUER, "{kid}")}
    assert first_column("names") == {name_of(path) for path in paths}


def test_every_event_of_publication_is_on_the_page():
    """The table of events is complete."""
    assert first_column("events") == {name for name in EventName if name.startswith("publication.")}
