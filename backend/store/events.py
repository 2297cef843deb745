"""What happened, told to whoever listens; kept in the database, so that a listener resumes where it was.

Publishing never fails because somebody is slow or the database is gone: an event tells of an effect, and the
effect is done. A listener that falls behind loses the backlog, gets an ``events.gap`` marker, and reads anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from types import TracebackType
from typing import Any

from backend.errors import FluidError
from backend.models import Event, now
from backend.store.encoding import dump, load
from backend.store.pool import Database

log = logging.getLogger(__name__)

QUEUE_EVENTS = 1_000
REPLAY_EVENTS = 5_000  # a listener that missed more than this reads the state anew instead
COLLAPSING = frozenset({"pane.changed", "presence.changed"})
"""They carry the whole state: only the newest of one thing is worth sending."""


class Events:
    """The table: appended to by the bus, read for a replay, pruned."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, event: Event) -> int:
        """Keep an event; its number. Not flushed at once: a power cut may take the last ones, harmlessly."""
        async with self._database.transaction() as connection:
            await connection.execute("SET LOCAL synchronous_commit = off")
            result = await connection.execute(
                "INSERT INTO fluid.events (at, sandbox_id, doc) VALUES (%s, %s, %s) RETURNING seq",
                (event.at, event.sandbox_id, dump(event)),
            )
            row = await result.fetchone()
        return int(row[0]) if row else 0

    async def bounds(self) -> tuple[int, int]:
        """``(oldest, newest)`` number kept; ``(0, 0)`` if none."""
        async with self._database.transaction() as connection:
            result = await connection.execute("SELECT min(seq), max(seq) FROM fluid.events")
            row = await result.fetchone()
        return (row[0] or 0, row[1] or 0) if row else (0, 0)

    async def after(self, seq: int, *, sandbox_id: str = "", limit: int = REPLAY_EVENTS) -> list[Event]:
        """The kept events beyond ``seq``, oldest first."""
        async with self._database.transaction() as connection:
            result = await connection.execute(
                "SELECT seq, doc::text FROM fluid.events WHERE seq > %s AND (%s = '' OR sandbox_id = %s) "
                "ORDER BY seq LIMIT %s",
                (seq, sandbox_id, sandbox_id, limit),
            )
            rows = await result.fetchall()
        return [load(Event, row[1]).model_copy(update={"seq": row[0]}) for row in rows]

    async def prune(self, keep: int) -> int:
        """Forget all but the newest ``keep``; how many went."""
        async with self._database.transaction() as connection:
            result = await connection.execute(
                "DELETE FROM fluid.events WHERE seq <= (SELECT max(seq) FROM fluid.events) - %s", (keep,)
            )
            return result.rowcount


class EventBus:
    """One a backend. ``await open()`` before the first publish."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._listeners: set[Subscription] = set()
        self._order = asyncio.Lock()
        self.last_seq = 0

    async def open(self) -> None:
        """Learn where the numbers stand."""
        _, self.last_seq = await self._events.bounds()

    async def publish(
        self,
        kind: str,
        noun: str,
        id: str,
        sandbox_id: str = "",
        data: dict[str, Any] | None = None,
        persist: bool = True,
    ) -> Event:
        """Tell everybody. An event that is not persisted (output bursts) bears the last persisted number."""
        event = Event(seq=0, at=now(), kind=kind, noun=noun, id=id, sandbox_id=sandbox_id, data=data or {})
        if not persist:
            return self._deliver(event)
        async with self._order:
            try:
                self.last_seq = await self._events.append(event)
            except FluidError as error:
                log.warning("event %s of %s is not kept: %s", kind, id, error.message)
            return self._deliver(event)

    def subscribe(self, after_seq: int | None = None) -> Subscription:
        """Listen from now on, or first replay what came after ``after_seq``. The caller closes it."""
        subscription = Subscription(self._events, self.last_seq, after_seq, self._listeners.discard)
        self._listeners.add(subscription)
        return subscription

    def _deliver(self, event: Event) -> Event:
        event = event.model_copy(update={"seq": self.last_seq})
        for listener in list(self._listeners):
            listener.offer(event)
        return event


class Subscription:
    """An async iterator of events with a bounded queue. ``with bus.subscribe() as events: async for …``"""

    def __init__(self, events: Events, now_seq: int, after_seq: int | None, on_close: Any) -> None:
        self._events = events
        self._now_seq = now_seq
        self._after_seq = after_seq
        self._on_close = on_close
        self._queue: deque[Event] = deque()
        self._waiting = asyncio.Event()
        self._closed = False
        self._replayed = after_seq is None

    def offer(self, event: Event) -> None:
        """Take an event in. A full queue is thrown away and a marker left in its place."""
        if event.kind in COLLAPSING:
            for index, queued in enumerate(self._queue):
                if queued.kind == event.kind and queued.id == event.id:
                    del self._queue[index]
                    break
        if len(self._queue) >= QUEUE_EVENTS:
            self._queue.clear()
            self._queue.append(Event.missed(event.seq))
        self._queue.append(event)
        self._waiting.set()

    def close(self) -> None:
        """Stop listening; an iteration under way ends."""
        self._closed = True
        self._waiting.set()
        self._on_close(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        if not self._replayed:
            await self._replay()
        while not self._queue and not self._closed:
            self._waiting.clear()
            await self._waiting.wait()
        if self._closed:
            raise StopAsyncIteration
        return self._queue.popleft()

    async def _replay(self) -> None:
        """Put what was missed before what came since. What cannot be replayed whole is a marker."""
        self._replayed = True
        after = self._after_seq or 0
        if after == self._now_seq:
            return
        try:
            oldest, newest = await self._events.bounds()
            missed = await self._events.after(after, limit=REPLAY_EVENTS + 1)
        except FluidError:
            oldest, newest, missed = 0, -1, []
        whole = after <= newest and (not oldest or after >= oldest - 1) and len(missed) <= REPLAY_EVENTS
        missed = [event for event in missed if event.seq <= self._now_seq]
        self._queue.extendleft(reversed(missed if whole else [Event.missed(self._now_seq)]))
