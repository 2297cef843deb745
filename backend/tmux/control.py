"""tmux's control mode, without I/O: bytes in, notifications and replies out (tmux(1), CONTROL MODE).

What a pane prints stands inside replies, and may look like the end of one. A reply with such text is
therefore read by its number of lines, which the command before it told, never by searching for its end.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_OCTAL = re.compile(rb"\\([0-7]{3})")
_FROM_US = b"1"  # the flag of a block that answers a command of this client

Lines = list[bytes]


@dataclass(frozen=True)
class Output:
    """A pane printed something."""

    pane_id: str
    data: bytes


@dataclass(frozen=True)
class Exit:
    """tmux lets this client go; nothing follows."""

    reason: str


@dataclass(frozen=True)
class Notice:
    """Any other notification: its name without ``%`` and the rest of its line."""

    name: str
    rest: str


Notification = Output | Exit | Notice


@dataclass
class Reply:
    """The reply to one command.

    ``lines_of_text`` is asked when the reply begins: how many lines of a pane's text it carries, or None.
    ``then`` hears of one that is no error, before anything that tmux says later.
    """

    lines_of_text: Callable[[], int | None] = lambda: None
    lines: Lines = field(default_factory=list)
    then: Callable[[Lines], None] = lambda _lines: None
    done: Callable[[Reply, bool], None] = lambda _reply, _ok: None


class ControlParser:
    """Feed it what tmux writes. ``expect`` a reply for every command that is sent, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected: deque[Reply] = deque()
        self._reply: Reply | None = None  # the block we are in; None between blocks
        self._text_left = 0
        self._end: bytes = b""

    def expect(self, reply: Reply) -> None:
        """A command goes out: its reply comes after those that are expected already."""
        self._expected.append(reply)

    def feed(self, data: bytes) -> Iterator[Notification]:
        """Take bytes in any portion; the notifications they complete, to be read to the end. A reply is
        done by its callback when its turn comes: after what was told before it, before what comes later."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            if (one := self._line(bytes(line))) is not None:
                yield one

    def abandon(self) -> None:
        """tmux is gone: every reply that is still expected fails."""
        waiting = [self._reply] if self._reply else []
        waiting += self._expected
        self._expected.clear()
        self._reply = None
        for reply in waiting:
            reply.done(reply, False)

    def _line(self, line: bytes) -> Notification | None:
        if self._reply is not None:
            self._inside(self._reply, line)
            return None
        if line.startswith(b"%begin "):
            self._begin(line)
            return None
        return _notification(line)

    def _begin(self, line: bytes) -> None:
        _, time, number, flags = line.split(b" ")[:4]
        ours = flags == _FROM_US and self._expected
        self._reply = self._expected.popleft() if ours else Reply()
        self._text_left = self._reply.lines_of_text() or 0
        self._end = b" %s %s %s" % (time, number, flags)

    def _inside(self, reply: Reply, line: bytes) -> None:
        if self._text_left:
            self._text_left -= 1
            reply.lines.append(line)
        elif line in (b"%end" + self._end, b"%error" + self._end):
            self._reply = None
            reply.done(reply, line.startswith(b"%end"))
        else:
            reply.lines.append(line)


def unescape(data: bytes) -> bytes:
    """The bytes behind ``%output``'s ``\\ooo``."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), data)


def _notification(line: bytes) -> Notification | None:
    if not line.startswith(b"%"):
        return None
    name, _, rest = line[1:].partition(b" ")
    if name == b"output":
        pane, _, data = rest.partition(b" ")
        return Output(pane.decode("ascii", "replace"), unescape(data))
    if name == b"exit":
        return Exit(rest.decode("utf-8", "replace"))
    return Notice(name.decode("ascii", "replace"), rest.decode("utf-8", "replace"))
