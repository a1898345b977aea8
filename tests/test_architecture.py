"""The shape of the code, as rules that break the build; each has planted violations that it must catch.

The layers are a contract of import-linter in ``pyproject.toml``. The rest is read off the syntax tree.
"""

import ast
import os
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "mintmark"

TIME_AND_CHANCE = {"time", "random", "secrets", "uuid"}
"""Modules that only system.py imports: a list of their functions would never be complete."""

READERS = {
    "os": {"urandom", "getrandom", "times"},
    "datetime": {"now", "utcnow", "today"},
    "asyncio": {"sleep"},
    "anyio": {"sleep", "sleep_until", "sleep_forever", "current_time"},
    "threading": {"Timer"},
}
"""What else reads a clock or chance, or waits for time to pass without a Clock."""

LOOP_TIMERS = {"call_later", "call_at"}

IMPURE = """
    anyio asyncio concurrent contextvars http httpx2 importlib io logging multiprocessing os pathlib queue
    select selectors shutil signal socket sqlalchemy sqlite3 ssl starlette structlog subprocess sys tempfile
    threading warnings
"""
"""What core has no business with; time and chance are forbidden everywhere."""

KEY_MAKERS = {"generate_private_key", "generate_key", "generate"}

HEAPS = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}

LIGHT = {"errors", "units", "core", "ports", "system", "verifier"}
"""The packages that ``import mintmark`` may load."""

HEAVY = {"httpx2", "sqlalchemy", "starlette", "fastapi", "uvicorn", "structlog", "anyio"}
"""What it may not: a service that only verifies pays for none of it at import."""

LONGER = "Longer than 300 lines because"


@dataclass(frozen=True, slots=True)
class Module:
    """One file of a source tree: its path below the package, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module


Rule = Callable[[Module], Iterator[tuple[int, str]]]


def imports(tree: ast.Module) -> Iterator[tuple[int, str, str, str]]:
    """Each name that an import binds: line, module, the name taken from it or "", the name bound."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for name in node.names:
                    yield node.lineno, name.name, "", name.asname or name.name.partition(".")[0]
            case ast.ImportFrom():
                for name in node.names:
                    yield node.lineno, node.module or "", name.name, name.asname or name.name
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(func) in {"__import__", "import_module", "importlib.import_module"}:
                    yield node.lineno, name, "", ""


def root_name(node: ast.expr) -> str:
    """The name that a chain of attributes starts from, or ""."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def reads_no_time_or_chance(module: Module) -> Iterator[tuple[int, str]]:
    """Only system.py reads time or randomness, under whatever name it was imported."""
    if module.path == "system.py":
        return
    # A test server may drip in real time, and a test clock must let other tasks run.
    allowed = {"sleep"} if module.path.startswith("testing/") else set()
    origin: dict[str, str] = {}
    for line, name, taken, alias in imports(module.tree):
        top = name.partition(".")[0]
        if top in TIME_AND_CHANCE:
            yield line, f"imports {top}"
        if taken in READERS.get(top, set()) - allowed:
            yield line, f"imports {name}.{taken}"
        origin[alias] = top
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(value=base, attr=attr):
                readers = READERS.get(origin.get(root_name(base), ""), set()) - allowed
                if attr in readers or attr in LOOP_TIMERS:
                    yield node.lineno, f"uses {ast.unparse(node)}"
            case ast.Call(func=ast.Attribute(attr="time"), args=[], keywords=[]):
                # An event loop, whatever it is called: nothing else has a `time` without arguments.
                yield node.lineno, f"calls {ast.unparse(node)}"


def makes_no_keys(module: Module) -> Iterator[tuple[int, str]]:
    """Only the signer, and tests, let the crypto library draw a key from randomness of its own."""
    if module.path.startswith(("signer/", "testing/")):
        return
    foreign = set()
    for line, name, taken, alias in imports(module.tree):
        if name.startswith("cryptography"):
            foreign.add(alias)
            if taken in KEY_MAKERS:
                yield line, f"imports {name}.{taken}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in KEY_MAKERS and root_name(node.value) in foreign:
            yield node.lineno, f"uses {ast.unparse(node)}"


def core_is_pure(module: Module) -> Iterator[tuple[int, str]]:
    """Nothing in core does input or output, logs or awaits."""
    if not module.path.startswith("core/"):
        return
    for line, name, _, _ in imports(module.tree):
        if name.partition(".")[0] in IMPURE.split() or name == "urllib.request":
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "is asynchronous"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" | "exec" | "eval" as name)):
                yield node.lineno, f"calls {name}"


def asserts_nothing(module: Module) -> Iterator[tuple[int, str]]:
    """Nothing relies on a statement that ``python -O`` removes; mintmark.testing is for tests."""
    if not module.path.startswith("testing/"):
        yield from (
            (node.lineno, "asserts") for node in ast.walk(module.tree) if isinstance(node, ast.Assert)
        )


def imports_absolutely(module: Module) -> Iterator[tuple[int, str]]:
    """Every import says the whole name, so that moving a file moves nothing else."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "imports relatively"


