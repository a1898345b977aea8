"""Write the pages of docs, or the parts of them, that derive from the code; a test fails while they differ.

``.venv/bin/python scripts/reference.py`` writes them all. A new page is one function and one line.
"""

import ast
import inspect
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from mintmark.cli.reference import markdown
from mintmark.core.key import TRANSITIONS, KeyEvent, KeyState
from mintmark.core.timing import RULES
from mintmark.server.option import KEYS
from mintmark.server.settings import DEFAULT_FILE, OTHER_VARIABLES, written

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TESTS = (ROOT / "tests", ROOT / "src" / "mintmark" / "testing" / "conformance")

MARK = "<!-- Written by scripts/reference.py from the code: change it there. -->"

OF_ISSUER = ", ".join(f"`{key.name}`" for key in KEYS if key.of_issuer)

INTRODUCTION = f"""\
A node reads `{DEFAULT_FILE}` in its working directory, or the file that `--config` or `MINTMARK_CONFIG`
names. The file is flat TOML: one line a setting. The variable of a setting is its name in capitals after
`MINTMARK_`; it overrides the file, and separates the items of a list by commas.

A node that serves [several issuers](../how-to/serve-several-issuers.md) has a table `[[issuers]]` for each of
them, at the end of the file, with {OF_ISSUER}.
These then stand nowhere else, and have no variable.

A duration is one whole number and one unit: `s`, `m`, `h` or `d`.

An unknown key or variable, a value of the wrong form and a contradiction stop the start. Every mistake is
listed, with the line of the file or the variable to mend."""


def settings() -> str:
    """Every setting, the rules between them, and the variables that are none."""
    page = ["# Settings", MARK, INTRODUCTION]
    for key in KEYS:
        page += [
            f"## `{key.name}`",
            key.meaning,
            f"- Form: {key.kind.label}\n- Default: `{written(key.default)}`\n- Variable: `{key.variable}`",
        ]
    page += [
        "## Rules between settings",
        "What breaks one of these does not start.",
        "\n".join(["| rule | why |", "|---|---|", *(f"| `{rule.formula}` | {rule.why} |" for rule in RULES)]),
        "## Other variables",
        "\n".join(f"- `{name}`: {meaning}" for name, meaning in OTHER_VARIABLES.items()),
    ]
    return "\n\n".join(page) + "\n"


def security() -> str:
    """The page that is there, with its table made anew."""
    page = (DOCS / "security.md").read_text("utf-8")
    return re.sub(
        r"(?s)(?<=<!-- table -->\n).*?(?=<!-- /table -->)",
        lambda _: security_table(security_areas(), covering_tests(sources_of_tests())),
        page,
    )


def key_states() -> str:
    """The page on keys, with the diagram and the table of states made anew."""
    page = (DOCS / "concepts" / "keys.md").read_text("utf-8")
    return re.sub(
        r"(?s)(?<=<!-- states -->\n).*?(?=<!-- /states -->)", lambda _: transitions(TRANSITIONS), page
    )


def transitions(table: Mapping[tuple[KeyState, KeyEvent], KeyState]) -> str:
    """A diagram of ``table``, and a table of its rows with what each event means."""
    meanings = texts_of_members(inspect.getsource(KeyEvent))
    leaving = {before for before, _ in table}
    arrows = [f"    [*] --> {KeyState.PREPARED}"]
    arrows += [f"    {before} --> {after}: {event}" for (before, event), after in table.items()]
    arrows += [f"    {after} --> [*]" for after in dict.fromkeys(table.values()) if after not in leaving]
    rows = [
        f"| {before} | {event} | {after} | {meanings[event.name]} |"
        for (before, event), after in table.items()
    ]
    head = ["| from | event | to | what happened |", "|---|---|---|---|"]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```", "", *head, *rows, ""])


def texts_of_members(source: str) -> dict[str, str]:
    """For each member of the class in ``source``, the text under it, on one line."""
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for member, text in pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def security_areas() -> Mapping[str, Any]:
    """The requirements: for each area its title, and its requirements by number."""
    return tomllib.loads((DOCS / "security.toml").read_text("utf-8"))


def sources_of_tests() -> dict[str, str]:
    """The text of every file that may hold tests, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for folder in TESTS
        for path in sorted(folder.rglob("*.py"))
    }


def covering_tests(files: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """For each id that the docstring of a test names, the file and the name of that test."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for name in dict.fromkeys(
                    re.findall(r"\b[A-Z]{2}[0-9]{1,2}\b", ast.get_docstring(node) or "")
                ):
                    found[name].append((file, node.name))
    return found


def security_table(areas: Mapping[str, Any], tests: Mapping[str, list[tuple[str, str]]]) -> str:
    """A table for each area: id, requirement, and the tests that cover it or why there are none."""
    lines: list[str] = []
    for area, entries in areas.items():
        lines += [f"### {entries['title']}", "", "| id | requirement | tests |", "|---|---|---|"]
        for number, entry in entries.items():
            if not number.isdigit():
                continue
            text, why = (entry, "") if isinstance(entry, str) else (entry["text"], entry["missing"])
            covered = _tests(tests.get(f"{area}{number}", ())) or f"*none:* {why or entries['missing']}"
            lines.append(f"| {area}{number} | {text} | {covered} |")
        lines.append("")
    return "\n".join(lines)


def _tests(covering: Iterable[tuple[str, str]]) -> str:
    by_file: dict[str, list[str]] = defaultdict(list)
    for file, name in covering:
        by_file[file].append(f"`{name.removeprefix('test_')}`")
    return "; ".join(f"{file}: {', '.join(names)}" for file, names in by_file.items())


def command_line() -> str:
    """Every command, its options, and what exit statuses mean."""
    return markdown(MARK)


PAGES: dict[str, Callable[[], str]] = {
    "concepts/keys.md": key_states,
    "reference/cli.md": command_line,
    "reference/settings.md": settings,
    "security.md": security,
}
"""The generated pages, each with the function that gives its text."""


def main() -> None:
    """Write every page."""
    for name, text in PAGES.items():
        (DOCS / name).write_text(text(), "utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
