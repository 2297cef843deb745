"""The command line: a field at the foot of the screen, and above it what may be typed.

It knows words only: whoever mounted it runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Label

from fluid_tui.commands import Choice, completed
from fluid_tui.paint import Line, Role, fit, line, said
from fluid_tui.widgets.painted import Painted

LEAST_CHOICES = 3
BESIDE_LINES = 4
"""Half of the screen less this is for the choices: what was looked at stays in sight."""
WORD_CELLS = 20
MAX_CHARS = 400


class CommandBar(Vertical):
    """``tab`` completes, up and down choose (or go through the history), enter runs, escape leaves."""

    class Ran(Message):
        """A line was entered."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """The operator went away without a command."""

    def __init__(
        self, complete: Callable[[str], Sequence[Choice]], history: Sequence[str], start: str = ""
    ) -> None:
        super().__init__(id="command")
        self._complete = complete
        self._history = list(history)
        self._start = start
        self._past = len(self._history)
        self._choices: Sequence[Choice] = ()
        self._at = -1  # no choice is taken before one is chosen

    def compose(self) -> ComposeResult:
        yield Painted(id="choices")
        with Horizontal(id="line"):
            yield Label(":", id="colon")
            field = Input(id="words", value=self._start, max_length=MAX_CHARS, select_on_focus=False)
            field.cursor_blink = False
            yield field

    def on_mount(self) -> None:
        self.query_one(Painted).can_focus = False
        self.screen.set_focus(self.query_one(Input))  # at once: the next key may wait already
        self._offer()

    def refuse(self, problem: str) -> None:
        """The line was not understood: say why, keep it."""
        self._choices, self._at = (), -1
        self._draw([line((" ✗ ", Role.BAD), said(problem, Role.BAD))])

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        message.stop()
        self._offer()

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        text = message.value
        if 0 <= self._at < len(self._choices):
            text = completed(text, self._choices[self._at])
        self.post_message(self.Ran(text.strip()))

    def on_key(self, event: events.Key) -> None:
        moves = {"down": 1, "up": -1}
        field = self.query_one(Input)
        if event.key == "escape" or (event.key == "backspace" and not field.value):
            self.post_message(self.Left())
        elif event.key == "tab":
            self._take()
        elif event.key in moves:
            self._move(moves[event.key])
        else:
            return
        event.stop()
        event.prevent_default()

    def _take(self) -> None:
        if not self._choices:
            return
        self._set(completed(self.query_one(Input).value, self._choices[max(self._at, 0)]))

    def _move(self, by: int) -> None:
        """Through the choices; with nothing typed, up goes through what was entered before."""
        empty = not self.query_one(Input).value or self._past < len(self._history)
        if self._at < 0 and empty and self._history and (by < 0 or self._past < len(self._history)):
            self._past = min(max(self._past + by, 0), len(self._history))
            self._set(self._history[self._past] if self._past < len(self._history) else "")
        elif self._choices:
            self._at = (max(self._at, -1) + by) % len(self._choices)
            self._draw_choices()

    def _set(self, text: str) -> None:
        field = self.query_one(Input)
        field.value = text
        field.cursor_position = len(text)

    def _offer(self) -> None:
        self._choices, self._at = self._complete(self.query_one(Input).value), -1
        self._draw_choices()

    def _draw_choices(self) -> None:
        room = max(LEAST_CHOICES, self.screen.size.height // 2 - BESIDE_LINES)
        first = max(0, self._at - room + 1)
        lines = []
        for at, choice in list(enumerate(self._choices))[first : first + room]:
            here = at == self._at
            lines.append(
                line(
                    (" ▸ " if here else "   ", Role.ACCENT),
                    (fit(choice.word, WORD_CELLS) + " ", Role.TITLE if here else Role.TEXT),
                    (choice.hint, Role.MUTED),
                )
            )
        beyond = len(self._choices) - first - room
        if beyond > 0:
            lines.append(line((f"   … {beyond} more", Role.MUTED)))
        self._draw(lines)

    def _draw(self, lines: list[Line]) -> None:
        shown = self.query_one(Painted)
        shown.styles.height = len(lines)
        shown.set_lines(lines)
