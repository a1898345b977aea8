"""Every numbered clause of a port has a conformance test that names it, and every name is of a clause."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORTS = ROOT / "src" / "mintmark" / "ports"
SUITES = ROOT / "src" / "mintmark" / "testing" / "conformance"

CLAUSE = re.compile(r"^- ([A-Z]+-[0-9]+) ", re.MULTILINE)
NAMED = re.compile(r"\b([A-Z]+-[0-9]+)\b")


def clauses(source: str) -> set[str]:
    """The clauses that a port's docstring numbers."""
    return set(CLAUSE.findall(ast.get_docstring(ast.parse(source)) or ""))


def named_in(source: str) -> Iterator[str]:
    """What the docstrings of the tests in a suite name; the first sentence begins with them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            before, colon, _ = (ast.get_docstring(node) or "").partition(":")
            if colon:
                yield from NAMED.findall(before)


def read(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.py"))]


NUMBERED = sorted({clause for source in read(PORTS) for clause in clauses(source)})
TESTED = {name for source in (*read(SUITES), *read(Path(__file__).parent)) for name in named_in(source)}


@pytest.mark.parametrize("clause", NUMBERED)
def test_clause_has_a_test(clause):
    """A clause without a test is a promise that no adapter was held to."""
    assert clause in TESTED


def test_tests_name_clauses_that_exist():
    """A clause that a test names was not renumbered away from it."""
    subjects = {clause.partition("-")[0] for clause in NUMBERED}
    assert {name for name in TESTED if name.partition("-")[0] in subjects} <= set(NUMBERED)


def test_clauses_of_a_port_are_numbered_without_a_gap():
    """Clauses count from 1, so that a number that was skipped is noticed."""
    for source in read(PORTS):
        subjects: dict[str, list[int]] = {}
        for clause in clauses(source):
            subject, _, number = clause.partition("-")
            subjects.setdefault(subject, []).append(int(number))
        for numbers in subjects.values():
            assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_check_can_fail():
    """A numbered clause is found, and a docstring that only mentions it in passing is no test of it."""
    assert clauses('"""A port.\n\n- THING-1 It works.\n- THING-2 It goes on.\n"""') == {"THING-1", "THING-2"}
    suite = 'async def test_a():\n    """THING-1, R2: it works, unlike THING-2: that is another."""\n'
    assert list(named_in(suite)) == ["THING-1"]
