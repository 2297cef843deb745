"""The console's copy of the fleet: read whole, then what events say that moved.

It never passes old state off as new: when the backend does not answer, the copy is ``lost`` with the time of
its last sign of life, until a fresh one is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from backend.client.call import nouns
from backend.errors import BackendDown, FluidError, RoleDenied, SandboxNotFound, TimedOut
from backend.models import Approval, Ask, Event, FleetView, Pane, Presence, Sandbox, now
from fluid_tui.backend_port import BackendPort

HEARTBEAT_S = 5.0
"""The event stream of the client mends itself in silence: a small question tells whether anybody is there."""
ANSWER_S = 15.0
GATHER_S = 0.05
"""Events of one burst lead to one reading."""
REST_S = 0.2
"""After a reading: a fleet in motion is read four times a second."""
FRESH_S = 60.0
"""What no event tells (a part that is down, the audit's chain, the room of hosts) is at most so old."""
FEW = 20
"""So many sandboxes that changed are read one by one, more with the whole fleet."""
RETRY_S = 1.0
RETRY_MAX_S = 5.0
RECENT_EVENTS = 500
"""What was heard, for the timeline."""
NOUNS = frozenset({"sandbox", "approval", "ask", "host", "pane", "component", "run", "events", "audit"})
MOVED = "sandbox.changed"
PRESENCE = "presence.changed"
BESIDE = frozenset({"run.event", "pane.changed"})
"""Kinds that change nothing on the fleet's screen."""


class Contact(StrEnum):
    """Whether the copy can be trusted."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Link:
    """The state of the connection; ``since`` is the last sign of life when it is lost, ``word`` says in short
    what is wrong then."""

    contact: Contact = Contact.CONNECTING
    since: datetime | None = None
    word: str = ""
    problem: str = ""
    remedy: str = ""


class Mirror:
    """``on_change`` is called after each fresh copy or change of the link, ``on_event`` for each event, and
    once with :data:`backend.models.EVENTS_MISSED` when a lost backend is there again."""

    def __init__(
        self, client: BackendPort, on_change: Callable[[], None], on_event: Callable[[Event], None]
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._on_event = on_event
        self._dirty = asyncio.Event()
        self._whole = False
        self._moved: set[str] = set()
        self.fleet: FleetView | None = None
        self.link = Link()
        self.me = ""  # the operator's own name, once the backend has told it
        self.uid: int | None = None
        self._here: list[Presence] = []
        self._console = secrets.token_hex(8)
        self._looks_at = ("", "")
        self._looked = asyncio.Event()
        self.recent: deque[Event] = deque(maxlen=RECENT_EVENTS)

    async def run(self) -> None:
        """Connect and follow, for ever; cancel it to end."""
        wait_s = RETRY_S
        while True:
            try:
                was_lost = self.link.contact is Contact.LOST
                await self._read()
                if was_lost and self.fleet:
                    self._on_event(Event.missed(self.fleet.seq))
                wait_s = RETRY_S
                await self._follow()
            except BackendDown as error:
                self._lose("backend not reachable", error.message, error.remedy)
            except TimedOut as error:
                self._lose("backend silent", error.message, error.remedy)
            except FluidError as error:  # it answers, that it cannot
                self._lose(error.code.replace("_", " "), error.message, error.remedy)
            except TimeoutError:
                self._lose("backend silent", "the backend does not answer", "look at it: fluid doctor")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    def touch(self) -> None:
        """Read the fleet soon: something was done from here."""
        self._whole = True
        self._dirty.set()

    async def _read(self) -> None:
        self._settle()
        async with asyncio.timeout(ANSWER_S):
            self.fleet = await self._client.fleet()
        self.link = Link(Contact.LIVE, now())
        self._on_change()

    def _settle(self) -> set[str]:
        """What moved until now is about to be read. A few sandboxes are given; none means: all of it."""
        moved, self._moved = self._moved, set()
        whole, self._whole = self._whole, False
        self._dirty.clear()
        return set() if whole or len(moved) > FEW else moved

    async def _read_some(self, fleet: FleetView, ids: set[str]) -> None:
        """These sandboxes as they are now, in a copy that is otherwise good."""
        async with asyncio.timeout(ANSWER_S):
            found = await asyncio.gather(*(self._read_one(id) for id in ids))
        fresh = {one.id: one for one in found if one is not None and one.purpose == "agent"}
        kept = [fresh.pop(one.id, one) for one in fleet.sandboxes if one.id not in ids or one.id in fresh]
        self.fleet = fleet.model_copy(update={"sandboxes": [*fresh.values(), *kept]})
        self.link = Link(Contact.LIVE, now())
        self._on_change()

    async def _read_one(self, id: str) -> Sandbox | None:
        try:
            return await self._client.sandbox(id)
        except SandboxNotFound:
            return None

    async def _follow(self) -> None:
        """Events and heartbeat until one of them fails."""
        after = self.fleet.seq if self.fleet else None
        stream = self._client.events(after)
        self._looked.set()
        tasks = [
            asyncio.create_task(self._listen(stream), name="mirror: events"),
            asyncio.create_task(self._gather(), name="mirror: reading"),
            asyncio.create_task(self._beat(), name="mirror: heartbeat"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, stream: AsyncIterator[Event]) -> None:
        async for event in stream:
            if event.kind == PRESENCE:
                self._see(nouns("Presence", "here")({"here": [], **event.data}))
                continue
            self.recent.append(event)
            self._on_event(event)
            if event.kind == MOVED:
                self._moved.add(event.id)
            elif event.kind in BESIDE or event.noun not in NOUNS:
                continue
            else:
                self._whole = True
            self._dirty.set()

    async def _gather(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FRESH_S):
                    await self._dirty.wait()
            await asyncio.sleep(GATHER_S)
            if self.fleet and (moved := self._settle()):
                await self._read_some(self.fleet, moved)
            else:
                await self._read()
            await asyncio.sleep(REST_S)

    async def _beat(self) -> None:
        """Say where this console is, at once when it moves: who answers is there."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._looked.wait()
            self._looked.clear()
            async with asyncio.timeout(ANSWER_S):
                try:
                    told = await self._client.look(self._console, *self._looks_at)
                except RoleDenied:  # an auditor says nothing, not even this
                    await self._client.whoami()
                    continue
            self.uid, self.me = told.uid, told.name
            self._see(told.here)

    def _see(self, here: list[Presence]) -> None:
        before = self._others()
        self._here = here
        if self._others() != before:
            self._on_change()

    def _others(self) -> list[tuple[int, str, str]]:
        return [(one.uid, one.place, one.id) for one in self._here if one.uid != self.uid]

    def look_at(self, place: str, id: str) -> None:
        """Where the operator looks now; others see it."""
        if (place, id) != self._looks_at:
            self._looks_at = place, id
            self._looked.set()

    def also_at(self, place: str, id: str) -> list[str]:
        """The names of the other operators who look there."""
        return sorted(
            {one.name for one in self._here if (one.place, one.id) == (place, id) and one.uid != self.uid}
        )

    def _lose(self, word: str, problem: str, remedy: str) -> None:
        since = self.link.since if self.link.contact is not Contact.CONNECTING else None
        self.link = Link(Contact.LOST, since, word, problem, remedy)
        self._on_change()

    # --- looking up -----------------------------------------------------------------------------------

    def sandbox(self, id: str) -> Sandbox | None:
        """A sandbox of the copy."""
        return next((one for one in self.fleet.sandboxes if one.id == id), None) if self.fleet else None

    def approval(self, id: str) -> Approval | None:
        """A request of the copy."""
        return next((one for one in self.fleet.approvals if one.id == id), None) if self.fleet else None

    def ask(self, id: str) -> Ask | None:
        """A question of the copy."""
        return next((one for one in self.fleet.asks if one.request_id == id), None) if self.fleet else None

    def request_of(self, sandbox_id: str) -> Approval | None:
        """The newest request of a sandbox."""
        found = [one for one in self.fleet.approvals if one.sandbox_id == sandbox_id] if self.fleet else []
        return max(found, key=lambda one: one.created_at, default=None)

    def pane_of(self, sandbox_id: str) -> Pane | None:
        """The terminal of a sandbox: the live one with the latest output."""
        if self.fleet is None:
            return None
        panes = [pane for pane in self.fleet.panes if pane.sandbox_id == sandbox_id]
        return max(panes, key=lambda pane: (pane.alive, pane.last_output_at or pane.created_at), default=None)