def swallows_nothing(module: Module) -> Iterator[tuple[int, str]]:
    """No handler catches everything and says nothing."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = (
            {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else set()
        )
        silent = all(
            isinstance(step, ast.Pass | ast.Continue)
            or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
            for step in node.body
        )
        if silent and (not caught or caught & {"Exception", "BaseException"}):
            yield node.lineno, "swallows every exception"


def is_named_for_what_it_is(module: Module) -> Iterator[tuple[int, str]]:
    """No module is a heap by its name, and no function is named for being called."""
    if HEAPS & set(Path(module.path).with_suffix("").parts):
        yield 1, "has the name of a heap"
    for node in ast.walk(module.tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name.lstrip("_").startswith(("handle_", "do_")):
                    yield node.lineno, f"names a function {name}"


def is_short(module: Module) -> Iterator[tuple[int, str]]:
    """A module has at most 300 lines of code, or says at its top why not."""
    reason = LONGER in " ".join((ast.get_docstring(module.tree) or "").split())
    if (count := lines_of_code(module)) > 300 and not reason:
        yield 1, f"has {count} lines of code"


def lines_of_code(module: Module) -> int:
    """Lines that hold something other than a comment or a docstring."""
    prose = set[int]()
    for node in ast.walk(module.tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    empty = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set[int]()
    for token in tokenize.generate_tokens(StringIO(module.text).readline):
        if token.type not in empty:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


RULES: tuple[Rule, ...] = (
    reads_no_time_or_chance,
    makes_no_keys,
    core_is_pure,
    asserts_nothing,
    imports_absolutely,
    swallows_nothing,
    is_named_for_what_it_is,
    is_short,
)


def modules(package: Path) -> Iterator[Module]:
    """Every module of the package in the folder ``package``."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text("utf-8")
        yield Module(path.relative_to(package).as_posix(), text, ast.parse(text))


def violations(rule: Rule, package: Path) -> list[str]:
    """What breaks ``rule`` in the package in the folder ``package``: path, line and fact."""
    return [
        f"{module.path}:{line} {fact}" for module in modules(package) for line, fact in sorted(rule(module))
    ]


