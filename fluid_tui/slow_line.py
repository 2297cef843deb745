"""The console's terminal, which may hang on a slow line: what it has not drawn yet holds up the next paint.

So the newest wins, and nothing queues behind old frames: not here, nor in the buffers of the system and of
ssh, which take many seconds of such a line at once. After each paint the terminal is asked where its cursor
is (DSR 6, ECMA-48 §8.3.35): it answers when it has drawn all that came before.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition
from typing import Any

from textual import events
from textual._compositor import ChopsUpdate, CompositorUpdate
from textual.app import ScreenStackError
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Region
from textual.message import Message
from textual.screen import Screen

from fluid_tui.shown import Shown

QUESTION = "\x1b[6n"
UNDER_WAY_BYTES = 1_000
"""So much may be on its way when a paint goes out: less than half a second of a line of 2,400 bytes a second,
and some steps of the cursor on one that is fast and long."""
FAST_BYTES = 8_000
"""The same of a line that has answered soon."""
SLOW_S = 0.5
"""A line whose terminal answers a larger paint so late is slow."""
GATHER_S = 0.3
"""A screen that opens on a slow line waits so long for what it shows, and is not painted empty."""
PATIENCE_S = 10.0
"""A terminal that answers nothing for so long is not waited for again, until it answers."""
LEAVE_S = 3.0


class SlowLineDriver(LinuxDriver):
    """Who paints asks :meth:`has_room` first; then :meth:`painted` it, or is to :meth:`owe` it."""

    def __init__(self, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self.shown = Shown()
        self._written = self._drawn = 0  # bytes, without the questions
        self._asked: deque[tuple[int, float]] = deque()  # each open question: what was written until it, when
        self._questions = self._answers = 0
        self._heard = Condition()  # answers come in the thread that reads keys
        self._patience: TimerHandle | None = None
        self._is_owing = self._is_deaf = False
        self._took_s: float | None = None  # the last paint of some size
        self._gathered_at = 0.0
        self._waiting: list[tuple[int | None, Callable[[], object]]] = []

    def start_application_mode(self) -> None:
        """Also when it goes on after a stop."""
        self.shown.forget()
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def write(self, data: str) -> None:
        self._written += len(data.encode())
        super().write(data)

    def has_room(self) -> bool:
        """Whether the terminal has drawn nearly all that was written."""
        is_fast = self._took_s is not None and self._took_s <= SLOW_S
        most = FAST_BYTES if is_fast else UNDER_WAY_BYTES
        has_drawn = self._is_deaf or self._written - self._drawn < most
        return has_drawn and self._loop.time() >= self._gathered_at

    def gather(self) -> None:
        """A screen opens: on a slow line it is not painted empty first."""
        if self._took_s is not None and self._took_s > SLOW_S:
            self._gathered_at = self._loop.time() + GATHER_S
            self._loop.call_later(GATHER_S, self._go_on)

    def painted(self) -> None:
        """All of the screen that had changed was."""
        self._is_owing = False
        self._waiting = [(self._written if at is None else at, call) for at, call in self._waiting]
        self._ask()
        self._go_on()  # what was owed may stand there already

    def owe(self, screen: Screen[Any], update: CompositorUpdate) -> None:
        """The place of this paint is painted once there is room, as it is then."""
        dirty = screen._compositor._dirty_regions
        if isinstance(update, ChopsUpdate):
            dirty.update(Region(first, y, end - first, 1) for y, first, end in update.spans)
        else:
            dirty.add(screen.size.region)
        self._is_owing = True
        self._ask()

    def when_drawn(self, call: Callable[[], object]) -> None:
        """``call`` it once what was painted or is owed until now stands on the terminal."""
        self._waiting.append((None if self._is_owing else self._written, call))
        self._go_on()

    def process_message(self, message: Message) -> None:
        """In the thread that reads keys: answers are ours."""
        if not isinstance(message, events.CursorPosition):
            super().process_message(message)
            return
        with self._heard:
            self._answers += 1
            self._heard.notify()
        self._loop.call_soon_threadsafe(self._answered)

    def disable_input(self) -> None:
        """What it answers after we have left would stand at the shell's prompt."""
        with self._heard:
            if not self._is_deaf:
                self._heard.wait_for(lambda: self._answers >= self._questions, LEAVE_S)
            self._answers = self._questions
        super().disable_input()

    # --- below --------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Unless it is asked already, or nobody reads what it answers."""
        if self._key_thread is None or not self._key_thread.is_alive():
            return
        if self._is_deaf or self._written == (self._asked[-1][0] if self._asked else self._drawn):
            return
        super().write(QUESTION)
        self._asked.append((self._written, self._loop.time()))
        self._questions += 1
        if self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._give_up)

    def _answered(self) -> None:
        self._is_deaf = False
        while len(self._asked) > max(0, self._questions - self._answers):
            (written, asked_at), before = self._asked.popleft(), self._drawn
            self._drawn = written
            if written - before >= UNDER_WAY_BYTES:  # a few bytes tell nothing
                self._took_s = self._loop.time() - asked_at
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_later(PATIENCE_S, self._give_up) if self._asked else None
        self._go_on()

    def _give_up(self) -> None:
        self._is_deaf, self._patience = True, None
        self._go_on()

    def _go_on(self) -> None:
        if self._is_owing and self.has_room():
            with suppress(ScreenStackError):
                screen = self._app.screen
                screen.call_later(screen._compositor_refresh)
        drawn = [self._is_deaf or (at is not None and at <= self._drawn) for at, _ in self._waiting]
        due = [call for (_, call), is_drawn in zip(self._waiting, drawn, strict=True) if is_drawn]
        self._waiting = [one for one, is_drawn in zip(self._waiting, drawn, strict=True) if not is_drawn]
        for call in due:
            call()
        if self._is_owing or self._waiting:
            self._ask()
