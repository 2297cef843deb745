"""Events: nothing missed on a resume, nobody slow holds up anybody."""

from __future__ import annotations

import asyncio

from backend.models import EVENTS_MISSED, Event
from backend.store import EventBus, Store, Subscription
from backend.store.events import QUEUE_EVENTS


async def take(events: Subscription, count: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def test_a_listener_hears_what_is_published_after_it_came(bus: EventBus) -> None:
    await bus.publish("sandbox.changed", "sandbox", "SBX-0")
    with bus.subscribe() as events:
        told = await bus.publish("sandbox.changed", "sandbox", "SBX-1", "SBX-1", {"phase": "running"})
        assert await take(events, 1) == [told]


async def test_a_resume_replays_what_was_missed_then_goes_on(store: Store, bus: EventBus) -> None:
    sent = [await bus.publish("a.b", "a", str(number)) for number in range(5)]
    assert [event.seq for event in sent] == list(range(sent[0].seq, sent[0].seq + 5))
    restarted = EventBus(store.events)
    await restarted.open()
    with restarted.subscribe(after_seq=sent[1].seq) as events:
        live = await restarted.publish("a.b", "a", "live")
        assert await take(events, 4) == [*sent[2:], live]


async def test_output_bursts_are_told_and_not_kept(store: Store, bus: EventBus) -> None:
    kept = await bus.publish("a.b", "a", "1")
    with bus.subscribe() as events:
        burst = await bus.publish("command.output", "command", "CMD-1", data={"text": "x"}, persist=False)
        assert await take(events, 1) == [burst]
    assert burst.seq == kept.seq
    assert await store.events.after(0) == [kept]


async def test_a_listener_that_falls_behind_is_told_to_resync_and_gets_the_newest(bus: EventBus) -> None:
    with bus.subscribe() as events:
        for number in range(QUEUE_EVENTS + 10):
            await bus.publish("command.output", "command", str(number), persist=False)
        marker, newest = await take(events, 2)
    assert marker.kind == EVENTS_MISSED
    assert newest.id == str(QUEUE_EVENTS)


async def test_of_one_pane_only_the_newest_state_waits_in_the_queue(bus: EventBus) -> None:
    with bus.subscribe() as events:
        for number in range(50):
            await bus.publish("pane.changed", "pane", "%1", data={"n": number}, persist=False)
        other = await bus.publish("pane.changed", "pane", "%2", persist=False)
        first, second = await take(events, 2)
    assert first.data == {"n": 49}
    assert second == other


async def test_a_resume_from_before_what_is_kept_or_from_the_future_is_a_resync(
    store: Store, bus: EventBus
) -> None:
    sent = [await bus.publish("a.b", "a", str(number)) for number in range(6)]
    assert await store.events.prune(keep=2) == 4
    for stale in (sent[0].seq, sent[-1].seq + 1000):
        with bus.subscribe(after_seq=stale) as events:
            assert [event.kind for event in await take(events, 1)] == [EVENTS_MISSED]
    with bus.subscribe(after_seq=sent[3].seq) as events:
        assert await take(events, 2) == sent[4:]


async def test_closing_ends_an_iteration_under_way(bus: EventBus) -> None:
    events = bus.subscribe()

    async def listen() -> int:
        return len([event async for event in events])

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    events.close()
    async with asyncio.timeout(5):
        assert await listening == 0
