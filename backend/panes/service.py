"""Agents' terminals: each a shell in a guest of its owner, never on the control node. An operator may type
into one instead of its agent.

tmux remembers whose a pane is, so a restarted backend adopts them. A pane that nobody follows costs nothing;
one that is followed is looked at when it printed, at most four times a second, however many follow it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Protocol

from backend.audit import Audit
from backend.config import LimitConfig
from backend.errors import FluidError, LimitReached, NotFound, PaneNotFound, TmuxDown
from backend.models import EVENTS_MISSED, Identity, Pane, PaneScreen, Phase, Role, Sandbox
from backend.panes.hands import Hands
from backend.panes.recorder import Recorder
from backend.panes.taking import Mark, TakeOver, Why
from backend.policy import operators_only
from backend.store import EventBus
from backend.text import harmless, screen
from backend.tmux import TmuxPane, TmuxScreen, TmuxServer

log = logging.getLogger(__name__)

PAINT_EVERY_S = 0.275
"""At most four times a second, also where a look is late."""
RELEASE_S = 5.0
BACK_AGAIN = {"snapshot.restored", "sandbox.started"}
"""Events after which a guest's old connections are dead, and its panes get a new shell."""
FLOOD_QUIET_S = 0.05  # after the first output of a burst: a whole screen is worth more than its first byte

Rows = list[str]
PaneList = list[Pane]


class Sandboxes(Protocol):
    """What panes need of the fleet: a sandbox that the actor may touch, or the error that says why not; and a
    snapshot before something dangerous is typed there."""

    async def running(self, actor: Identity, sandbox_id: str) -> Sandbox: ...
    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox: ...
    async def before_typing(self, actor: Identity, sandbox_id: str, text: str) -> None: ...


