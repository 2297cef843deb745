"""What is piped into a command of ours. A terminal is never read, an idle pipe is not waited for.

Programs that start us often leave our standard input an open pipe (sshd, Node.js), which never ends. So a
pipe has a moment to begin; once it has begun, it is read to its end.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from backend.errors import BadRequest

STDIN = 0
BEGIN_S = 2.0
READ_BYTES = 65_536


def piped(limit_bytes: int, *, patient: bool = False) -> bytes | None:
    """The bytes on standard input, one more than ``limit_bytes`` at most; None when there are none.

    Args:
        patient: wait for the first byte as long as it takes.
    """
    if sys.stdin is None or os.isatty(STDIN):  # None: it was closed, and another file may have its number
        return None
    try:
        if not _begins(patient):
            print(
                f"fluid: nothing came on standard input in {BEGIN_S:g} s, the command gets none"
                " (--no-stdin does not wait, --stdin waits)",
                file=sys.stderr,
            )
            return None
        return _read(limit_bytes + 1) or None
    except OSError as error:
        if error.errno == errno.EBADF:  # nohup(1) opens it for writing only
            return None
        raise BadRequest(
            f"standard input cannot be read: {error.strerror}", remedy="add --no-stdin, or < /dev/null"
        ) from error


def _begins(patient: bool) -> bool:
    """Whether there is a byte or the end."""
    waiting = select.poll()
    waiting.register(STDIN, select.POLLIN)
    return bool(waiting.poll(None if patient else BEGIN_S * 1000))


def _read(count: int) -> bytes:
    """Up to ``count`` bytes, fewer at the end of the input."""
    data = bytearray()
    while len(data) < count and (chunk := os.read(STDIN, min(READ_BYTES, count - len(data)))):
        data += chunk
    return bytes(data)
