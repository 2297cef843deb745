"""Dialogs that ask before something happens. All default to No; escape is No; keys typed before the dialog
stood there are dropped, also those that wait in a queue meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from backend.text import visible
from fluid_tui.paint import Line, Role, line
from fluid_tui.widgets.text_view import TextView

if TYPE_CHECKING:
    from fluid_tui.app import FluidApp

T = TypeVar("T")
ARMING_S = 0.4
"""Keys that were typed ahead must not answer a question that nobody has read."""
REASON_CHARS = 2000
SECRET_CHARS = 64 * 1024
HINT = "enter confirms · escape is No"
SEND_HINT = "enter sends it · escape goes back, nothing is sent"
LEAST_LINES, MOST_LINES = 2, 14
BESIDE_LINES = 8
"""Frame, prompt, field, problem, hint and the lines between."""


class ArmedInput(Input):
    """A field that takes nothing typed or pasted before it was armed."""

    armed_at = inf

    def arm(self) -> None:
        """What is typed from now on counts."""
        self.armed_at = monotonic()
        self.disabled = False
        self.focus()

    async def on_event(self, event: events.Event) -> None:
        """A terminal's events carry the moment when they were read (:func:`time.monotonic`)."""
        if isinstance(event, events.Key | events.Paste) and event.time < self.armed_at:
            return
        await super().on_event(event)


class Dialog(ModalScreen[T | None], Generic[T]):
    """Words, one field, and an answer of type ``T``; ``None`` is No."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "refuse", "No", priority=True)]
    AUTO_FOCUS: ClassVar[str | None] = ""  # the words would have it, and would take a page key a second time

    ECHO: ClassVar[bool] = True
    LONGEST: ClassVar[int] = REASON_CHARS
    HINT: ClassVar[str] = HINT

    def __init__(self, title: str, lines: Sequence[Line], prompt: str, *, bad: bool = False) -> None:
        super().__init__(classes="-bad" if bad else "")
        self._title = title
        self._lines = list(lines)
        self._prompt = prompt

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            box.border_title = Content(visible(self._title))
            yield TextView(id="what")
            yield Label(self._prompt, id="prompt", markup=False)
            yield ArmedInput(id="answer", max_length=self.LONGEST, password=not self.ECHO, disabled=True)
            yield Label("", id="problem", markup=False)
            yield Label(self.HINT, id="hint", markup=False)

    def on_mount(self) -> None:
        self.query_one(ArmedInput).cursor_blink = False
        what = self.query_one("#what", TextView)
        what.can_focus = False
        what.set_lines(self._lines)
        self.call_after_refresh(self._drawn)

    def on_resize(self) -> None:
        """The field is in sight in every window; what does not fit above it is read by pages."""
        what = self.query_one("#what", TextView)
        room = max(LEAST_LINES, min(MOST_LINES, self.size.height - BESIDE_LINES))
        what.styles.max_height = room
        more = "pgdn reads on · " if len(what.lines) > room else ""
        self.query_one("#hint", Label).update(more + self.HINT)

    def _drawn(self) -> None:
        """The delay begins when the words stand on the screen, however long that took."""
        self.on_resize()  # the lines are wrapped now
        cast("FluidApp", self.app).when_drawn(self, lambda: self.set_timer(ARMING_S, self._arm))

    def _arm(self) -> None:
        self.query_one("#dialog").add_class("-armed")
        self.query_one(ArmedInput).arm()

    def on_key(self, event: events.Key) -> None:
        if event.key in ("pageup", "pagedown"):
            self.query_one("#what", TextView).page(-1 if event.key == "pageup" else 1)

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        answer, problem = self.judge(message.value.strip() if self.ECHO else message.value)
        if problem:
            self.query_one("#problem", Label).update(problem)
        else:
            self.dismiss(answer)

    def judge(self, typed: str) -> tuple[T | None, str]:
        """The answer that these words are, or what is wrong with them."""
        raise TypeError(f"{type(self).__name__} has no judge")

    def tell(self, words: str) -> None:
        """What has changed about the question while it stands."""
        self.query_one("#problem", Label).update(words)

    def action_refuse(self) -> None:
        self.dismiss(None)


class TypedConfirm(Dialog[bool]):
    """Yes only to who types ``word``: an id or a name that stands in the dialog."""

    def __init__(self, title: str, lines: Sequence[Line], word: str, verb: str, *, bad: bool = False) -> None:
        super().__init__(title, lines, f"Type {word} to {verb}:", bad=bad)
        self._word = word

    def judge(self, typed: str) -> tuple[bool | None, str]:
        if typed == self._word:
            return True, ""
        return None, f"That is not {self._word}. Nothing was done." if typed else "Nothing was typed."


class ReasonDialog(Dialog[str]):
    """A sentence that the other side will read; an empty one is refused unless optional. It may itself be a
    no: escape is told by what it does."""

    HINT = SEND_HINT

    def __init__(self, title: str, lines: Sequence[Line], prompt: str, *, optional: bool = False) -> None:
        super().__init__(title, lines, prompt)
        self._optional = optional

    def judge(self, typed: str) -> tuple[str | None, str]:
        if typed or self._optional:
            return typed, ""
        return None, "A reason is needed: the agent reads it."


class NameDialog(Dialog[str]):
    """A name for something new."""

    def judge(self, typed: str) -> tuple[str | None, str]:
        from backend.errors import InvalidName
        from backend.models import check_name

        try:
            return check_name(typed), ""
        except InvalidName as error:
            return None, f"{error.message}: {error.remedy}"


class ChoiceDialog(Dialog[str]):
    """One of these words, typed whole."""

    def __init__(self, title: str, lines: Sequence[Line], prompt: str, words: Sequence[str]) -> None:
        super().__init__(title, lines, prompt)
        self._words = words

    def judge(self, typed: str) -> tuple[str | None, str]:
        if typed in self._words:
            return typed, ""
        return None, f"That is none of: {', '.join(self._words)}." if typed else "Nothing was typed."


class SecretDialog(Dialog[str]):
    """The value of a secret: never drawn, never in a message, kept nowhere. ``@/FILE``: what a file holds."""

    ECHO = False
    LONGEST = SECRET_CHARS

    def judge(self, typed: str) -> tuple[str | None, str]:
        from backend.client.secret_file import read_private
        from backend.errors import BadRequest

        if not typed:
            return None, "Nothing was typed."
        if not typed.startswith("@/"):
            return typed, ""
        try:
            return read_private(Path(typed[1:])).decode(), ""
        except BadRequest as error:
            return None, f"{visible(error.message)}: {visible(error.remedy)}"
        except UnicodeDecodeError:
            return None, f"{visible(typed[1:])} is no UTF-8 text."


def consequences(*sentences: str, role: Role = Role.TEXT) -> list[Line]:
    """Plain sentences of ours as lines."""
    return [line((sentence, role)) for sentence in sentences]
