"""Which panes operators type into now. Agent, operators and audit hear when it begins and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from backend.audit import Audit
from backend.errors import PaneNotFound, TmuxDown, WrongState
from backend.models import Identity, Role
from backend.panes.taking import GIVEN_BACK, Mark, TakeOver, Why, taken
from backend.store import EventBus
from backend.tmux import TmuxPane, TmuxServer


class Hands:
    """One a backend. ``typing`` holds a lock for each pane: what somebody types is typed whole."""

    def __init__(self, tmux: TmuxServer, events: EventBus, audit: Audit) -> None:
        self.typing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tmux = tmux
        self._events = events
        self._audit = audit
        self._held: dict[str, TakeOver] = {}

    def of(self, pane_id: str) -> TakeOver | None:
        """Whoever types into this pane instead of its agent."""
        return self._held.get(pane_id)

    def refuse(self, actor: Identity, pane: TmuxPane) -> None:
        """PaneTaken while an operator types into the pane."""
        if hands := self.of(pane.pane_id):
            raise taken(pane, hands.mark, operator=actor.role is Role.OPERATOR)

    @asynccontextmanager
    async def take(self, actor: Identity, pane: TmuxPane, force: bool) -> AsyncIterator[TakeOver]:
        """The pane is the operator's until the block ends. See :meth:`Panes.take_over`."""
        async with AsyncExitStack() as stack:
            async with self.typing[pane.pane_id]:
                hands = await self._take(stack, actor, pane, force)
            watch = asyncio.create_task(hands.watch())
            stack.callback(watch.cancel)
            yield hands

    def end(self, why: Why, *, pane_id: str = "", sandbox_id: str = "") -> None:
        """What happened to a pane, or to a sandbox, ends it."""
        for hands in list(self._held.values()):
            if pane_id == hands.pane.pane_id or sandbox_id == hands.pane.sandbox:
                hands.end(why)

    async def give_back_what_was_cut(self) -> None:
        """A backend that was killed while an operator typed left its mark."""
        for pane in await self._tmux.list_panes():
            mark = Mark.of(pane.taken)
            if mark is None or pane.pane_id in self._held:
                continue
            with contextlib.suppress(PaneNotFound):
                await self._tmux.mark_taken(pane.pane_id, "")
            facts: dict[str, object] = {"why": "restarted", "taken_by": mark.name, "typed_bytes": None}
            await self._note(Identity.system(), pane, facts)
            words = f"the backend was started again: {GIVEN_BACK.format(pane=pane.pane_id)}"
            await self._tell("handed_back", pane, mark.name, words)

    # --- below ----------------------------------------------------------------------------------------------

    async def _take(self, stack: AsyncExitStack, actor: Identity, pane: TmuxPane, force: bool) -> TakeOver:
        if not force:
            self.refuse(actor, pane)
        if not pane.alive:
            raise WrongState(f"the shell in {pane.pane_id} has ended", remedy="open another terminal")
        before = self.of(pane.pane_id)
        data = {"taken_from": before.actor.name} if before else {}
        async with self._audit.step(actor, "pane.take_over", "pane", pane.pane_id, pane.sandbox, **data):
            keyboard = await stack.enter_async_context(self._tmux.keyboard(pane.pane_id))
            hands = TakeOver(actor, pane, keyboard)
            if before:
                before.end(Why.TAKEN, actor.name)
            self._held[pane.pane_id] = hands
            stack.push_async_callback(self._give_back, hands)
            await self._tmux.mark_taken(pane.pane_id, str(hands.mark))
        await self._tell("taken", pane, actor.name, f"{actor.name} types into {pane.pane_id} now")
        return hands

    async def _give_back(self, hands: TakeOver) -> None:
        """Also where the block was cancelled: the agent must not wait for ever."""
        await asyncio.shield(asyncio.ensure_future(self._release(hands)))

    async def _release(self, hands: TakeOver) -> None:
        hands.end(Why.CUT)
        pane = hands.pane
        try:
            if self.of(pane.pane_id) is hands:
                with contextlib.suppress(PaneNotFound, TmuxDown):
                    await self._tmux.mark_taken(pane.pane_id, "")  # its answer comes after all that was typed
            if self.of(pane.pane_id) is hands:
                del self._held[pane.pane_id]
                words = GIVEN_BACK.format(pane=pane.pane_id)
                await self._tell("handed_back", pane, hands.actor.name, words)
            await self._note(hands.actor, pane, hands.facts())
        finally:
            hands.released.set()

    async def _note(self, actor: Identity, pane: TmuxPane, facts: dict[str, object]) -> None:
        await self._audit.note(actor, "pane.hand_back", "pane", pane.pane_id, pane.sandbox, **facts)

    async def _tell(self, what: str, pane: TmuxPane, by: str, words: str) -> None:
        """Its agent hears it on its sandbox's stream, operators on theirs."""
        data = {"pane_id": pane.pane_id, "taken": what == "taken", "by": by, "words": words}
        await self._events.publish(f"pane.{what}", "pane", pane.pane_id, pane.sandbox, data)
