"""Diffs, playbooks and the contents that they name go once nothing that is kept needs them."""

from __future__ import annotations

import asyncio
import time

from backend.changes.blobs import BlobStore
from backend.store import Uses

KEPT_S = 30 * 86_400  # as the folders of runs
AGE_EVERY_S = 86_400.0  # the whole of every diff is looked through


class Ageing:
    """One for the installation."""

    def __init__(self, blobs: BlobStore, uses: Uses) -> None:
        self._blobs, self._uses = blobs, uses
        self._aged_at: float | None = None

    async def age(self) -> None:
        """At most once a day. Whoever keeps a diff gives its contents to the store first: one that nobody
        gave for so long, and that no row names, is nobody's."""
        at = time.monotonic()
        if self._aged_at is not None and at - self._aged_at < AGE_EVERY_S:
            return
        await self._uses.prune(KEPT_S)
        used = await self._uses.contents()
        await asyncio.to_thread(self._blobs.forget, used, KEPT_S)
        self._aged_at = at
