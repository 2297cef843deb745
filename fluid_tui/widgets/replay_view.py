"""A recording of an agent's terminal as a film, drawn by our own emulator through the sanitiser: at most four
paints a second, none while it is paused, at its end or out of sight.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import monotonic

from textual.message import Message
from textual.timer import Timer

from backend.asciicast import NotACast, read_cast
from backend.errors import FluidError
from backend.models import Recording
from backend.replay import SPEEDS, Replay
from fluid_tui.actions import bindings
from fluid_tui.backend_port import BackendPort
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.widgets.painted import Painted
from fluid_tui.words import elapsed

PAINT_S = 0.25
STATUS_S = 1.0
LINE_S, STEP_S, PAGE_S = 1.0, 5.0, 30.0
IDLE_S = 2.0
"""Pauses are cut to this at first."""
NORMAL = SPEEDS.index(1.0)


class ReplayView(Painted):
    """Plays the newest recording of a sandbox, or a chosen one."""

    BINDINGS = bindings("replay") + bindings("move")

    class Moved(Message):
        """Another recording, another place in it, another speed."""

        def __init__(self, of: ReplayView) -> None:
            super().__init__()
            self.of = of

        @property
        def control(self) -> ReplayView:
            return self.of

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._client: BackendPort | None = None
        self._recordings: Sequence[Recording] = ()
        self._at = 0
        self._film: Replay | None = None
        self._speed = NORMAL
        self._idle_s: float | None = IDLE_S
        self.paused = False
        self._seeking = False
        self._timer: Timer | None = None
        self._before = 0.0

    @property
    def recording(self) -> Recording | None:
        """The one that plays."""
        return self._recordings[self._at] if self._recordings else None

    def show(self, client: BackendPort, sandbox_id: str, recording_id: str = "") -> None:
        """Read the recordings of this sandbox and play one; the same again changes nothing."""
        if self._client is None:
            self._client = client
            self._say("Reading the recordings …")
            self.run_worker(self._open(client, sandbox_id, recording_id), group="recording", exclusive=True)

    def words(self) -> str:
        """Where it is, for a border."""
        film, recording = self._film, self.recording
        if film is None or recording is None:
            return ""
        state = "end" if film.over else "paused" if self.paused else f"{SPEEDS[self._speed]:g}x"
        told = [state, f"{elapsed(film.at)} of {elapsed(film.duration)}", film.mark]
        told.append("its middle is gone" if recording.is_cut else "")
        if len(self._recordings) > 1:
            told.append(f"recording {len(self._recordings) - self._at} of {len(self._recordings)}")
        told.append("pauses as they were" if film.idle_s is None else f"pauses cut to {film.idle_s:g} s")
        return " · ".join(words for words in told if words)

    # --- reading --------------------------------------------------------------------------------------------

    async def _open(self, client: BackendPort, sandbox_id: str, recording_id: str) -> None:
        try:
            self._recordings = await client.recordings(sandbox_id or None)
        except FluidError as error:
            self._say(error.message, Role.BAD)
            return
        if not self._recordings:
            self._say("No terminal of this sandbox was recorded.")
            return
        ids = [one.id for one in self._recordings]
        if recording_id and recording_id not in ids:
            self._say("That recording is no longer kept.")
            self._recordings = ()
            return
        self._at = ids.index(recording_id) if recording_id else 0
        await self._read(client)

    async def _read(self, client: BackendPort) -> None:
        recording = self._recordings[self._at]
        self._film = None
        self._say(f"Reading {recording.id} …")
        try:
            data = await client.recording_cast(recording.id)
            cast = await asyncio.to_thread(read_cast, data.decode("ascii", "replace"))
        except (FluidError, NotACast) as error:
            self._say(str(error), Role.BAD)
            return
        self._film = Replay(cast, self._idle_s)
        self._film.go(0)
        self.paused = False
        self._draw()
        self._run()

    def _say(self, words: str, role: Role = Role.MUTED) -> None:
        self.set_lines([line(said(words, role))])
        self.post_message(self.Moved(self))

    # --- playing --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Wait for the next frame that can differ."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        film = self._film
        if film is None or self.paused or self._seeking or film.next_at is None:
            return
        self._before = monotonic()
        wait_s = (film.next_at - film.at) / SPEEDS[self._speed]
        self._timer = self.set_timer(min(max(wait_s, PAINT_S), STATUS_S), self._tick)

    def _tick(self) -> None:
        film = self._film
        if film is None or self._seeking:
            return
        if not self._is_seen():
            self.paused = True
            return
        film.go(film.at + (monotonic() - self._before) * SPEEDS[self._speed])
        self._draw()
        self._run()

    def _is_seen(self) -> bool:
        return self.screen is self.app.screen and self.is_on_screen

    def _draw(self) -> None:
        film = self._film
        if film is None or self._seeking:
            return
        drawn: list[Line] = [tuple(spans) for spans in film.rows()]
        while drawn and not drawn[-1]:
            drawn.pop()
        room = self.size.height
        # Always as many lines as fit, as in a live pane: only rows that differ are painted.
        self.set_lines([*drawn[-room:], *[()] * (room - len(drawn))] if room else [])
        self.post_message(self.Moved(self))

    def on_resize(self) -> None:
        self._draw()

    def _step(self, by: float) -> None:
        if self._film is not None:
            self._seek(self._film.at + by)

    def _seek(self, at: float) -> None:
        if self._film is not None and not self._seeking:
            self._seeking = True
            self.run_worker(self._go(self._film, at), group="seek", exclusive=True)

    async def _go(self, film: Replay, at: float) -> None:
        """A long way may be seconds of drawing: a thread goes it."""
        try:
            await asyncio.to_thread(film.go, at)
        finally:
            self._seeking = False
        self._draw()
        self._run()

    def _choose(self, at: int) -> None:
        if self._client is not None and self._recordings and 0 <= at < len(self._recordings):
            self._at = at
            self.run_worker(self._read(self._client), group="recording", exclusive=True)

    # --- keys -----------------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop and go on; at the end, from the start again."""
        if self._film is not None and self._film.over and not self._seeking:
            self.paused = False
            self._seek(0)
        else:
            self.paused = not self.paused
            self._draw()
            self._run()

    def action_faster(self) -> None:
        self._turn(1)

    def action_slower(self) -> None:
        self._turn(-1)

    def _turn(self, by: int) -> None:
        self._speed = min(max(self._speed + by, 0), len(SPEEDS) - 1)
        self._draw()
        self._run()

    def action_forward(self) -> None:
        self._step(STEP_S)

    def action_rewind(self) -> None:
        self._step(-STEP_S)

    def action_down(self) -> None:
        self._step(LINE_S)

    def action_up(self) -> None:
        self._step(-LINE_S)

    def action_page_down(self) -> None:
        self._step(PAGE_S)

    def action_page_up(self) -> None:
        self._step(-PAGE_S)

    def action_top(self) -> None:
        self._seek(0)

    def action_bottom(self) -> None:
        self._step(math.inf)

    def action_idle(self) -> None:
        """Cut the pauses, or leave them as they were."""
        self._idle_s = IDLE_S if self._idle_s is None else None
        if self._film is not None:
            self._film.skip_idle(self._idle_s)
        self._draw()
        self._run()

    def action_earlier(self) -> None:
        self._choose(self._at + 1)

    def action_later(self) -> None:
        self._choose(self._at - 1)