class Panes:
    """``shell`` gives the argument list that opens a shell in a sandbox. Run :meth:`run` as a task."""

    def __init__(
        self,
        tmux: TmuxServer,
        events: EventBus,
        audit: Audit,
        sandboxes: Sandboxes,
        shell: Callable[[Sandbox], Awaitable[list[str]]],
        limits: LimitConfig,
        recorder: Recorder | None = None,
    ) -> None:
        self._tmux = tmux
        self._events = events
        self._audit = audit
        self._sandboxes = sandboxes
        self._shell = shell
        self._limits = limits
        self._recorder = recorder
        self._pumps: dict[str, _Pump] = {}
        self._hands = Hands(tmux, events, audit)
        self._opening = asyncio.Lock()

    async def open(self, actor: Identity, sandbox_id: str, width: int = 80, height: int = 24) -> Pane:
        """A new shell in the caller's sandbox.

        Raises:
            SandboxNotFound, WrongState: no sandbox of the caller's, or it does not run.
            LimitReached: it has as many as it may have.
            TmuxDown, MissingProgram: no terminal to be had.
        """
        sandbox = await self._sandboxes.running(actor, sandbox_id)
        async with (
            self._opening,
            self._audit.step(actor, "pane.open", "pane", sandbox_id=sandbox.id) as step,
        ):
            await self._may_have_one_more(sandbox)
            step.id = pane_id = await self._tmux.create_pane(
                await self._shell(sandbox),
                width=width,
                height=height,
                owner=str(actor.uid),
                sandbox=sandbox.id,
                session=sandbox.sandbox_name,
            )
        return _pane(await self._find(actor, pane_id))

    async def list(self, actor: Identity) -> PaneList:
        """The caller's panes; an operator's list holds everybody's. Empty while tmux is down."""
        with contextlib.suppress(TmuxDown):
            return [_pane(one) for one in await self._tmux.list_panes() if _may_see(actor, one)]
        return []

    async def last_output(self) -> dict[str, datetime]:
        """When the terminals of each sandbox last showed something new, by the sandbox's id."""
        newest: dict[str, datetime] = {}
        for pane in await self.list(Identity.system()):
            at = pane.last_output_at or pane.created_at
            newest[pane.sandbox_id] = max(at, newest.get(pane.sandbox_id, at))
        return newest

    async def send(
        self, actor: Identity, pane_id: str, *, text: str | None = None, key: str | None = None
    ) -> None:
        """Type ``text`` to the byte, then press ``key``; either may be None. The audit holds how much was
        typed, not what: it may be the answer to a password prompt. PaneTaken while an operator types."""
        pane = await self._find(actor, pane_id)
        typed = {"characters": len(text or ""), "key": key or ""}
        async with (
            self._hands.typing[pane_id],  # what is typed is typed whole before an operator takes the pane
            self._audit.step(actor, "pane.type", "pane", pane_id, pane.sandbox, **typed),
        ):
            self._hands.refuse(actor, pane)
            if text is not None:
                await self._sandboxes.before_typing(actor, pane.sandbox, text)
                await self._tmux.send_text(pane_id, text)
            if key is not None:
                await self._tmux.send_key(pane_id, key)

    async def read(self, actor: Identity, pane_id: str, last_n_lines: int = 0) -> Rows:
        """What the pane shows as plain text, or its last ``last_n_lines`` with history.

        Blank rows at the end are left out.
        """
        await self._find(actor, pane_id)
        rows = await self._tmux.capture(pane_id, last_n_lines)
        plain = ["".join(text for text, _ in runs).rstrip() for runs in screen(rows)]
        while plain and not plain[-1]:
            plain.pop()
        return plain[-last_n_lines:] if last_n_lines else plain

    async def close(self, actor: Identity, pane_id: str) -> None:
        """End the pane and its shell. An agent waits until an operator who types there has handed it back."""
        pane = await self._find(actor, pane_id)
        async with self._audit.step(actor, "pane.close", "pane", pane_id, pane.sandbox):
            if actor.role is Role.AGENT:
                self._hands.refuse(actor, pane)
            await self._tmux.kill_pane(pane_id)

    async def screens(self, actor: Identity, pane_id: str) -> AsyncGenerator[PaneScreen]:
        """The screen now and after each change; ends when the pane does.

        Slow readers miss screens, never the last one. The rows are a guest's, their only control is SGR.
        """
        await self._find(actor, pane_id)
        async with self._pumping(pane_id) as pump:
            seen = -1
            while (shown := await pump.newer_than(seen)) is not None:
                seen = pump.version
                yield PaneScreen(rows=[*map(harmless, shown.rows)], cursor=shown.cursor)

    # --- an operator types ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def take_over(self, actor: Identity, pane_id: str, force: bool = False) -> AsyncIterator[TakeOver]:
        """The operator's hands on the pane until the block ends; its agent is told, and its keys are refused.

        Raises:
            RoleDenied: no operator.
            PaneTaken: somebody types there; with ``force`` it is taken from them, and they are told.
            PaneNotFound, WrongState, TmuxDown: there is no shell to type into.
            DatabaseDown: what is not recorded does not begin.
        """
        _check(actor)
        async with self._hands.take(actor, await self._find(actor, pane_id), force) as hands:
            hands.on_typed = partial(self._hurry, pane_id)
            yield hands

    async def hand_back(self, actor: Identity, pane_id: str) -> Pane:
        """The agent's again, whoever types there; the pane as it is then."""
        _check(actor)
        await self._find(actor, pane_id)
        if hands := self._hands.of(pane_id):
            hands.end(Why.HANDED_BACK, "" if actor.uid == hands.actor.uid else actor.name)
            with contextlib.suppress(TimeoutError):  # whoever hangs types nothing any more
                async with asyncio.timeout(RELEASE_S):
                    await hands.released.wait()
        return _pane(await self._find(actor, pane_id))

    async def run(self) -> None:
        """Until cancelled: keep tmux up, tell of panes that come, end and go, attach those of a guest that is
        back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tmux.keep())
            tasks.create_task(self._tell())
            tasks.create_task(self._follow_sandboxes())
            if self._recorder is not None:
                tasks.create_task(self._recorder.run())
            with contextlib.suppress(TmuxDown):
                await self._hands.give_back_what_was_cut()

    # --- below ----------------------------------------------------------------------------------------------

    async def _may_have_one_more(self, sandbox: Sandbox) -> None:
        has = sum(pane.sandbox == sandbox.id for pane in await self._tmux.list_panes())
        if has >= self._limits.panes_per_sandbox:
            raise LimitReached(
                f"{sandbox.sandbox_name} has {has} terminals",
                remedy="close one: DELETE /v1/tmux/panes/{pane_id}",
            )

    async def _find(self, actor: Identity, pane_id: str) -> TmuxPane:
        for pane in await self._tmux.list_panes():
            if pane.pane_id == pane_id and _may_see(actor, pane):
                return pane
        raise PaneNotFound(f"there is no pane {pane_id!r}", remedy="list yours with GET /v1/tmux/panes")

    @asynccontextmanager
    async def _pumping(self, pane_id: str) -> AsyncIterator[_Pump]:
        """The pane's one pump, started for its first follower and stopped after its last."""
        pump = self._pumps.get(pane_id)
        if pump is None or pump.over:
            pump = self._pumps[pane_id] = _Pump(self._tmux, self._events, pane_id)
        pump.followers += 1
        try:
            yield pump
        finally:
            pump.followers -= 1
            if pump.followers == 0:
                if self._pumps.get(pane_id) is pump:
                    del self._pumps[pane_id]
                await pump.stop()

    def _hurry(self, pane_id: str) -> None:
        """Somebody types: who follows the pane sees the echo soon."""
        if pump := self._pumps.get(pane_id):
            pump.hurry()

    async def _follow_sandboxes(self) -> None:
        with self._events.subscribe() as events:
            async for event in events:
                if event.kind == "sandbox.changed" and event.data.get("phase") == Phase.DESTROYED:
                    self._hands.end(Why.DESTROYED, sandbox_id=event.sandbox_id)
                    self._tmux.changed.set()
                if event.kind == EVENTS_MISSED:
                    self._tmux.changed.set()
                if event.kind in BACK_AGAIN:
                    try:
                        await self._reattach_all(event.sandbox_id)
                    except FluidError as error:
                        log.warning("the panes of %s stay as they are: %s", event.sandbox_id, error.message)

    async def _reattach_all(self, sandbox_id: str) -> None:
        panes = [pane for pane in await self._tmux.list_panes() if pane.sandbox == sandbox_id]
        for pane in panes:
            sandbox = await self._sandboxes.running(Identity.system(), sandbox_id)
            async with self._audit.step(
                Identity.system(), "pane.reattach", "pane", pane.pane_id, sandbox_id=sandbox_id
            ):
                await self._tmux.respawn_pane(pane.pane_id, await self._shell(sandbox))

    async def _tell(self) -> None:
        known: dict[str, TmuxPane] = {}
        while True:
            try:
                panes = {pane.pane_id: pane for pane in await self._tmux.list_panes()}
            except TmuxDown:
                panes = {}
            if self._recorder is not None:
                await self._recorder.look(panes)
            for pane_id in known.keys() | panes.keys():
                await self._tell_one(known.get(pane_id), panes.get(pane_id))
            await self._clear_away(panes.values())
            known = panes
            await self._tmux.changed.wait()
            self._tmux.changed.clear()

    async def _tell_one(self, before: TmuxPane | None, after: TmuxPane | None) -> None:
        pane = after or before
        if pane is None or (before and after and before.alive == after.alive):
            return
        word = "closed" if after is None else "opened" if before is None or after.alive else "ended"
        if word != "opened":
            self._hands.end(Why.CLOSED, pane_id=pane.pane_id)
        if word == "closed":
            self._hands.typing.pop(pane.pane_id, None)
        await self._events.publish(f"pane.{word}", "pane", pane.pane_id, pane.sandbox, {"alive": pane.alive})

    async def _clear_away(self, panes: Iterable[TmuxPane]) -> None:
        """The ended ones whose sandbox was destroyed, before or after they ended."""
        for pane in panes:
            if not pane.alive and await self._destroyed(pane):
                with contextlib.suppress(FluidError):
                    await self._tmux.kill_pane(pane.pane_id)

    async def _destroyed(self, pane: TmuxPane) -> bool:
        """Whether its sandbox is gone for good; a pane whose guest only stopped keeps its last screen."""
        try:
            await self._sandboxes.get(Identity.system(), pane.sandbox)
        except NotFound:
            return True
        except FluidError:
            return False
        return False


