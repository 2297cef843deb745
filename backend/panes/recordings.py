"""The recordings as operators see them: listed, read with secrets withheld, and aged."""

from __future__ import annotations

import asyncio
import builtins
from datetime import datetime, timedelta

from backend.audit import Audit
from backend.config import DAY_S, RecordingConfig
from backend.models import Identity, Leftover, Recording, now
from backend.panes.recorder import MIB, Recorder
from backend.panes.shelf import Shelf
from backend.policy import operators_only

PLACE = "control node"


class Recordings:
    """What :class:`Recorder` has made. For operators alone: they show all that an agent saw."""

    def __init__(self, shelf: Shelf, recorder: Recorder, audit: Audit, config: RecordingConfig) -> None:
        self._shelf = shelf
        self._recorder = recorder
        self._audit = audit
        self._config = config

    async def list(self, actor: Identity, sandbox_id: str | None = None) -> builtins.list[Recording]:
        """Newest first; those of a sandbox outlive it."""
        _check(actor)
        found = await asyncio.to_thread(self._shelf.all)
        return [self._with_age(one) for one in found if sandbox_id in (None, one.sandbox_id)]

    async def get(self, actor: Identity, id: str) -> Recording:
        """Raises :class:`RecordingNotFound`."""
        _check(actor)
        return self._with_age(await asyncio.to_thread(self._shelf.require, id))

    async def cast(self, actor: Identity, id: str) -> str:
        """The whole as an asciicast, its secrets withheld; who read it is in the audit.

        Raises:
            RecordingNotFound: there is none.
        """
        recording = await self.get(actor, id)
        if recording.ended_at is None:
            await self._recorder.flush()
        await self._audit.note(actor, "recording.read", "recording", id, recording.sandbox_id)
        return await asyncio.to_thread(self._shelf.cast, id)

    async def age(self) -> None:
        """Let go what is older than the config keeps, and the oldest beyond the size that it allows."""
        await asyncio.to_thread(self._age)

    async def leftovers(self, actor: Identity) -> builtins.list[Leftover]:
        """Those past their time, which the next ageing takes."""
        _check(actor)
        expired = await asyncio.to_thread(self._shelf.expired, self._before())
        why = f"it ended more than {self._config.keep_days} days ago"
        return [Leftover(host=PLACE, kind="recording", name=one.id, why=why) for one in expired]

    async def clear(self, actor: Identity) -> builtins.list[Leftover]:
        """Remove them; what was removed."""
        found = await self.leftovers(actor)
        for one in found:
            async with self._audit.step(actor, "recording.remove", "recording", one.name):
                await asyncio.to_thread(self._shelf.remove, one.name)
        return found

    def _age(self) -> None:
        for one in self._shelf.expired(self._before()):
            self._shelf.remove(one.id)
        self._shelf.trim(self._config.total_mb * MIB)

    def _before(self) -> datetime:
        return now() - timedelta(seconds=self._config.keep_days * DAY_S)

    def _with_age(self, recording: Recording) -> Recording:
        seconds = self._recorder.live().get(recording.id)
        return (
            recording if seconds is None else recording.model_copy(update={"duration_s": round(seconds, 3)})
        )


def _check(actor: Identity) -> None:
    operators_only(actor, "recordings are for operators: they show all that an agent saw", remedy="ask one")
