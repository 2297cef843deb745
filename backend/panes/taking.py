"""An operator's hands on an agent's terminal, and how that ends.

Who types is kept with the pane in tmux, which outlives us: a backend that finds such a mark gives it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from backend.errors import PaneNotFound, PaneTaken, TmuxDown
from backend.models import Identity, TakeOverEnd, now
from backend.tmux import Keyboard, TmuxPane


class Why(StrEnum):
    """How it ends."""

    HANDED_BACK = "handed_back"
    TAKEN = "taken"
    CUT = "cut"
    CLOSED = "closed"
    DESTROYED = "destroyed"
    STOPPING = "stopping"


_WORDS = {
    Why.HANDED_BACK: "{pane} is its agent's again",
    Why.TAKEN: "{by} has taken {pane} over: what you type goes nowhere",
    Why.CUT: "the connection broke: {pane} is its agent's again",
    Why.CLOSED: "the shell in {pane} has ended",
    Why.DESTROYED: "the sandbox of {pane} is destroyed",
    Why.STOPPING: "the backend stops: {pane} is its agent's again",
}
NAME_BYTES = 48
GIVEN_BACK = "you may type into {pane} again"
REMEDY_AGENT = (
    "GET /v1/sandboxes/{sandbox}/stream tells when it is yours again; "
    "commands (run) and your other terminals go on"
)
REMEDY_OPERATOR = "take it over with ?force=true: {name} is told"


@dataclass(frozen=True)
class Mark:
    """What tmux remembers of whoever types: ``uid.seconds.name``, the name in hexadecimal."""

    uid: int
    since: datetime
    name: str

    def __str__(self) -> str:
        return f"{self.uid}.{int(self.since.timestamp())}.{self.name.encode()[:NAME_BYTES].hex()}"

    @classmethod
    def of(cls, text: str) -> Mark | None:
        """None for a pane that is its agent's."""
        uid, _, rest = text.partition(".")
        since, _, name = rest.partition(".")
        if not (uid.isdigit() and since.isdigit()):
            return None
        shown = bytes.fromhex(name).decode("utf-8", "replace")
        return cls(int(uid), datetime.fromtimestamp(int(since), UTC), shown)


class TakeOver:
    """``type`` bytes as a terminal sends them; ``over`` waits for the end."""

    def __init__(self, actor: Identity, pane: TmuxPane, keyboard: Keyboard) -> None:
        self.actor = actor
        self.pane = pane
        self.since = now()
        self.typed_bytes = 0
        self.released = asyncio.Event()
        self.on_typed: Callable[[], None] = lambda: None
        self._keyboard = keyboard
        self._end: asyncio.Future[TakeOverEnd] = asyncio.get_running_loop().create_future()

    @property
    def mark(self) -> Mark:
        return Mark(self.actor.uid, self.since, self.actor.name)

    async def type(self, data: bytes) -> None:
        """What comes after the end is dropped."""
        if self._end.done():
            return
        try:
            await self._keyboard.type(data)
        except (PaneNotFound, TmuxDown):
            self.end(Why.CLOSED)
        else:
            self.typed_bytes += len(data)
            self.on_typed()

    def end(self, why: Why, by: str = "") -> None:
        """The first reason counts; not one byte is typed after it."""
        if not self._end.done():
            self._keyboard.ended.set()
            words = _WORDS[why].format(pane=self.pane.pane_id, by=by)
            self._end.set_result(TakeOverEnd(why=why, by=by, words=words))

    async def over(self) -> TakeOverEnd:
        return await asyncio.shield(self._end)

    async def watch(self) -> None:
        """End with the terminal."""
        await self._keyboard.ended.wait()
        self.end(Why.CLOSED)

    def facts(self) -> dict[str, Any]:
        """For the audit: how much was typed, never what."""
        end = self._end.result() if self._end.done() else TakeOverEnd(why=Why.CUT)
        seconds = round((now() - self.since).total_seconds(), 1)
        return {"why": end.why, "by": end.by, "typed_bytes": self.typed_bytes, "seconds": seconds}


def taken(pane: TmuxPane, mark: Mark, *, operator: bool) -> PaneTaken:
    """The refusal, for whoever else wants to type."""
    remedy = REMEDY_OPERATOR if operator else REMEDY_AGENT
    return PaneTaken(
        f"{mark.name or mark.uid} types into {pane.pane_id} since {mark.since:%H:%M:%S} UTC",
        remedy=remedy.format(name=mark.name or mark.uid, sandbox=pane.sandbox),
        pane_id=pane.pane_id,
        by=mark.name,
        since=mark.since.isoformat(),
    )
