"""The page on faults names tests that exist, and says of every fault what shows it, or why nothing does."""

import re

from scripts.reference import DOCS, sources_of_tests

PAGE = (DOCS / "reference" / "faults.md").read_text("utf-8")
ROWS = re.findall(r"^\| (F\d\d) \|.*\| (.*) \|$", PAGE, re.MULTILINE)
NAMED = re.compile(r"(tests/\S+\.py): `(test_\w+)`")


def test_every_fault_has_one_row():
    """F01 to F44, each once and in order."""
    assert [name for name, _ in ROWS] == [f"F{number:02}" for number in range(1, 45)]


def test_every_row_names_its_tests_or_says_why_not():
    """Nothing is claimed that nothing shows."""
    for name, shown in ROWS:
        assert NAMED.search(shown) or re.fullmatch(r"\*not yet:\* \S.*", shown), name


def test_every_test_that_is_named_exists():
    """A test that was renamed or removed shows nothing."""
    sources = sources_of_tests()
    for path, name in NAMED.findall(PAGE):
        assert re.search(rf"def {name}\(", sources.get(path, "")), f"{path}: {name}"
