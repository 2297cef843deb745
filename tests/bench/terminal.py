"""A program in a pseudo terminal of its own, and what it writes there."""

from __future__ import annotations

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
from time import perf_counter

CHUNK_BYTES = 1 << 16
END_S = 10.0
FORGOTTEN = ("COLORTERM", "NO_COLOR", "TMUX", "COLUMNS", "LINES")


class Terminal:
    """``with Terminal(argv, environment, 80, 24) as seen:`` of 16 colours, deaf to a program's questions.

    ``written`` counts bytes from the start on, ``output`` is all of them if it ``keeps`` them. Methods raise
    TimeoutError with the last bytes seen.
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
        self.written = 0
        self.output = bytearray()
        self._keeps = keeps
        self._tail = b""
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
        return True
