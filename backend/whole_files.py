"""Files that are there whole or not at all, whatever ends the writer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A file that is on the disk before it has its name. Its folder exists. Blocking."""
    with _draft(path, data, mode) as draft:
        draft.replace(path)


def write_lasting(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The same, and its name outlives a power cut too. That is a second wait for the disk."""
    write_whole(path, data, mode)
    _sync(path.parent)


def write_first(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As :func:`write_lasting`, but a file that is there stays: of two writers at once, the first one's."""
    with _draft(path, data, mode) as draft, suppress(FileExistsError):
        os.link(draft, path)
    _sync(path.parent)


@contextmanager
def _draft(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The data on the disk beside ``path``; what was not renamed in the block is gone after it."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # 0600 from the start
    draft = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
