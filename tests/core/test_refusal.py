"""The table of codes is whole."""

from mintmark.core.refusal import FACTS, Code


def test_the_table_is_in_the_order_of_checks():
    """Lines go from step 1 to step 13, each with one sentence that ends without a full stop."""
    steps = [fact.step for fact in FACTS.values()]
    assert steps == sorted(steps)
    assert list(dict.fromkeys(steps)) == list(range(1, 14))
    assert all(fact.meaning[-1] != "." for fact in FACTS.values())


def test_codes_are_words():
    """A code is a lower-case identifier: fit for a metric's label, a log's field and a match statement."""
    assert all(code.value.isidentifier() and code.value.islower() for code in Code)
    assert {code.name.lower() for code in Code} == {code.value for code in Code}
