"""Records every terminal: what tmux tells its one control client of anyway goes to a file.

A terminal that prints nothing costs nothing. One that floods is recorded with gaps, and its screen is drawn
anew after each; a disk that is nearly full ends the recording before anything else, and it says so.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from backend.asciicast import CastEvent
from backend.audit import Audit
from backend.config import RecordingConfig
from backend.errors import PaneNotFound, TmuxDown
from backend.models import Component, Identity, Recording, new_id
from backend.panes.shelf import PART_BYTES, Shelf
from backend.panes.tape import Tape
from backend.tmux import Drawn, TmuxPane, TmuxServer

log = logging.getLogger(__name__)

FLUSH_S = 0.5
"""What a backend that is killed loses of a recording."""
REST_S = 2.0
"""A terminal that floods is not listened to for so long."""
HEADROOM_MB = 256
"""Recording ends while there is still so much more free than what is kept back for sandboxes."""
MIB = 1 << 20
SYSTEM = Identity.system()


class Recorder:
    """:meth:`look` is told which panes there are, :meth:`run` writes until it is cancelled."""

    def __init__(
        self, tmux: TmuxServer, shelf: Shelf, audit: Audit, config: RecordingConfig, reserve_mb: int
    ) -> None:
        self._tmux = tmux
        self._shelf = shelf
        self._audit = audit
        self._config = config
        self._reserve_mb = reserve_mb
        self._tapes: dict[str, Tape] = {}
        self._left: list[Recording] | None = None  # what the backend before us was recording
        self._is_settled = False
        self._lock = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        self.stopped = ""
        """Why nothing is recorded just now."""
        tmux.on_output = self._printed

    async def run(self) -> None:
        """Write what comes, twice a second at most, and nothing while nothing comes."""
        try:
            while True:
                await self._dirty.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_S):
                        await self._urgent.wait()
                self._dirty.clear()
                self._urgent.clear()
                await self.flush()
        finally:
            with suppress(OSError):
                self._write([(tape, tape.take()) for tape in self._tapes.values() if tape.is_dirty])

    async def look(self, panes: Mapping[str, TmuxPane]) -> None:
        """These panes are there now: record the new ones, end the recordings of those that are gone."""
        async with self._lock:
            try:
                await self._look(panes)
            except OSError as error:
                await self._stop(f"{self._shelf.folder}: {error.strerror}")

    async def flush(self) -> None:
        """Write what has come so far."""
        async with self._lock:
            if self.stopped:
                return
            try:
                await self._flush()
            except OSError as error:
                await self._stop(f"{self._shelf.folder}: {error.strerror}")

    async def try_again(self) -> None:
        """Go on after a stop, if its reason is gone."""
        if not self.stopped:
            return
        async with self._lock:
            reason = await asyncio.to_thread(self._why_not)
            if reason:
                self.stopped = reason
                return
            self.stopped = ""
            log.info("terminals are recorded again")
            self._dirty.set()  # those that flooded are drawn anew
        self._tmux.changed.set()  # the others, those that came meanwhile, and those that could not be ended

    def live(self) -> dict[str, float]:
        """How long each recording is that is being made, by its id."""
        return {tape.recording.id: tape.last_at for tape in self._tapes.values()}

    async def component(self) -> Component:
        """Whether terminals are recorded."""
        if not self._config.enabled:
            return Component(name="recordings", status="ok", message="off: `recordings.enabled`")
        if self.stopped:
            remedy = "free space there; it goes on by itself"
            return Component(name="recordings", status="degraded", message=self.stopped, remedy=remedy)
        return Component(name="recordings", status="ok", message=f"{len(self._tapes)} terminals")

    # --- which terminals ------------------------------------------------------------------------------------

    async def _look(self, panes: Mapping[str, TmuxPane]) -> None:
        if self._left is None:
            known = await asyncio.to_thread(self._shelf.all)
            self._left = [one for one in known if one.ended_at is None]
        if not self._config.enabled:
            panes = {}
        for pane_id, tape in list(self._tapes.items()):
            pane = panes.get(pane_id)
            if pane is None or pane.created_at != tape.recording.started_at:
                await self._end(tape)
        for pane_id in panes.keys() - self._tapes.keys() if not self.stopped else ():
            if (begun := await self._begin(panes[pane_id])) is not None:
                self._tapes[pane_id] = begun
        if not self._is_settled:
            live = [tape.recording.id for tape in self._tapes.values()]
            await asyncio.to_thread(self._shelf.settle, live)
            self._left, self._is_settled = [], True
        for pane_id, tape in self._tapes.items():
            if not self._tmux.is_tapped(pane_id) and not tape.is_full and not self.stopped:
                await self._tap(tape)

    async def _begin(self, pane: TmuxPane) -> Tape | None:
        """A new recording, or the one that the backend before us was making of this pane."""
        for left in self._left or ():
            if (left.pane_id, left.started_at) == (pane.pane_id, pane.created_at):
                parts = await asyncio.to_thread(self._shelf.parts, left.id)
                return self._tape(left, parts[-1].number + 1 if parts else 1)
        if not pane.alive:
            return None
        recording = Recording(
            id=new_id("REC"),
            sandbox_id=pane.sandbox,
            sandbox_name=pane.session,
            pane_id=pane.pane_id,
            owner_uid=int(pane.owner or -1),
            width=pane.width,
            height=pane.height,
            started_at=pane.created_at,
        )
        await asyncio.to_thread(self._shelf.begin, recording)
        facts = {"pane": pane.pane_id}
        await self._audit.note(
            SYSTEM, "recording.start", "recording", recording.id, recording.sandbox_id, **facts
        )
        return self._tape(recording, 1)

    def _tape(self, recording: Recording, part: int) -> Tape:
        began = time.time() - recording.started_at.timestamp() - time.monotonic()
        return Tape(recording, lambda: max(began + time.monotonic(), 0.0), part)

    async def _end(self, tape: Tape) -> None:
        """Whatever fails here is done at the next look."""
        await self._tmux.untap(tape.recording.pane_id)
        if not self.stopped:
            await asyncio.to_thread(self._write, [(tape, tape.take())])
        ended = await asyncio.to_thread(self._shelf.close, tape.recording, tape.last_at)
        del self._tapes[tape.recording.pane_id]
        facts = {"pane": ended.pane_id, "seconds": round(ended.duration_s)}
        await self._audit.note(SYSTEM, "recording.end", "recording", ended.id, ended.sandbox_id, **facts)

    # --- what they print ------------------------------------------------------------------------------------

    def _printed(self, pane_id: str, data: bytes) -> None:
        tape = self._tapes.get(pane_id)
        if tape is None or tape.is_full:
            return
        tape.put(data)
        self._dirty.set()
        if tape.is_full:
            self._urgent.set()

    async def _flush(self) -> None:
        written = [(tape, tape.take()) for tape in self._tapes.values() if tape.is_dirty]
        if reason := await asyncio.to_thread(self._write_if_room, written):
            await self._stop(reason)
            return
        for tape in list(self._tapes.values()):
            if tape.part_bytes >= PART_BYTES:
                await self._turn(tape)
            if tape.is_full:
                await self._rest(tape)

    async def _turn(self, tape: Tape) -> None:
        """The next part begins with the whole screen; the one before is compressed."""
        tape.part, tape.part_bytes = tape.part + 1, 0
        if not tape.is_full:
            await self._tap(tape)
        if reason := await asyncio.to_thread(self._put_away, tape):
            await self._stop(reason)

    async def _rest(self, tape: Tape) -> None:
        now = asyncio.get_running_loop().time()
        if self._tmux.is_tapped(tape.recording.pane_id):
            await self._tmux.untap(tape.recording.pane_id)
            tape.back_at = now + REST_S
            asyncio.get_running_loop().call_later(REST_S, self._dirty.set)
        elif now >= tape.back_at:
            await self._tap(tape)

    async def _tap(self, tape: Tape) -> None:
        def drawn_if_there(drawn: Drawn) -> None:
            tape.draw(drawn)
            self._dirty.set()

        with suppress(PaneNotFound, TmuxDown):  # the next look finds it gone, or tmux back
            await self._tmux.tap(tape.recording.pane_id, drawn_if_there)

    # --- the disk, in a thread ------------------------------------------------------------------------------

    def _write_if_room(self, written: Sequence[tuple[Tape, list[CastEvent]]]) -> str:
        if reason := self._short_of_disk():
            return reason
        self._write(written)
        return ""

    def _write(self, written: Sequence[tuple[Tape, list[CastEvent]]]) -> None:
        for tape, events in written:
            if events:
                tape.part_bytes += self._shelf.append(tape.recording, tape.part, events)

    def _put_away(self, tape: Tape) -> str:
        recording = tape.recording
        self._shelf.pack(recording.id, but=tape.part)
        keep = self._config.terminal_mb - 1  # a part is a MiB
        if self._shelf.cut(recording.id, keep, but=tape.part) and not recording.is_cut:
            tape.recording = recording.model_copy(update={"is_cut": True})
            self._shelf.tell(tape.recording)
        self._shelf.trim(self._config.total_mb * MIB)
        return self._over_total()

    def _why_not(self) -> str:
        return self._short_of_disk() or self._over_total()

    def _short_of_disk(self) -> str:
        free_mb = shutil.disk_usage(self._shelf.folder).free // MIB
        wanted_mb = self._reserve_mb + HEADROOM_MB
        if free_mb >= wanted_mb:
            return ""
        return (
            f"terminals are not recorded: {free_mb} MB are free under {self._shelf.folder}, "
            f"and {wanted_mb} are left to the sandboxes"
        )

    def _over_total(self) -> str:
        size_mb = self._shelf.size() // MIB
        if size_mb < self._config.total_mb:
            return ""
        return (
            f"terminals are not recorded: the recordings of those that run take {size_mb} MB, "
            f"recordings.total_mb is {self._config.total_mb}"
        )

    async def _stop(self, reason: str) -> None:
        self.stopped = reason
        log.warning("%s", reason)
        for tape in self._tapes.values():
            tape.take()
            await self._tmux.untap(tape.recording.pane_id)
