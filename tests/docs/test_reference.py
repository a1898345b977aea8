"""Reference pages say what the code does, and the page on security what the tests cover."""

import re

import pytest
from scripts.reference import DOCS, PAGES, covering_tests, security_areas, security_table, sources_of_tests

AREAS = security_areas()
IDS = {f"{area}{number}" for area, entries in AREAS.items() for number in entries if number.isdigit()}


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name):
    """The committed page is what the code would write now; scripts/reference.py writes it."""
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "run: .venv/bin/python scripts/reference.py"


def test_every_id_that_a_test_names_exists():
    """A test cannot claim to cover a requirement that there is not."""
    named = {name for name in covering_tests(sources_of_tests()) if name[:2] in AREAS}
    assert named <= IDS


def test_every_requirement_is_covered_or_says_why_not():
    """No requirement is left without a test and without a reason."""
    for line in security_table(AREAS, covering_tests(sources_of_tests())).splitlines():
        if re.match(r"\| [A-Z]{2}[0-9]", line):
            covered = line.rstrip("| ").rpartition(" | ")[2]
            assert re.search(r"\.py: `|\*none:\* \S", covered), line


def test_coverage_is_read_from_docstrings_of_tests_alone():
    """An id counts in the docstring of a test, and neither in a comment nor in a function that is none."""
    text = """
def test_a():
    '''TK1, TK2: refused.'''
def test_b():
    # TK3
    '''Says nothing.'''
def make():
    '''TK4.'''
class TestIt:
    async def test_c(self):
        '''TK1.'''
"""
    assert covering_tests({"x.py": text}) == {
        "TK1": [("x.py", "test_a"), ("x.py", "test_c")],
        "TK2": [("x.py", "test_a")],
    }


def test_reason_is_printed_only_without_a_test():
    """A covered requirement shows its tests, another one its own reason, or that of its area."""
    areas = {
        "TK": {
            "title": "T",
            "missing": "later",
            "1": "one",
            "2": {"text": "two", "missing": "never"},
            "3": "x",
        }
    }
    table = security_table(areas, {"TK1": [("x.py", "test_a")]})
    assert "| TK1 | one | x.py: `a` |" in table
    assert "| TK2 | two | *none:* never |" in table
    assert "| TK3 | x | *none:* later |" in table
