"""Stop everything: no apply starts and every sandbox stands still, until an operator releases it. What was
certified before opens no sandbox afterwards.

The state is a file, written before anything else: it outlives a restart and needs no database. An apply that
runs already is not cut off half-way: it is named, and can be aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from backend.audit import Audit
from backend.errors import DatabaseDown, FluidError, NoSpace, PanicActive, WrongState
from backend.models import Component, Identity, PanicView, Phase, Role, Sandbox, now
from backend.store import OUTAGES, EventBus
from backend.whole_files import write_lasting

AT_ONCE = 8
EACH_S = 30.0
REASON = "panic: every sandbox was paused"
RELEASE = "fluid panic --release"
Paused = tuple[list[str], dict[str, str]]
"""The ids of what was paused, and by name why the rest was not."""


class Machines(Protocol):
    """The part of the fleet that is needed here."""

    async def list(self, actor: Identity, /, *, limit: int = ...) -> tuple[Sequence[Sandbox], int]: ...
    async def pause(self, actor: Identity, sandbox_id: str, *, reason: str = ...) -> Sandbox: ...
    async def resume(self, actor: Identity, sandbox_id: str) -> Sandbox: ...
    async def stand_still(self) -> Paused: ...
    def heed(self, refuse: Callable[[], None], /) -> None: ...


class Panic:
    """One for the installation. ``file`` is there exactly while the panic lasts."""

    def __init__(
        self,
        file: Path,
        fleet: Machines,
        revoke: Callable[[Identity], Awaitable[None]],
        audit: Audit,
        events: EventBus,
    ) -> None:
        """``revoke`` makes every certificate that was signed until then worth nothing."""
        self._file = file
        self._fleet = fleet
        self._revoke = revoke
        self._audit = audit
        self._events = events
        self._view = _load(file)
        self._starts = 0
        self._changing = asyncio.Lock()
        fleet.heed(self.refuse_new)

    @property
    def view(self) -> PanicView | None:
        """What was done, while it lasts."""
        return self._view

    def refuse(self) -> None:
        """Raises :class:`PanicActive` while it lasts."""
        if self._view is not None:
            raise PanicActive(f"nothing is applied: {self._words()}", remedy=f"release it: {RELEASE}")

    def refuse_agent(self, actor: Identity) -> None:
        """No agent has a sandbox running again meanwhile. Raises :class:`PanicActive` while it lasts."""
        if actor.role is Role.AGENT:
            self.refuse_new()

    def refuse_new(self) -> None:
        """Nothing is made meanwhile, for whomever. Raises :class:`PanicActive` while it lasts."""
        if self._view is not None:
            raise PanicActive(
                f"no sandbox starts or goes on: {self._words()}", remedy=f"wait for an operator: {RELEASE}"
            )

    async def start(self, actor: Identity) -> PanicView:
        """Block applies, pause what runs, revoke certificates. What could not be paused is in the answer;
        again: tries it again. It waits for no database: without one, what runs is what libvirt says. Nor does
        it wait for a disk.

        Raises:
            OSError: what runs is paused, and the disk takes no word of it.
        """
        self._starts += 1  # a release under way lifts nothing any more
        self._view = view = self._view or _begun_by(actor)  # from here on nothing is applied
        with suppress(OSError):  # it is tried again below, once nothing runs
            await asyncio.to_thread(_save, self._file, view)
        async with self._changing:
            self._view = view = self._view or _begun_by(actor)  # a release may have come between
            unsaid = None
            try:
                await self._audit.note(actor, "panic", "panic")
            except OSError as error:
                unsaid = error
            try:
                done, view.failed = await self._pause(actor)
            except OUTAGES:
                done, view.failed = await self._fleet.stand_still()
            view.paused = sorted({*view.paused, *done})
            await asyncio.to_thread(_save, self._file, view)
            await self._revoke_once(actor, view)
        if unsaid:
            raise unsaid
        await self._events.publish("host.changed", "host", "panic")
        return view

    async def _pause(self, actor: Identity) -> Paused:
        """Also what is off may be on its way: a pause waits for who is at work on it."""
        rows, _ = await self._fleet.list(actor, limit=10_000)
        failed = await _each(rows, lambda row: self._fleet.pause(actor, row.id, reason=REASON))
        done = [row.id for row in rows if row.sandbox_name not in failed]
        failed = {name: error for name, error in failed.items() if not isinstance(error, WrongState)}
        if not any(isinstance(error, (DatabaseDown, NoSpace)) for error in failed.values()):
            return done, _told(failed)
        others, untold = await self._fleet.stand_still()  # it can be read, and takes nothing
        return [*done, *others], untold

    async def release(self, actor: Identity) -> PanicView:
        """Let applies start again, and thaw what the panic paused: each trusts the CA key of now first.

        Raises:
            WrongState: there is no panic.
            PanicActive: somebody asked for it again meanwhile, and it goes on.
        """
        starts = self._starts

        async def thaw(row: Sandbox) -> None:
            if self._starts == starts:
                await self._fleet.resume(actor, row.id)

        async with self._changing:
            if (view := self._view) is None:
                raise WrongState("there is no panic to release", remedy="nothing is left to do")
            await self._audit.note(actor, "panic.release", "panic", paused=len(view.paused))
            await self._revoke_once(actor, view)
            rows, _ = await self._fleet.list(actor, limit=10_000)
            ours = [row for row in rows if row.id in view.paused and row.phase is Phase.PAUSED]
            view.failed = _told(await _each(ours, thaw))
            if self._starts != starts:
                view.revoked = False  # what was signed since is of no worth either
                raise PanicActive(
                    "the panic was asked for again meanwhile, and goes on",
                    remedy=f"release it again: {RELEASE}",
                )
            self._view = None
            await asyncio.to_thread(self._file.unlink, missing_ok=True)
        await self._events.publish("host.changed", "host", "panic")
        return view

    async def _revoke_once(self, actor: Identity, view: PanicView) -> None:
        """At the latest before anything goes on."""
        if not view.revoked:
            await self._revoke(actor)
            view.revoked = True
            await asyncio.to_thread(_save, self._file, view)

    async def component(self) -> Component:
        """Seen in the top line of every console for as long as it lasts."""
        if self._view is None:
            return Component(name="panic", status="ok")
        return Component(name="panic", status="ON", message=self._words(), remedy=RELEASE)

    def _words(self) -> str:
        view = self._view
        return f"panic since {view.since:%H:%M} UTC by {view.by}, {len(view.paused)} paused" if view else ""


def _begun_by(actor: Identity) -> PanicView:
    return PanicView(since=now(), by=actor.name or f"uid {actor.uid}")


async def _each(
    rows: Sequence[Sandbox], act: Callable[[Sandbox], Awaitable[object]]
) -> dict[str, FluidError | TimeoutError]:
    """Act on all of them, a few at once; who failed, by name, and of what."""
    gate, failed = asyncio.Semaphore(AT_ONCE), dict[str, FluidError | TimeoutError]()

    async def one(row: Sandbox) -> None:
        try:
            async with gate, asyncio.timeout(EACH_S):
                await act(row)
        except (FluidError, TimeoutError) as error:
            failed[row.sandbox_name] = error

    async with asyncio.TaskGroup() as tasks:
        for row in rows:
            tasks.create_task(one(row))
    return failed


def _told(failed: Mapping[str, Exception]) -> dict[str, str]:
    return {name: str(error) or f"no answer within {EACH_S:g} s" for name, error in failed.items()}


def _load(file: Path) -> PanicView | None:
    """A file that cannot be read still means panic: blocked is the safe side."""
    try:
        return PanicView.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return PanicView(since=now(), by=f"{file.name}, which cannot be read")


def _save(file: Path, view: PanicView) -> None:
    write_lasting(file, view.model_dump_json().encode())
