"""Files that are there whole or not at all, whatever ends the writer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A file that is on the disk before it has its name. Its folder exists. Blocking."""
    fd, draft = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # 0600 from the start
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def write_lasting(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The same, and its name outlives a power cut too. That is a second wait for the disk."""
    write_whole(path, data, mode)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
