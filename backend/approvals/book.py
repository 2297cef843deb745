"""The book of approvals: every change of one goes through :meth:`ApprovalBook.change`.

States move under the row's lock in the database, and terminal states are terminal: the second of two
operators learns who decided and when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from backend.errors import AlreadyDecided, ApprovalNotFound, WrongState
from backend.models import Approval, ApprovalState, Identity, Role, now
from backend.models.approval import APPROVAL_OPEN, APPROVAL_OVER
from backend.store import EventBus, Store

MAX_OPEN = 10_000
LAST_OVER = 500


class ApprovalBook:
    """Loads, changes and watches approvals. Nothing else writes them."""

    def __init__(self, store: Store, events: EventBus) -> None:
        self._store = store
        self._events = events
        self._moved: dict[str, asyncio.Event] = {}

    async def add(self, approval: Approval) -> None:
        await self._store.approvals.insert(approval)
        await self._tell(approval)

    async def load(self, approval_id: str, actor: Identity | None = None) -> Approval:
        """The approval, if ``actor`` may know of it: agents see their own only."""
        approval = await self._store.approvals.get(approval_id)
        if actor is not None and actor.role is Role.AGENT and approval.requester_uid != actor.uid:
            raise ApprovalNotFound(f"no approval {approval_id}", remedy="`fluid approvals list` shows them")
        return approval

    async def open(
        self,
        states: Collection[ApprovalState] = APPROVAL_OPEN,
        actor: Identity | None = None,
        *,
        requester_uid: int | None = None,
    ) -> list[Approval]:
        """Those in one of ``states``, however many ended since, newest first, of one requester or of all;
        agents see their own only."""
        return await self._newest(states, actor, MAX_OPEN, requester_uid)

    async def all(
        self, actor: Identity | None = None, *, over: int = LAST_OVER, requester_uid: int | None = None
    ) -> list[Approval]:
        """Those that are open, then the last ``over`` that ended, of one requester or of all; agents
        see their own only."""
        rows = await self.open(actor=actor, requester_uid=requester_uid)
        rows += await self._newest(APPROVAL_OVER, actor, over, requester_uid)
        return list({row.id: row for row in rows}.values())  # one may have ended between the two looks

    async def _newest(
        self,
        states: Collection[ApprovalState],
        actor: Identity | None,
        limit: int,
        requester_uid: int | None = None,
    ) -> list[Approval]:
        asked = {} if requester_uid is None else {"requester_uid": requester_uid}
        mine = {"requester_uid": actor.uid} if actor is not None and actor.role is Role.AGENT else {}
        if asked and mine and asked != mine:
            return []
        rows, _ = await self._store.approvals.list({"state": states, **asked, **mine}, limit=limit)
        return rows

    async def change(
        self, approval_id: str, states: Collection[ApprovalState], change: Callable[[Approval], None]
    ) -> Approval:
        """Apply ``change`` to the row if it stands in one of ``states``.

        Raises:
            AlreadyDecided: it is over, or another operator was first; says who and when.
            WrongState: it is in another live state.
        """

        def edit(approval: Approval) -> Approval:
            if approval.state not in states:
                raise refusal(approval)
            doing, at = approval.progress, now()
            change(approval)
            if approval.progress != doing:
                approval.progress_since = at if approval.progress else None
            approval.updated_at = at
            return approval

        approval = await self._store.approvals.change(approval_id, edit)
        await self._tell(approval)
        return approval

    async def wait(self, approval_id: str, seconds: float, actor: Identity) -> Approval:
        """The approval after its next change of state, or as it stands when the time is up."""
        approval = await self.load(approval_id, actor)
        state = approval.state
        try:
            async with asyncio.timeout(seconds):
                while True:
                    moved = self._moved.setdefault(approval_id, asyncio.Event())  # before the look, or a
                    approval = await self.load(approval_id, actor)  # change in between is missed
                    if approval.state is not state or state in APPROVAL_OVER:
                        break
                    await moved.wait()
        except TimeoutError:
            approval = await self.load(approval_id, actor)
        return approval

    async def _tell(self, approval: Approval) -> None:
        if moved := self._moved.pop(approval.id, None):
            moved.set()
        await self._events.publish(
            "approval.changed",
            "approval",
            approval.id,
            sandbox_id=approval.sandbox_id,
            data={"state": approval.state, "progress": approval.progress},
        )


def became(state: ApprovalState, outcome: str, said: str = "") -> Callable[[Approval], None]:
    """The change to a state in which nothing is being done. ``outcome`` is for the agent too: what targets
    ``said`` is not in it."""

    def change(row: Approval) -> None:
        row.state, row.outcome, row.said_by_targets, row.progress = state, outcome, said, ""

    return change


def refusal(approval: Approval) -> AlreadyDecided | WrongState:
    """Why a change came too late or too early, with who and when."""
    if approval.decisions:
        last = approval.decisions[-1]
        return AlreadyDecided(
            f"{approval.id} is {approval.state}: {last.name} ({last.verb}) at {last.at:%H:%M:%S} UTC"
        )
    if approval.state in APPROVAL_OVER:
        known = approval.said_by_targets is not None  # else the outcome may have targets' words in it
        return AlreadyDecided(
            f"{approval.id} is {approval.state}" + (f": {approval.outcome}" if known else "")
        )
    return WrongState(
        f"{approval.id} is {approval.state} {approval.progress}".rstrip(), remedy="wait until it is pending"
    )
