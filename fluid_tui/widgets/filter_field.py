"""The field of ``/``: it narrows at every key; enter keeps the words, and whoever owns it clears them."""

from __future__ import annotations

from textual import on
from textual.message import Message
from textual.widgets import Input


class FilterField(Input):
    """Hidden until it is opened."""

    class Narrowed(Message):
        """The words are others now."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Kept(Message):
        """Enter: the list has the keys again."""

    def __init__(self, hint: str) -> None:
        super().__init__(id="filter", placeholder=f"{hint}  (enter keeps, escape clears)")
        self.cursor_blink = False
        self.display = False

    @property
    def in_use(self) -> bool:
        """Whether it is open or holds words."""
        return self.display or bool(self.value)

    def open(self) -> None:
        """Take the keys."""
        self.display = True
        self.screen.set_focus(self)  # at once: the next key may wait already

    def clear_words(self) -> None:
        """Closed, and nothing is filtered."""
        self.value = ""
        self.display = False

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        message.stop()
        self.post_message(self.Narrowed(message.value))

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.display = False
        self.post_message(self.Kept())
