"""Diffs, playbooks and the contents that they name go once nothing that is kept needs them."""

from __future__ import annotations

import asyncio

from backend.changes.blobs import BlobStore
from backend.store import Uses

KEPT_S = 30 * 86_400  # as the folders of runs


async def forget_unused(blobs: BlobStore, uses: Uses) -> None:
    """Whoever keeps a diff gives its contents to the store first: one that nobody gave for so long, and that
    no row names, is nobody's. Looks through the whole of every diff."""
    await uses.prune(KEPT_S)
    used = await uses.contents()
    await asyncio.to_thread(blobs.forget, used, KEPT_S)
