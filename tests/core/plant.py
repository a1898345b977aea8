"""Rules planted wrong, to show that a search for broken promises can find one; and how long to search."""

import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def planted(module: ModuleType, *changes: tuple[str, str]) -> ModuleType:
    """A copy of ``module`` in which each text, which occurs exactly once, is replaced by another."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text("utf-8")
    for right, wrong in changes:
        assert source.count(right) == 1, f"{module.__name__} has {source.count(right)} times: {right}"
        source = source.replace(right, wrong)
    copy = ModuleType(f"planted_{module.__name__.rpartition('.')[2]}")
    exec(compile(source, f"planted copy of {module.__file__}", "exec"), copy.__dict__)
    return copy


def names_of(modules: tuple[ModuleType, ...]) -> ModuleType:
    """All names of ``modules`` in one, as :func:`planted_in` gives those of copies."""
    everything = ModuleType("everything")
    for module in modules:
        vars(everything).update(vars(module))
    return everything


def planted_in(modules: tuple[ModuleType, ...], *changes: tuple[str, str]) -> ModuleType:
    """All names of copies of ``modules``, each of which imports the copies before it.

    Each text, which occurs exactly once in all of them, is replaced by another.
    """
    texts = {module.__name__: Path(module.__file__ or "").read_text("utf-8") for module in modules}
    for right, wrong in changes:
        places = [name for name, text in texts.items() for _ in range(text.count(right))]
        assert len(places) == 1, f"{places} have: {right}"
        texts[places[0]] = texts[places[0]].replace(right, wrong)
    copies = []
    with patch.dict(sys.modules):
        for name, text in texts.items():
            copy = ModuleType(name)
            exec(compile(text, f"planted copy of {name}", "exec"), copy.__dict__)
            sys.modules[name] = copy
            copies.append(copy)
    return names_of(tuple(copies))


def search(machine: type[RuleBasedStateMachine], *, steps: int, factor: int) -> None:
    """Search ``machine`` for a broken promise, with ``factor`` times the examples of the profile.

    A soak has examples enough as it is. Mark the test with ``pytest.mark.hypothesis``, so that it finds it.
    """
    profile = settings()
    count = profile.max_examples * (factor if profile.max_examples <= 100 else 1)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=count, stateful_step_count=max(steps, profile.stateful_step_count)),
    )


def find(machine: type[RuleBasedStateMachine], promise: str, *, steps: int, within: int) -> None:
    """See that a search finds ``promise`` broken, within so many examples; always the same ones."""
    quiet = settings(
        max_examples=within,
        stateful_step_count=steps,
        derandomize=True,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match=promise), contextlib.redirect_stdout(io.StringIO()):
        run_state_machine_as_test(machine, settings=quiet)