class _Pump:
    """Looks at one pane when it printed, and holds its newest screen for all who follow it."""

    def __init__(self, tmux: TmuxServer, events: EventBus, pane_id: str) -> None:
        self.followers = 0
        self.version = 0
        self.over = False
        self._tmux = tmux
        self._events = events
        self._pane_id = pane_id
        self._shown = TmuxScreen([], None)
        self._changed = asyncio.Condition()
        self._typed = asyncio.Event()
        self._task = asyncio.create_task(self._work())

    async def newer_than(self, version: int) -> TmuxScreen | None:
        """The newest screen once it is newer than ``version``; None when the pane is gone."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.over or (self.version > version and self.version > 0))
            return self._shown if self.version > version and self.version > 0 else None

    def hurry(self) -> None:
        """An operator types: the next look does not wait for its turn."""
        self._typed.set()

    async def stop(self) -> None:
        """The last follower left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        try:
            async with self._tmux.watch(self._pane_id) as watch:
                await self._show()
                async for _ in watch:
                    await asyncio.sleep(FLOOD_QUIET_S)
                    watch.drain()
                    await self._show()
                    await self._rest()
        except (PaneNotFound, TmuxDown):
            pass  # that is the end of the stream, and its followers see it end
        finally:
            self.over = True
            async with self._changed:
                self._changed.notify_all()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAINT_EVERY_S - FLOOD_QUIET_S):
                await self._typed.wait()
        self._typed.clear()

    async def _show(self) -> None:
        shown = await self._tmux.look(self._pane_id)
        if shown == self._shown and self.version:
            return
        async with self._changed:
            self._shown = shown
            self.version += 1
            self._changed.notify_all()
        await self._events.publish("pane.changed", "pane", self._pane_id, persist=False)


def _check(actor: Identity) -> None:
    operators_only(actor, "only operators type into an agent's terminal", remedy="use send-keys on your own")


def _may_see(actor: Identity, pane: TmuxPane) -> bool:
    return actor.role is not Role.AGENT or pane.owner == str(actor.uid)


def _pane(pane: TmuxPane) -> Pane:
    mark = Mark.of(pane.taken)
    return Pane(
        pane_id=pane.pane_id,
        session=pane.session,
        window=pane.window_id,
        sandbox_id=pane.sandbox,
        sandbox_name=pane.session,
        owner_uid=int(pane.owner or -1),
        width=pane.width,
        height=pane.height,
        created_at=pane.created_at,
        last_output_at=pane.last_output_at,
        alive=pane.alive,
        taken_by=mark.name if mark else "",
        taken_at=mark.since if mark else None,
    )
