"""Work that outlives its request."""

from __future__ import annotations

import asyncio

import pytest

from backend import background as background_module
from backend.background import Background, Chore
from backend.errors import HypervisorDown, InvalidValue


async def test_a_failure_reaches_its_handler_and_harms_nobody() -> None:
    heard: list[str] = []
    told = asyncio.Event()

    async def bad() -> None:
        raise ValueError("no")

    async def failed(error: Exception) -> None:
        heard.append(str(error))
        told.set()

    async with Background() as background:
        background.start("bad", bad, failed=failed)
        async with asyncio.timeout(5):
            await told.wait()
    assert heard == ["no"]


async def test_one_name_runs_once_at_a_time() -> None:
    begun = 0
    gate = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    async with Background() as background:
        background.start("work", work)
        background.start("work", work)
        await asyncio.sleep(0)
        gate.set()
    assert begun == 1


async def test_leaving_cancels_and_waits() -> None:
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Background() as background:
        background.start("forever", forever)
        await asyncio.sleep(0)
    assert ended.is_set()


class Duty:
    """Fails as often as it is told to, then runs until cancelled, or returns."""

    def __init__(self, *failures: Exception, returns: bool = False) -> None:
        self.failures, self.returns = list(failures), returns
        self.runs = asyncio.Event()

    async def __call__(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.runs.set()
        if not self.returns:
            await asyncio.Event().wait()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "PAUSE_FIRST_S", 0.001)


@pytest.mark.usefixtures("hasty")
async def test_a_kept_duty_is_begun_again_logged_once_and_told_in_health(
    caplog: pytest.LogCaptureFixture,
) -> None:
    duty = Duty(KeyError("secret"), KeyError("secret"), KeyError("secret"))
    async with Background() as background:
        background.keep("keep the stock", duty)
        async with asyncio.timeout(5):
            await duty.runs.wait()
        health = await background.component()
    assert health.status == "degraded" and "secret" not in health.message
    assert health.message.startswith("keep the stock failed 3 times") and "KeyError" in health.message
    assert [record.getMessage() for record in caplog.records] == ["keep the stock failed, and is tried again"]


@pytest.mark.usefixtures("hasty")
async def test_a_duty_that_is_done_is_not_begun_again_and_its_trouble_is_over() -> None:
    duty = Duty(OSError("disk"), returns=True)
    async with Background() as background:
        background.keep("end it", duty)
        async with asyncio.timeout(5):
            while background.running("end it"):
                await asyncio.sleep(0)
        assert (await background.component()).status == "ok"


async def test_a_turn_that_fails_ends_no_loop_and_the_next_that_works_clears_it() -> None:
    background = Background()
    with background.turn("expiry"):
        raise InvalidValue("no such host", remedy="none")
    assert "no such host" in (await background.component()).message
    with background.turn("expiry"):
        pass
    assert (await background.component()).status == "ok"


async def test_who_is_away_is_told_by_its_own_part() -> None:
    background = Background()
    with background.turn("expiry"):
        raise HypervisorDown("far-1 is silent", remedy="wait")
    assert (await background.component()).status == "ok"


async def test_a_chore_is_done_when_it_is_due_and_again_at_once_where_it_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background_module, "TURN_S", 0.001)
    done: list[str] = []
    often = asyncio.Event()

    async def always() -> None:
        done.append("always")
        if done.count("always") == 5:
            often.set()

    async def daily() -> None:
        done.append("daily")

    async def daily_that_fails_once() -> None:
        done.append("daily, with trouble")
        if done.count("daily, with trouble") == 1:
            raise HypervisorDown("away")

    async with Background() as background:
        chores = (
            Chore("daily", daily, 86_400),
            Chore("daily, with trouble", daily_that_fails_once, 86_400),
            Chore("always", always),
        )
        background.keep("housekeeping", lambda: background.keep_house(chores))
        async with asyncio.timeout(5):
            await often.wait()
    assert (done.count("daily"), done.count("daily, with trouble")) == (1, 2)


async def test_a_chore_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "TURN_S", 0.001)
    done = asyncio.Event()

    async def hang() -> None:
        await asyncio.Event().wait()

    async def expire() -> None:
        done.set()

    async with Background() as background:
        chores = Chore("age the templates", hang), Chore("end what outlived its time", expire)
        background.keep("housekeeping", lambda: background.keep_house(chores))
        async with asyncio.timeout(5):
            await done.wait()
