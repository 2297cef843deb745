"""Panes over a real tmux, a local shell standing in for the guest's."""

from __future__ import annotations

import asyncio
import time

import pytest

from backend.audit import Audit
from backend.config import LimitConfig
from backend.errors import InvalidValue, LimitReached, PaneNotFound, SandboxNotFound
from backend.models import EVENTS_MISSED
from backend.panes import Panes
from backend.store import EventBus, Subscription
from backend.tmux import TmuxServer
from tests.fix_panes import ANN, BOB, LIMIT_S, OPERATOR, OneSandbox, follow, shell, until_shown


async def told(events: Subscription, kind: str) -> str:
    async with asyncio.timeout(LIMIT_S):
        return next(event.id for event in [await _first(events, kind)])


async def _first(events: Subscription, kind: str):  # type: ignore[no-untyped-def]
    async for event in events:
        if event.kind == kind:
            return event
    raise AssertionError("the bus ended")


async def test_what_an_agent_types_is_read_as_plain_text_and_followed_with_colours(panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")
    assert (pane.sandbox_id, pane.sandbox_name, pane.owner_uid) == ("SBX-1", "nginx-tls", 1001)
    await panes.send(ANN, pane.pane_id, text="printf '\\033[31mred\\033[0m\\n'", key="Enter")
    followed = await until_shown(panes, pane.pane_id, "\x1b[31mred")
    assert followed[-1] == ""
    assert "red" in await panes.read(ANN, pane.pane_id)
    assert len(await panes.read(ANN, pane.pane_id, 1)) == 1


async def test_opening_typing_and_closing_are_in_the_audit_and_what_was_typed_is_not(
    panes: Panes, audit: Audit, fleet: OneSandbox
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    await panes.send(ANN, pane.pane_id, text="geheim", key="Enter")
    await panes.close(ANN, pane.pane_id)
    rows, _ = await audit.list()
    intents = {row.action: row for row in rows if row.step == "intent"}
    assert {row.actor_uid for row in rows} == {ANN.uid}
    assert set(intents) == {"pane.open", "pane.type", "pane.close"}
    assert intents["pane.type"].sandbox_id == "SBX-1"
    assert (intents["pane.type"].data["characters"], intents["pane.type"].data["key"]) == (6, "Enter")
    assert "geheim" not in repr(rows)


async def test_an_agent_sees_and_touches_its_own_panes_only(panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")
    assert await panes.list(BOB) == []
    for attempt in (
        panes.read(BOB, pane.pane_id),
        panes.send(BOB, pane.pane_id, text="id\n"),
        panes.close(BOB, pane.pane_id),
        anext(aiter(follow(panes, BOB, pane.pane_id))),
    ):
        with pytest.raises(PaneNotFound):
            await attempt
    with pytest.raises(SandboxNotFound):
        await panes.open(BOB, "SBX-1")
    assert [one.pane_id for one in await panes.list(ANN)] == [pane.pane_id]
    assert [one.pane_id for one in await panes.list(OPERATOR)] == [pane.pane_id]
    with pytest.raises(InvalidValue):
        await panes.send(ANN, pane.pane_id, key="kill-server")


async def test_the_fleet_hears_what_is_typed_before_the_guest_does(
    panes: Panes, fleet: OneSandbox, tmux: TmuxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    send, heard = tmux.send_text, list[list[str]]()

    async def sent(pane_id: str, text: str) -> None:
        heard.append([*fleet.typed])
        await send(pane_id, text)

    monkeypatch.setattr(tmux, "send_text", sent)
    await panes.send(ANN, pane.pane_id, text="echo rm -rf /nothing", key="Enter")
    await panes.send(ANN, pane.pane_id, key="Enter")
    assert heard == [["echo rm -rf /nothing"]]


async def test_a_sandbox_has_as_many_terminals_as_it_may_have_ended_ones_counted(
    panes: Panes, bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panes, "_limits", LimitConfig(panes_per_sandbox=2))
    asked = [panes.open(ANN, "SBX-1") for _ in range(3)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in results if isinstance(one, Exception)] == [LimitReached]
    first, second = await panes.list(ANN)
    with bus.subscribe() as events:
        await panes.send(ANN, first.pane_id, text="exit", key="Enter")
        assert await told(events, "pane.ended") == first.pane_id
    with pytest.raises(LimitReached, match="nginx-tls has 2 terminals"):
        await panes.open(ANN, "SBX-1")
    assert len(await panes.list(ANN)) == 2
    await panes.close(ANN, first.pane_id)
    third = await panes.open(ANN, "SBX-1")
    assert {one.pane_id for one in await panes.list(ANN)} == {second.pane_id, third.pane_id}


async def test_a_flood_is_painted_at_most_four_times_a_second_and_ends_on_its_last_screen(
    panes: Panes, bus: EventBus
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    begin = time.monotonic()
    paints = 0
    await panes.send(ANN, pane.pane_id, text="seq 300000; echo flood-over\n")
    async with asyncio.timeout(LIMIT_S):
        async for rows in follow(panes, OPERATOR, pane.pane_id):
            paints += 1
            if "flood-over" in rows:
                break
    assert paints <= 4 * (time.monotonic() - begin) + 2


async def test_many_followers_share_one_look_and_all_see_the_end(panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")

    async def last() -> list[str]:
        return [rows async for rows in follow(panes, OPERATOR, pane.pane_id)][-1]

    followers = [asyncio.create_task(last()) for _ in range(5)]
    await until_shown(panes, pane.pane_id, "$")
    assert len(panes._pumps) == 1
    await panes.close(ANN, pane.pane_id)
    async with asyncio.timeout(LIMIT_S):
        screens = await asyncio.gather(*followers)
    assert all("$" in rows for rows in screens)
    assert panes._pumps == {}


async def test_panes_that_come_and_go_are_told(panes: Panes, bus: EventBus, fleet: OneSandbox) -> None:
    with bus.subscribe() as events:
        pane = await panes.open(ANN, "SBX-1")
        assert await told(events, "pane.opened") == pane.pane_id
        fleet.sandbox = None
        await panes.send(OPERATOR, pane.pane_id, text="exit\n")
        assert await told(events, "pane.ended") == pane.pane_id
        assert await told(events, "pane.closed") == pane.pane_id
    assert await panes.list(OPERATOR) == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [("sandbox.changed", {"phase": "destroyed"}), (EVENTS_MISSED, {})],
    ids=["told", "missed"],
)
async def test_a_pane_that_ended_before_its_sandbox_goes_with_it(
    panes: Panes, bus: EventBus, fleet: OneSandbox, kind: str, data: dict[str, object]
) -> None:
    with bus.subscribe() as events:
        pane = await panes.open(ANN, "SBX-1")
        assert await told(events, "pane.opened") == pane.pane_id
        fleet.asked.clear()
        await panes.send(ANN, pane.pane_id, text="exit", key="Enter")
        assert await told(events, "pane.ended") == pane.pane_id
        await asyncio.wait_for(fleet.asked.wait(), LIMIT_S)
        assert len(await panes.list(ANN)) == 1, "its last screen stays as long as its sandbox"
        fleet.sandbox = None
        await bus.publish(kind, "sandbox", "SBX-1", sandbox_id="SBX-1", data=data)
        assert await told(events, "pane.closed") == pane.pane_id
    assert await panes.list(OPERATOR) == []


async def test_a_restarted_backend_finds_every_pane_with_its_owner(
    panes: Panes, tmux: TmuxServer, bus: EventBus, audit: Audit, fleet: OneSandbox
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    again = TmuxServer(tmux.socket)
    await again.start()
    try:
        restarted = Panes(again, bus, audit, fleet, shell, LimitConfig())
        (adopted,) = await restarted.list(ANN)
        assert (adopted.pane_id, adopted.sandbox_id, adopted.owner_uid) == (pane.pane_id, "SBX-1", 1001)
        assert await restarted.list(BOB) == []
    finally:
        await again.close()


async def test_a_guest_that_is_back_gets_a_new_shell_in_the_same_pane(
    panes: Panes, bus: EventBus, audit: Audit
) -> None:
    lives, ended = await panes.open(ANN, "SBX-1"), await panes.open(ANN, "SBX-1", width=100)
    await panes.send(ANN, lives.pane_id, text="old=1; echo first", key="Enter")
    await until_shown(panes, lives.pane_id, "first")
    with bus.subscribe() as events:
        await panes.send(ANN, ended.pane_id, text="exit", key="Enter")
        assert await told(events, "pane.ended") == ended.pane_id
        await bus.publish("snapshot.restored", "snapshot", "SNP-1", sandbox_id="SBX-1")
        assert await told(events, "pane.opened") == ended.pane_id
    for pane in (lives, ended):
        await panes.send(ANN, pane.pane_id, text="echo now${old}:$COLUMNS", key="Enter")
        await until_shown(panes, pane.pane_id, f"now:{pane.width}")
    rows, _ = await audit.list()
    again = [row.id for row in rows if row.action == "pane.reattach" and row.step == "intent"]
    assert len(again) == 2
