"""What happened while the database was gone: one JSON line a row, on disk before the caller goes on.

Each row has a ``spool_id``, unique in the chain: a crash between chaining a row in and forgetting it here
does not chain it twice. A line that a crash cut short is left out.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from backend.audit.chain import Draft, canonical

SPOOL_FILE = "audit.spool"


class Spool:
    """A 0600 file in ``folder``. Calls block on fsync: use a thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = folder / SPOOL_FILE

    def add(self, draft: Draft) -> Draft:
        """Keep a draft; as it was kept, with its ``spool_id``. Raises OSError if it does not fit whole."""
        kept = {**draft, "data": {**draft["data"], "spool_id": secrets.token_hex(16)}}
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "ab") as file:
            # A line break before it, too: what a crash left half written must not swallow this row.
            file.write(f"\n{canonical(kept)}\n".encode())
            file.flush()
            os.fsync(handle)
        return kept

    def read(self) -> list[Draft]:
        """The kept drafts, oldest first."""
        if not self.file.exists():
            return []
        drafts: list[Draft] = []
        for line in self.file.read_bytes().split(b"\n"):
            try:
                drafts.append(json.loads(line))
            except ValueError:
                continue
        return drafts

    def forget(self) -> None:
        """All of it is in the chain."""
        self.file.unlink(missing_ok=True)
