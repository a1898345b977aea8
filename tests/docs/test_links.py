"""Links between documents lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def prose(page: Path) -> str:
    """The text of a page without its blocks and spans of code."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1", "", page.read_text("utf-8"))
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and the documentation make them."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1", "", page.read_text("utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#+ +(.*?) *#*$", text):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(slug)
    return found


def broken(page: Path) -> Iterator[str]:
    """The relative links of ``page`` that lead to no file, or to no heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path):
    """Each link of the page to another file, or to a heading, has its target."""
    assert list(broken(page)) == []


def test_broken_links_are_found(tmp_path: Path):
    """A missing file and a missing heading are found; other sites and code are not looked at."""
    page = tmp_path / "a.md"
    page.write_text(
        "# One, `two`!\n[a](#one-two) [b](#three) [c](b.md) [d](a.md#one-two) [e](https://example.com/x)\n"
        "`[f](none.md)`\n```\n[g](none.md)\n# not a heading\n```\n[h](#not-a-heading)\n"
    )
    assert list(broken(page)) == ["#three", "b.md", "#not-a-heading"]
