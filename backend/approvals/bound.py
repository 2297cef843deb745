"""Whether the changes that evidence names still are what it was made of.

A digest binds their hashes, and a change is read from the database again whenever somebody judges it. What
was edited there in between, with the hash in the request or without, is refused: the rehearsal's row of the
audit has the hashes too.
"""

from __future__ import annotations

import asyncio
from typing import Any

from backend.audit import Audit
from backend.errors import NotFound, WrongState
from backend.models import Approval, Changes
from backend.store import Store

REHEARSED = "approval.rehearse"
HASHES = ("changes_sha256", "sandbox_changes_sha256")
"""Of the rehearsal's change and of the sandbox's: fields of the evidence, and of its audit row."""


async def bound(store: Store, audit: Audit, approval: Approval) -> list[Changes]:
    """The rehearsal's change and the sandbox's, as far as there are any. An older version's evidence has no
    hashes, and its changes are as they are.

    Raises:
        WrongState: one is not what the evidence was made of.
    """
    evidence = approval.evidence
    noted = await _noted(audit, approval.id)
    found = []
    for whose, changes_id, name in (
        ("rehearsal", evidence.changes_id, "changes_sha256"),
        ("sandbox", evidence.sandbox_changes_id, "sandbox_changes_sha256"),
    ):
        named = getattr(evidence, name)
        if named != noted.get(name, named):
            raise _altered(
                f"{approval.id} names another change of the {whose} than its rehearsal's audit row"
            )
        if not changes_id:
            continue
        try:
            changes = await store.changes.get(changes_id)
        except NotFound as error:
            raise _altered(f"the {whose}'s change {changes_id} is gone from the database") from error
        if named and await asyncio.to_thread(changes.sha256) != named:
            raise _altered(f"the {whose}'s change {changes_id} was altered after the evidence was made")
        found.append(changes)
    return found


async def _noted(audit: Audit, approval_id: str) -> dict[str, Any]:
    """What the audit has of the last rehearsal that was made; nothing of an older version's."""
    rows, _ = await audit.list(action=REHEARSED, id=approval_id)
    ended = (row.data for row in rows if row.step == "outcome" and row.data.get("ok"))
    return next(ended, {})


def _altered(words: str) -> WrongState:
    return WrongState(
        f"{words}: what is shown is not what was rehearsed",
        remedy="see `fluid audit verify`, and who writes to the database; it must be asked for again",
    )
