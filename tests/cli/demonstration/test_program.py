"""A program of the demo is started, told to leave, killed and started again, and never left behind."""

import os

import pytest

from mintmark.cli.demonstration import program as programs
from mintmark.cli.demonstration.program import DemoFailed, Program
from mintmark.system import SYSTEM_CLOCK

OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
HESITANT = "import signal, sys; told = []; signal.signal(signal.SIGTERM, lambda *_: told.append(1) or len(told) > 1 and sys.exit(0))"  # noqa: E501
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
WAITS = "; print('up', flush=True)\nwhile True: signal.pause()\n"


@pytest.fixture
def started(tmp_path, monkeypatch, request):
    """A program with the given behaviour that is up; nothing of it may run afterwards."""
    monkeypatch.setattr(programs, "_LEAVING", 0.5)
    (tmp_path / "act.py").write_text(request.param + WAITS)
    program = Program("it", "act", environ={**os.environ, "PYTHONPATH": str(tmp_path)}, log=tmp_path / "log")
    program.start()
    yield program
    assert not program.runs


async def until_up(program: Program) -> None:
    while "up" not in program.tail():
        program.check()
        await SYSTEM_CLOCK.sleep(0.02)


@pytest.mark.parametrize("started", [OBEDIENT], indirect=True)
async def test_one_that_leaves_may_start_again(started):
    """It is told once; its end is no failure, and it runs again afterwards."""
    await until_up(started)
    await started.stop()
    with pytest.raises(DemoFailed, match="ended with status 0"):
        started.check()
    started.start()
    started.check()
    await started.kill()
    with pytest.raises(DemoFailed, match="ended with status -9"):
        started.check()


@pytest.mark.parametrize("started", [HESITANT], indirect=True)
async def test_one_that_waits_is_told_twice_at_the_end(started):
    """A second SIGTERM ends what the first one did not."""
    await until_up(started)
    await started.end()


@pytest.mark.parametrize("started", [DEAF], indirect=True)
async def test_one_that_obeys_nothing_is_killed(started, monkeypatch):
    """Two SIGTERM in vain, then SIGKILL."""
    monkeypatch.setattr(programs, "PATIENCE", 0.5)
    await until_up(started)
    with pytest.raises(DemoFailed, match="was told to leave, and did not"):
        await started.stop()
    monkeypatch.setattr(programs, "PATIENCE", 60.0)
    await started.kill()
