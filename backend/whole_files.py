"""Files that are there whole or not at all, whatever ends the writer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """A file of mode 0600 that is on the disk before it has its name. Its folder exists. Blocking."""
    fd, draft = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # 0600 from the start
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