def run(*command: str, tree: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that sees the package in ``tree`` before the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plant(tree: Path, path: str, text: str) -> Path:
    """A package ``mintmark`` in ``tree`` that holds ``text`` in ``path``; returns its folder."""
    package = tree / "mintmark"
    for folder in [package, *(package / name.name for name in SOURCE.iterdir() if name.is_dir())]:
        if folder.name != "__pycache__":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
    for module in SOURCE.glob("*.py"):
        (package / module.name).touch()
    (package / path).write_text(text)
    return package


# --- the rules hold ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_keeps_the_rule(rule: Rule):
    """No module of mintmark breaks the rule."""
    assert violations(rule, SOURCE) == []


def test_layers_import_downwards_only():
    """The contracts of import-linter hold for the package as it is."""
    checked = layers(ROOT / "src")
    assert checked.returncode == 0, checked.stdout


def layers(tree: Path) -> subprocess.CompletedProcess[str]:
    """The outcome of import-linter, with the contracts of this project, on the package in ``tree``."""
    return run(
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as lint; lint()",
        "--no-cache",
        "--no-logo",
        "--config",
        str(ROOT / "pyproject.toml"),
        tree=tree,
        cwd=tree,
    )


def loaded(tree: Path) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``import mintmark``."""
    started = run(
        "-c",
        "import sys; before = set(sys.modules); import mintmark; print(*(set(sys.modules) - before))",
        tree=tree,
    )
    assert started.returncode == 0, started.stderr
    return set(started.stdout.split())


def too_much(names: set[str]) -> set[str]:
    """Those of ``names`` that ``import mintmark`` must not load."""
    ours = {name.split(".")[1] for name in names if name.startswith("mintmark.")}
    return (ours - LIGHT) | (HEAVY & {name.partition(".")[0] for name in names})


def test_import_is_light():
    """``import mintmark`` loads core and verifier, no HTTP client, and nothing of the server."""
    names = loaded(ROOT / "src")
    assert "mintmark" in names
    assert too_much(names) == set()


# --- the rules can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (reads_no_time_or_chance, "core/x.py", "import time"),
        (reads_no_time_or_chance, "core/x.py", "from time import time"),
        (reads_no_time_or_chance, "core/x.py", "import time as clock"),
        (reads_no_time_or_chance, "core/x.py", "def f():\n    from time import monotonic as now"),
        (reads_no_time_or_chance, "core/x.py", "from datetime import datetime as d\nd.now()"),
        (reads_no_time_or_chance, "core/x.py", "import datetime as d\nd.datetime.utcnow()"),
        (reads_no_time_or_chance, "core/x.py", "from datetime import date\ndate.today()"),
        (reads_no_time_or_chance, "core/x.py", "from uuid import uuid4"),
        (reads_no_time_or_chance, "core/x.py", "import secrets"),
        (reads_no_time_or_chance, "core/x.py", "import random"),
        (reads_no_time_or_chance, "core/x.py", "import os\nos.urandom(1)"),
        (reads_no_time_or_chance, "core/x.py", "from os import urandom as chance"),
        (reads_no_time_or_chance, "core/x.py", "import importlib\nimportlib.import_module('time')"),
        (reads_no_time_or_chance, "node/x.py", "import asyncio\nasyncio.get_event_loop().time()"),
        (reads_no_time_or_chance, "node/x.py", "def f(loop):\n    return loop.time()"),
        (reads_no_time_or_chance, "node/x.py", "def f(loop, g):\n    loop.call_later(1, g)"),
        (reads_no_time_or_chance, "node/x.py", "import asyncio as a\nasync def f():\n    await a.sleep(1)"),
        (reads_no_time_or_chance, "node/x.py", "from anyio import sleep"),
        (reads_no_time_or_chance, "testing/x.py", "import time"),
        (
            makes_no_keys,
            "server/x.py",
            "from cryptography.hazmat.primitives.asymmetric import rsa\nrsa.generate_private_key(3, 4)",
        ),
        (
            makes_no_keys,
            "core/x.py",
            "from cryptography.x.ed25519 import Ed25519PrivateKey as K\nK.generate()",
        ),
        (core_is_pure, "core/x.py", "import logging"),
        (core_is_pure, "core/x.py", "from pathlib import Path"),
        (core_is_pure, "core/x.py", "async def f(): ..."),
        (core_is_pure, "core/x.py", "open('x')"),
        (asserts_nothing, "server/x.py", "assert True"),
        (imports_absolutely, "core/x.py", "from . import y"),
        (swallows_nothing, "node/x.py", "try:\n    f()\nexcept Exception:\n    pass"),
        (swallows_nothing, "node/x.py", "try:\n    f()\nexcept:\n    ..."),
        (
            swallows_nothing,
            "node/x.py",
            "for x in y:\n    try:\n        f()\n    except (OSError, Exception):\n        continue",
        ),
        (is_named_for_what_it_is, "core/utils.py", ""),
        (is_named_for_what_it_is, "core/x.py", "def _handle_it(): ..."),
        (is_short, "core/x.py", "x = 1\n" * 301),
        (is_short, "core/x.py", '"""Long."""\nx = """\n' + "a\n" * 300 + '"""'),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, rule: Rule, path, text):
    """The rule notices this one violation, in this one file."""
    found = violations(rule, plant(tmp_path, path, text))
    assert found
    assert all(line.startswith(f"{path}:") for line in found)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (reads_no_time_or_chance, "system.py", "import time, os\nos.urandom(1)"),
        (
            reads_no_time_or_chance,
            "core/x.py",
            "def f(clock):\n    return clock.now(), clock.monotonic(), clock.sleep(1)",
        ),
        (makes_no_keys, "signer/x.py", "from cryptography.x import rsa\nrsa.generate_private_key()"),
        (makes_no_keys, "server/x.py", "async def f(signer):\n    await signer.generate()"),
        (core_is_pure, "server/x.py", "import logging"),
        (asserts_nothing, "testing/x.py", "assert True"),
        (swallows_nothing, "node/x.py", "try:\n    f()\nexcept OSError:\n    pass"),
        (swallows_nothing, "node/x.py", "try:\n    f()\nexcept Exception as error:\n    g(error)"),
        (is_short, "core/x.py", "x = 1\n\n# why\n" * 300),
        (is_short, "core/x.py", f'"""Long.\n\n{LONGER}\nit is a table.\n"""\n' + "x = 1\n" * 301),
    ],
)
def test_what_is_allowed_is_not_a_violation(tmp_path: Path, rule: Rule, path, text):
    """The rule leaves alone what it does not forbid."""
    assert violations(rule, plant(tmp_path, path, text)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/x.py", "import mintmark.verifier"),
        ("core/x.py", "def f():\n    from mintmark.server import y"),
        ("ports/x.py", "import mintmark.system"),
        ("signer/x.py", "import mintmark.verifier"),
        ("server/x.py", "import mintmark.integrations"),
        ("server/x.py", "import mintmark.adapters"),
        ("cli/x.py", "import mintmark.adapters"),
        ("node/x.py", "import mintmark.testing"),
        ("stray/__init__.py", ""),
    ],
)
def test_planted_import_upwards_is_found(tmp_path: Path, path, text):
    """Importing upwards, sideways, past the composition root, or from nowhere known breaks a contract."""
    (tmp_path / "mintmark" / "stray").mkdir(parents=True)
    if not path.startswith("stray"):
        shutil.rmtree(tmp_path / "mintmark" / "stray")
    plant(tmp_path, path, text)
    checked = layers(tmp_path)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "BROKEN" in checked.stdout or "stray" in checked.stdout


def test_planted_tree_is_sound_without_the_violation(tmp_path: Path):
    """The tree that violations are planted in breaks no contract by itself."""
    plant(tmp_path, "core/x.py", "import mintmark.errors")
    assert layers(tmp_path).returncode == 0


@pytest.mark.parametrize(
    "text", ["import sqlalchemy", "import mintmark.server", "import httpx2", "import mintmark.http"]
)
def test_planted_heavy_import_is_found(tmp_path: Path, text):
    """Loading the server, or what only the server needs, is noticed."""
    plant(tmp_path, "__init__.py", text)
    assert too_much(loaded(tmp_path))
