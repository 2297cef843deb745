"""Which SSH CA keys the guests trust: every running one learns a change, whoever was away meanwhile.

A row's ``ca`` names the keys that its guest was given last; one that names others than those of now is
taught anew. So a change that a crash cut off, a lost host and an old key that ends need no book of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from backend.audit import Audit
from backend.errors import FluidError, WrongState
from backend.fleet.core import FleetCore
from backend.guests import CertificateAuthority, PublicCaKey, TrustedKeys
from backend.images.settings import SANDBOX_CA
from backend.models import CaKey, CaView, Identity, Phase, Sandbox
from backend.steps import operation, reached

log = logging.getLogger(__name__)

KEEP_EVERY_S = 5.0
TEACH_TIMEOUT_S = 90.0  # with the wait for whatever is done with it: a restore takes its time
TEACH_AGAIN_S = 60.0  # one that was not reached
MAKING_TIMEOUT_S = 120.0
MAKING_LOOK_S = 0.2
AT_ONCE = 16

Teach = Callable[[Sandbox, TrustedKeys], Awaitable[None]]


class Teaching(FleetCore):
    """How one guest learns the keys."""

    async def teach(self, sandbox: Sandbox, keys: TrustedKeys) -> None:
        """Over SSH; by the channel of its host where that does not reach it. Nothing to do for one that knows
        them, or that runs no more: it is told when it wakes.

        Raises:
            FluidError, TimeoutError: it was not reached.
        """
        async with asyncio.timeout(TEACH_TIMEOUT_S), self.exclusive(sandbox.id):
            sandbox = await self.load(sandbox.id)
            if sandbox.phase is not Phase.RUNNING or sandbox.ca == keys.mark:
                return
            try:
                text = f"{keys.text}\n".encode()
                await self._files.write(self.guest(sandbox), SANDBOX_CA.encode(), text, mode=0o644)
            except FluidError as error:
                log.info("%s learns the CA keys by its channel: %s", sandbox.id, error.message)
                await self.machine(sandbox).trust(sandbox.domain, keys.text)
            await self._store.sandboxes.change(
                sandbox.id, lambda row: row.model_copy(update={"ca": keys.mark})
            )


class Trust:
    """Shows the CA's keys, changes the one that signs, and sees to it that guests follow."""

    def __init__(
        self,
        authority: CertificateAuthority,
        audit: Audit,
        rows: Callable[[], Awaitable[list[Sandbox]]],
        teach: Teach,
    ) -> None:
        """``rows``: every sandbox that is not destroyed."""
        self._authority = authority
        self._audit = audit
        self._rows = rows
        self._teach = teach
        self._turn = asyncio.Lock()
        self._not_before: dict[str, float] = {}  # time.monotonic(), of those that were not reached

    def public_key(self) -> str:
        """The line that a machine's ``TrustedUserCAKeys`` file takes, for who prepares one."""
        return self._authority.public_key

    async def view(self, actor: Identity) -> CaView:
        """The keys, and who does not follow yet."""
        pending, old = self._authority.pending, self._authority.old
        return CaView(
            current=_shown(self._authority.current),
            pending=_shown(pending) if pending else None,
            old=_shown(old) if old else None,
            behind=[row.sandbox_name for row in await self._behind()],
        )

    async def rotate(self, actor: Identity) -> CaView:
        """A new key signs once every guest that can be reached trusts both; the one before stays trusted for
        the life of one certificate.

        Raises:
            WrongState: the last change is not over yet.
        """
        async with self._turn:
            if old := self._authority.old:
                raise WrongState(
                    f"the key before, {old.fingerprint}, is trusted until {old.trusted_until:%H:%M:%S} UTC",
                    remedy="wait until then: certificates of it may be in use",
                )
            await self._change(actor)
        return await self.view(actor)

    async def revoke(self, actor: Identity) -> None:
        """Every certificate that was signed until now is worth nothing: a fresh key signs, and guests trust
        it alone, those that stand still when they wake. A rotation that is under way fails. It waits for no
        database: what is said of it is spooled."""
        before = self._authority.current.fingerprint
        await self._audit.note(actor, "ca.revoke", "ca", before)
        with operation("revoke"):
            self._authority.revoke()
        after = self._authority.current.fingerprint
        await self._audit.outcome(actor, "ca.revoke", "ca", before, ok=True, fingerprint=after)

    async def run(self) -> None:
        """Until cancelled: guests are kept up to date, and what was cut off is finished."""
        while True:
            try:
                await self.keep()
            except FluidError as error:
                log.warning("the CA's keys wait: %s", error.message)
            await asyncio.sleep(KEEP_EVERY_S)

    async def keep(self) -> None:
        """Once: finish a change that was cut off, forget a key whose time is over, teach who is behind."""
        async with self._turn:
            if self._authority.pending:
                await self._change(Identity.system())
            if old := self._authority.retire():
                await self._audit.note(Identity.system(), "ca.retire", "ca", old.fingerprint)
            late = time.monotonic()
            await self._spread([row for row in await self._behind() if self._is_due(row, late)])

    def _is_due(self, row: Sandbox, at: float) -> bool:
        return self._not_before.get(row.id, 0.0) <= at

    async def _change(self, actor: Identity) -> None:
        before = self._authority.current.fingerprint
        async with self._audit.step(actor, "ca.rotate", "ca", before) as step:
            with operation("rotate"):
                self._authority.prepare()
                await self._made_ones()
                missed = await self._spread(await self._behind())
                reached("taught")
                self._authority.switch()
            step.data.update(fingerprint=self._authority.current.fingerprint, missed=missed)

    async def _behind(self) -> list[Sandbox]:
        mark = self._authority.trusted.mark
        return [row for row in await self._rows() if row.phase is Phase.RUNNING and row.ca != mark]

    async def _made_ones(self) -> None:
        """What is being made was given its keys before it can be logged in to; the next one would be locked
        out, so it is waited for."""
        mark = self._authority.trusted.mark
        deadline = time.monotonic() + MAKING_TIMEOUT_S
        while any(row.phase is Phase.CREATING and row.ca not in ("", mark) for row in await self._rows()):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(MAKING_LOOK_S)

    async def _spread(self, rows: Sequence[Sandbox]) -> list[str]:
        """Teach these; the names of those that were not reached."""
        keys, room = self._authority.trusted, asyncio.Semaphore(AT_ONCE)

        async def one(row: Sandbox) -> str | None:
            try:
                async with room:
                    await self._teach(row, keys)
            except (FluidError, TimeoutError) as error:
                log.warning("%s does not learn the CA keys: %s", row.id, error or "it takes too long")
                self._not_before[row.id] = time.monotonic() + TEACH_AGAIN_S
                return row.sandbox_name
            self._not_before.pop(row.id, None)
            return None

        return [name for name in await asyncio.gather(*map(one, rows)) if name]


def _shown(key: PublicCaKey) -> CaKey:
    return CaKey(
        public_key=key.line,
        fingerprint=key.fingerprint,
        since=key.since,
        trusted_until=key.trusted_until,
    )
