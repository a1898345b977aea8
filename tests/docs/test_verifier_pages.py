"""The pages about the verifier: every example runs, every table is the code's."""

import dataclasses
import re
import types
from pathlib import Path
from typing import Any

import pytest

from mintmark import InvalidToken
from mintmark.core.feed import FeedPolicy
from mintmark.core.keyset import KeysetPolicy
from mintmark.core.refusal import FACTS
from mintmark.testing import FakeIssuer
from mintmark.verifier.fetch import Limits

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
HOW_TO = DOCS / "how-to" / "verify-in-fastapi.md"
REFERENCE = DOCS / "reference" / "verifier.md"
EXAMPLE = "https://auth.example.com"


def run(page: Path, issuer: FakeIssuer) -> types.SimpleNamespace:
    """Every python block of ``page``, run in order in one namespace, with ``issuer`` for the example's."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text("utf-8"))
    assert blocks
    for number, block in enumerate(blocks):
        code = compile(block.replace(EXAMPLE, issuer.issuer), f"{page.name}#{number}", "exec")
        exec(code, namespace)
    return types.SimpleNamespace(**namespace)


def section(page: Path, name: str) -> str:
    """What stands between the marks ``name`` of ``page``."""
    found = re.search(rf"(?s)<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text("utf-8"))
    assert found is not None
    return found[1]


def codes() -> str:
    """The table of codes, as the code has them."""
    lines = ["| code | status | meaning |", "|---|---|---|"]
    lines += [f"| `{code.value}` | {fact.status} | {fact.meaning} |" for code, fact in FACTS.items()]
    return "\n".join(lines) + "\n"


def numbers() -> str:
    """The table of defaults, as the code has them."""
    lines = ["| number | default |", "|---|---|"]
    for policy in (KeysetPolicy, FeedPolicy, Limits):
        lines += [
            f"| `{policy.__name__}.{field.name}` | {field.default:,} |"
            for field in dataclasses.fields(policy)
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def issuer():
    """The issuer that the examples talk to."""
    with FakeIssuer() as issuer:
        yield issuer


def test_the_how_to_runs_and_its_own_tests_pass(issuer):
    """Every block in order, then the tests that it shows."""
    page = run(HOW_TO, issuer)
    shown = [name for name in vars(page) if name.startswith("test_")]
    assert len(shown) == 2
    for name in shown:
        getattr(page, name)()


def test_the_reference_runs(issuer):
    """Every block, and what its functions say of a good and a bad token."""
    page = run(REFERENCE, issuer)
    raw = issuer.mint(sub="usr_7", audience="orders", scope="orders:read")
    try:
        assert page.sub_of(raw) == "usr_7"
        assert page.sub_of(issuer.mint(audience="orders")) == "403 lacks orders:read"
        assert page.sub_of("x") == "401 not_compact"
        assert page.several.verify(raw).sub == "usr_7"
    finally:
        page.verifier.close()
        page.several.close()
    assert page.sub_of(raw) == "503 come again in 1 s"
    now = issuer.clock.now()
    assert page.verify_offline(issuer.key_set(), raw, now) == "usr_7"
    with pytest.raises(InvalidToken):
        page.verify_offline(issuer.key_set(), raw, now + 3600)


@pytest.mark.parametrize(("name", "table"), [("codes", codes), ("numbers", numbers)])
def test_the_tables_are_the_codes(name, table):
    """A code or a default that changes, changes here."""
    assert section(REFERENCE, name) == table()
