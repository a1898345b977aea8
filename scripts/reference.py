"""Write the pages of docs/reference that derive from the code; a test fails while they differ.

``.venv/bin/python scripts/reference.py`` writes them all. A new page is one function and one line.
"""

from collections.abc import Callable
from pathlib import Path

from mintmark.core.timing import RULES
from mintmark.server.settings import DEFAULT_FILE, KEYS, OTHER_VARIABLES, written

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"

MARK = "<!-- Written by scripts/reference.py from the code: change it there. -->"

INTRODUCTION = f"""\
A node reads `{DEFAULT_FILE}` in its working directory, or the file that `--config` or `MINTMARK_CONFIG`
names. The file is flat TOML: one line a setting. The variable of a setting is its name in capitals after
`MINTMARK_`; it overrides the file, and separates the items of a list by commas.

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


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings,
}
"""The generated pages, each with the function that gives its text."""


def main() -> None:
    """Write every page."""
    for name, text in PAGES.items():
        (FOLDER / name).write_text(text(), "utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
