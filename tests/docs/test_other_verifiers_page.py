"""The page about verifiers of others: each row is one that the suite runs, and says what it has shown."""

import re
from pathlib import Path

import pytest
from tests.interop.registry import REGISTRY, Entry

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "how-to" / "verify-with-other-libraries.md").read_text("utf-8")
INTEROP = ROOT / "tests" / "interop"


def rows() -> dict[str, list[str]]:
    """The columns of each row by the name that it begins with."""
    found = re.search(r"(?s)<!-- verifiers -->\n(.*?)<!-- /verifiers -->", PAGE)
    assert found is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]
    return {first.split("`")[1]: rest for first, *rest in cells}


def test_page_lists_the_verifiers_that_the_suite_runs():
    """No row is missing, and none is there that nothing has shown."""
    assert list(rows()) == [entry.name for entry in REGISTRY]


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_row_says_what_the_suite_has_shown(entry: Entry):
    """What it does with a new key and with one that left, and its algorithms, are what its tests require."""
    new_key, gone_key, also, _ = rows()[entry.name]
    assert new_key == entry.new_key.value
    assert gone_key == entry.gone_key.value
    assert also == (", ".join(entry.also) or "none")


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_options_of_a_row_are_those_that_the_suite_sets(entry: Entry):
    """Each option that a reader is told to set stands in the code that sets the verifier up."""
    code = "".join(path.read_text() for path in INTEROP.iterdir() if path.suffix in {".mjs", ".py"})
    ours = {"jwks_limit", "verifier_cache"}
    named = set(re.findall(r"`([^`]+)`", rows()[entry.name][3])) - ours
    assert {option for option in named if option not in code} == set()
