"""A file with secrets of an operator: read only when nobody else can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from backend.errors import BadRequest

MAX_BYTES = 1024**2


def read_private(file: Path) -> bytes:
    """What the file holds.

    Raises:
        BadRequest: it cannot be read, others can read it, or it holds more than 1 MiB.
    """
    try:
        with file.open("rb") as source:
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}", remedy="name another file") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadRequest(f"others can read {file}", remedy=f"chmod 600 {file}")
    if len(data) > MAX_BYTES:
        raise BadRequest(f"{file} holds more than 1 MiB", remedy="name another file")
    return data
