"""A program in a pseudo terminal of its own, and what it writes there."""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from time import perf_counter, sleep

from backend.emulator import Emulator

QUESTION, ANSWER = b"\x1b[6n", b"\x1b[1;1R"  # where the cursor is: answered once all before is drawn
CHUNK_BYTES = 1 << 16
BUFFER_BYTES = 1 << 16
TICK_S = 0.02
END_S = 10.0
FORGOTTEN = ("COLORTERM", "NO_COLOR", "TMUX", "COLUMNS", "LINES")


class Terminal:
    """``with Terminal(argv, environment, 80, 24) as seen:`` of 16 colours, which answers one question.

    ``written`` counts bytes from the start on, ``paints`` the questions, ``output`` is all of the bytes if it
    ``keeps`` them. Methods raise TimeoutError with the last bytes seen.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        width: int,
        height: int,
        *,
        keeps: bool = False,
    ) -> None:
        self.written = self.paints = 0
        self.output = bytearray()
        self._keeps = keeps
        self._tail = self._cut = b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
        kept = {name: value for name, value in environment.items() if name not in FORGOTTEN}
        self._began = perf_counter()
        self._program = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept | {"TERM": "xterm-16color"},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait(END_S)
        os.close(self._ours)

    @property
    def pid(self) -> int:
        return self._program.pid

    def wait(self, limit_s: float = END_S) -> int:
        """Read until the program ends; its exit code."""
        until = perf_counter() + limit_s
        while self._program.poll() is None and perf_counter() < until:
            self._read(0.05)
        while self._read(0):
            pass
        return self._program.wait(0)

    def signal(self, number: int) -> None:
        """To the program, and to what it started."""
        os.killpg(self._program.pid, number)

    def resize(self, width: int, height: int) -> None:
        """A window of another size; the kernel tells the program."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
        self.signal(signal.SIGWINCH)

    def press(self, key: bytes) -> float:
        """Type a key; when."""
        at = perf_counter()
        os.write(self._ours, key)
        return at

    def until(self, marker: bytes, limit_s: float = 30.0) -> float:
        """Seconds from the start until ``marker`` has been written."""
        return self.since(self._began, marker, limit_s)

    def since(self, began: float, marker: bytes, limit_s: float = 30.0) -> float:
        """Seconds from ``began`` until ``marker`` is written from now on."""
        self._tail = b""
        while marker not in self._tail:
            if not self._read(began + limit_s - perf_counter()):
                raise TimeoutError(f"never written: {marker!r}, last {self._tail[-300:]!r}")
        return perf_counter() - began

    @property
    def tail(self) -> bytes:
        """The last that was written, since something was waited for."""
        return self._tail

    def settle(self, quiet_s: float) -> None:
        """Return once nothing was written for so long."""
        while self._read(quiet_s):
            pass

    def count(self, seconds: float) -> int:
        """The bytes written in so many seconds."""
        before, until = self.written, perf_counter() + seconds
        while (left := until - perf_counter()) > 0:
            self._read(left)
        return self.written - before

    def _read(self, limit_s: float) -> bool:
        """Whether anything came within ``limit_s``."""
        if not select.select([self._ours], [], [], max(limit_s, 0))[0]:
            return False
        try:
            data = os.read(self._ours, CHUNK_BYTES)
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that no program holds any more
                raise
            return False
        self.written += len(data)
        if self._keeps:
            self.output += data
        self._tail = (self._tail + data)[-2 * CHUNK_BYTES :]
        self._draw(data)
        return True

    def _draw(self, data: bytes) -> None:
        asked = (self._cut + data).count(QUESTION)
        self._cut = (self._cut + data)[1 - len(QUESTION) :]
        self.paints += asked
        os.write(self._ours, ANSWER * asked)


class SlowTerminal(Terminal):
    """At the end of a line of ``rate`` bytes a second, behind buffers that take ``BUFFER_BYTES`` at once, as
    ssh's and the system's do. ``screen`` is what stands there, ``deepest`` the most that was on its way."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], width: int, height: int, *, rate: int
    ) -> None:
        self._rate = rate
        self._buffered = bytearray()
        self._carried_at = 0.0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._screen = Emulator(width, height)
        self.deepest = 0
        super().__init__(argv, environment, width, height)

    @property
    def screen(self) -> list[str]:
        return ["".join(text for text, _ in row) for row in self._screen.rows()]

    def shows(self, *words: str, began: float | None = None, limit_s: float = 60.0) -> float:
        """Seconds from ``began``, else from the start, until all these words stand on the screen."""
        began = self._began if began is None else began
        while any(word not in "\n".join(self.screen) for word in words):
            if perf_counter() > began + limit_s:
                raise TimeoutError("\n".join([f"never shown: {words}", *self.screen]))
            self._read(TICK_S)
        return perf_counter() - began

    def settle(self, quiet_s: float) -> None:
        """Return once nothing has come over the line for so long."""
        until = perf_counter() + quiet_s
        while perf_counter() < until:
            if self._read(TICK_S) or self._buffered:
                until = perf_counter() + quiet_s

    def _read(self, limit_s: float) -> bool:
        limit_s = min(limit_s, TICK_S)  # the line goes on meanwhile
        came = False
        if len(self._buffered) < BUFFER_BYTES:
            came = super()._read(limit_s)
        else:
            sleep(limit_s)
        self._carry()
        return came

    def _draw(self, data: bytes) -> None:
        if not self._buffered:
            self._carried_at = perf_counter()
        self._buffered += data
        self.deepest = max(self.deepest, len(self._buffered))

    def _carry(self) -> None:
        """Draw what has come over the line meanwhile."""
        size = int((perf_counter() - self._carried_at) * self._rate)
        carried = bytes(self._buffered[:size])
        del self._buffered[:size]
        self._carried_at += len(carried) / self._rate
        self._screen.feed(self._decode(carried))
        super()._draw(carried)
