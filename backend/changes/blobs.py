"""Contents by SHA-256: written once, whole or not at all, read by nobody but the backend."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from backend.errors import BadRequest, NotFound
from backend.whole_files import write_whole

_SHA256 = re.compile(r"[0-9a-f]{64}")
FOLDER_MODE = 0o700


class BlobStore:
    """Files named by their content under ``folder``, two levels deep, mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # what is found is not forgotten in the same moment

    def path(self, sha256: str) -> Path:
        """Where a blob is or would be. Raises :class:`BadRequest` for what is no SHA-256."""
        if not _SHA256.fullmatch(sha256):
            raise BadRequest(f"{sha256[:80]!r} is not a SHA-256", remedy="give 64 hexadecimal digits")
        return self._folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Keep ``data``; its SHA-256. The same content twice is one file, which is young again."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        with self._lock, suppress(FileNotFoundError):
            os.utime(path)
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        write_whole(path, data)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The content. Raises :class:`NotFound` when it is not there or no longer what it was."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no blob {sha256}", remedy="make the diff again") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise NotFound(f"blob {sha256} is damaged on this host's disk", remedy="make the diff again")
        return data

    def forget(self, used: Collection[str], older_than_s: float) -> int:
        """Remove what is not ``used`` and was given for the last time so long ago; how many. Blocking."""
        oldest, gone = time.time() - older_than_s, 0
        for path in self._folder.glob("??/*"):  # drafts of a writer that was killed, too
            if path.name not in used:
                with self._lock, suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                        gone += 1
        return gone
