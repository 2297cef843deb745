"""Which operators look at what: kept in memory alone, and forgotten a moment after their last word.

It decides nothing. Two people who have the same request open see one another before both answer it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from backend.models import Identity, Presence, now
from backend.store import EventBus

FORGOTTEN = timedelta(seconds=15)
"""A console says every 5 s where it is."""
MAX_CONSOLES = 200
CHANGED = "presence.changed"
Seen = list[Presence]


class Onlookers:
    """One a backend."""

    def __init__(self, events: EventBus) -> None:
        self._events = events
        self._seen: dict[tuple[int, str], tuple[datetime, Presence]] = {}

    def here(self) -> Seen:
        """Everybody, those who came first first."""
        self._forget()
        return sorted((one for _, one in self._seen.values()), key=lambda one: one.since)

    async def look(self, actor: Identity, console: str, place: str, id: str) -> Seen:
        """This console of theirs looks there now; an empty place: nowhere. What changes is told at once."""
        key, at = (actor.uid, console), now()
        moved = self._forget()
        _, before = self._seen.pop(key, (at, None))
        if not place:
            moved = moved or before is not None
        elif before is not None and (before.place, before.id) == (place, id):
            self._seen[key] = at, before
        else:
            found = Presence(uid=actor.uid, name=actor.name, console=console, place=place, id=id, since=at)
            self._seen[key] = at, found
            moved = True
        while len(self._seen) > MAX_CONSOLES:
            del self._seen[next(iter(self._seen))]
        here = self.here()
        if moved:
            await self._events.publish(CHANGED, "presence", "", data={"here": here}, persist=False)
        return here

    def _forget(self) -> bool:
        """Whether anybody was silent for too long."""
        oldest = now() - FORGOTTEN
        silent = [key for key, (at, _) in self._seen.items() if at < oldest]
        for key in silent:
            del self._seen[key]
        return bool(silent)
