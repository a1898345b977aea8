"""Reference pages say what the code does."""

import pytest
from scripts.reference import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name):
    """The committed page is what the code would write now; scripts/reference.py writes it."""
    assert (FOLDER / name).read_text("utf-8") == PAGES[name]()
