"""Plain questions to a person: an agent asks and blocks, an operator answers, or the time runs out."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from backend.audit import Audit
from backend.config import LimitConfig
from backend.errors import AlreadyDecided, ApprovalNotFound, LimitReached
from backend.fleet import Fleet
from backend.models import Ask, AskRequest, AskState, Identity, Role, now
from backend.models import new_id as fresh_id
from backend.policy import operators_only
from backend.store import EventBus, Store

MAX_LISTED = 10_000


class Asks:
    """Asks are rows; an answer is recorded before the blocked caller hears it."""

    def __init__(
        self,
        store: Store,
        events: EventBus,
        audit: Audit,
        fleet: Fleet,
        limits: LimitConfig | None = None,
    ) -> None:
        self._limits = limits or LimitConfig()
        self._store = store
        self._events = events
        self._audit = audit
        self._fleet = fleet
        self._answered: dict[str, asyncio.Event] = {}
        self._asking, self._expiring = asyncio.Lock(), asyncio.Lock()

    async def ask(self, actor: Identity, request: AskRequest) -> Ask:
        """Put the question; it is pending until somebody answers or it expires.

        Raises:
            SandboxNotFound: it names a sandbox that is not there, or not the caller's.
            LimitReached: the caller has as many questions as one may have.
        """
        if request.sandbox_id:
            sandbox = await self._fleet.get(actor, request.sandbox_id)
            request = request.model_copy(update={"sandbox_id": sandbox.id})
        at = now()
        ask = Ask(
            request_id=fresh_id("APR"),
            **request.model_dump(exclude={"timeout_secs"}),
            requester_uid=actor.uid,
            requester_name=actor.name,
            created_at=at,
            expires_at=at + timedelta(seconds=request.timeout_secs),
        )
        async with self._asking:  # of two at once the second counts the first
            await self._refuse_one_more(actor)
            await self._audit.note(
                actor, "ask.put", "ask", ask.request_id, sandbox_id=ask.sandbox_id or "", prompt=ask.prompt
            )
            await self._store.asks.insert(ask)
        await self._tell(ask)
        return ask

    async def _refuse_one_more(self, actor: Identity) -> None:
        theirs = {"status": AskState.PENDING, "requester_uid": actor.uid}
        rows, _ = await self._store.asks.list(theirs, limit=MAX_LISTED)
        at = now()
        waiting = sum(row.expires_at > at for row in rows)
        if waiting >= self._limits.asks_per_requester:
            raise LimitReached(
                f"you have {waiting} open questions", remedy="wait for an answer, or withdraw one"
            )

    async def wait(self, actor: Identity, request_id: str, seconds: float) -> Ask:
        """The ask once it is answered, or as it stands after ``seconds``; expired when its own time is up."""
        await self.get(actor, request_id)  # nothing is kept of what there is not
        answered = self._answered.setdefault(request_id, asyncio.Event())  # before the look, or an answer
        ask = await self.get(actor, request_id)  # in between is missed
        left = (ask.expires_at - now()).total_seconds()
        if ask.status is AskState.PENDING:
            try:
                async with asyncio.timeout(max(0.0, min(seconds, left))):
                    await answered.wait()
            except TimeoutError:
                pass
            ask = await self.get(actor, request_id)
        if ask.status is not AskState.PENDING:
            self._answered.pop(request_id, None)
        return ask

    async def get(self, actor: Identity, request_id: str) -> Ask:
        """One ask; agents see their own only. A pending one past its time is expired here."""
        ask = await self._store.asks.get(request_id)
        if actor.role is Role.AGENT and ask.requester_uid != actor.uid:
            raise ApprovalNotFound(f"no question {request_id}")
        if ask.status is AskState.PENDING and ask.expires_at <= now():
            return await self._expire(request_id)
        return ask

    async def _expire(self, request_id: str) -> Ask:
        async with self._expiring:  # of several who ask at once one ends it
            ask = await self._store.asks.get(request_id)
            if ask.status is not AskState.PENDING:
                return ask
            ask.status = AskState.EXPIRED
            async with self._audit.step(Identity.system(), "ask.expire", "ask", request_id):
                if not await self._store.asks.transition(request_id, [AskState.PENDING], ask):
                    return await self._store.asks.get(request_id)
            await self._tell(ask)
            return ask

    async def list(self, actor: Identity) -> list[Ask]:
        """What waits for an answer, newest first; agents see their own."""
        mine = {"requester_uid": actor.uid} if actor.role is Role.AGENT else {}
        rows, _ = await self._store.asks.list({"status": AskState.PENDING, **mine}, limit=MAX_LISTED)
        at = now()
        for row in rows:
            if row.expires_at <= at:
                await self.get(actor, row.request_id)
        return [row for row in rows if row.expires_at > at]

    async def answer(
        self,
        actor: Identity,
        request_id: str,
        approved: bool,
        comment: str = "",
        alternative: str | None = None,
    ) -> Ask:
        """An operator's word. The second answer gets 409 with who was first."""
        operators_only(actor, "only operators answer", remedy="ask somebody of the operators' group")
        ask = await self.get(actor, request_id)
        self._still_pending(ask)
        ask.status = AskState.APPROVED if approved else AskState.REJECTED
        ask.comment, ask.alternative = comment, alternative
        ask.approved_by, ask.approved_at = actor.name, now()
        async with self._audit.step(
            actor, "ask.answer", "ask", request_id, approved=approved, comment=comment
        ):
            if not await self._store.asks.transition(request_id, [AskState.PENDING], ask):
                self._still_pending(await self.get(actor, request_id))
        await self._tell(ask)
        return ask

    async def withdraw(self, actor: Identity, request_id: str) -> Ask:
        """The asker does not need an answer any more."""
        ask = await self.get(actor, request_id)
        self._still_pending(ask)
        ask.status = AskState.WITHDRAWN
        async with self._audit.step(actor, "ask.withdraw", "ask", request_id):
            if not await self._store.asks.transition(request_id, [AskState.PENDING], ask):
                self._still_pending(await self.get(actor, request_id))
        await self._tell(ask)
        return ask

    def _still_pending(self, ask: Ask) -> None:
        if ask.status is not AskState.PENDING:
            who = f" by {ask.approved_by} at {ask.approved_at:%H:%M:%S} UTC" if ask.approved_by else ""
            raise AlreadyDecided(f"{ask.request_id} was {ask.status}{who}")

    async def _tell(self, ask: Ask) -> None:
        if (answered := self._answered.get(ask.request_id)) and ask.status is not AskState.PENDING:
            answered.set()
        await self._events.publish(
            "ask.changed",
            "ask",
            ask.request_id,
            sandbox_id=ask.sandbox_id or "",
            data={"status": ask.status, "prompt": ask.prompt, "by": ask.approved_by or ""},
        )
