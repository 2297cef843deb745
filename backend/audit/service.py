"""The audit: an intent row commits before an effect, an outcome row after it, every row linked to the last.

With the database gone or full no new effect starts (``intent`` raises), while outcomes and notes of what
already runs are spooled to disk and chained in before anything else once it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.audit.chain import EMPTY, ChainCheck, Draft, Head, Link, link, plain, timestamp
from backend.audit.head import SignedHead, Signer
from backend.audit.spool import Spool
from backend.errors import AuditBroken, Conflict, FluidError
from backend.models import AuditRow, Identity, now
from backend.store import OUTAGES, Store

log = logging.getLogger(__name__)

SYSTEM = Identity.system()
SEAL_EVERY_S = 60.0
DECISION_SEAL_S = 2.0  # a disk that is busy with memory files keeps nobody who answers longer than this
SPOOL_PART = 1_000  # rows of a spool that are committed at once: a statement has a time limit
APPEND_ATTEMPTS = 5  # another writer may append between our read of the head and our insert
DECISIONS = frozenset({"approval.approve", "approval.reject", "ask.answer", "panic", "panic.release"})

VERIFIER = Path(__file__).with_name("verifier.py")

Page = tuple[list[AuditRow], int]
Links = list[Link]


@dataclass(frozen=True)
class AuditReport:
    """What a verification found. ``first_bad`` is the number of the first row that does not hold; ``reason``
    tells of one that is ``ok`` what it could not see."""

    ok: bool
    rows: int
    first_bad: int | None = None
    reason: str = ""


@dataclass
class Step:
    """An effect under way: the outcome row will hold ``data`` and these ids, also where they are new."""

    id: str = ""
    sandbox_id: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Audit:
    """One a backend. ``signing_key`` and ``head_file`` are outside the database."""

    def __init__(self, store: Store, spool_folder: Path, signing_key: Path, head_file: Path) -> None:
        self._rows = store.audit
        self._spool = Spool(spool_folder)
        self._signer = Signer(signing_key)
        self._head_file = head_file
        self._has_signed = not self._signer.new
        self._head: Head | None = None  # None: ask the database
        self._seen = EMPTY  # as far as all was well once
        self._all_well = False
        self._waiting: list[tuple[Draft, asyncio.Future[Link]]] = []
        self._writing = asyncio.Lock()
        self._spooling = asyncio.Lock()
        self._sealing = asyncio.Lock()  # heads reach the file in the order in which they were read
        self._owed: set[asyncio.Task[None]] = set()  # seals that a slow disk still keeps
        self._spool_dirty = self._spool.file.exists()

    @property
    def public_key_file(self) -> Path:
        """For a verifier elsewhere (PEM)."""
        return self._signer.public_file

    # --- writing ------------------------------------------------------------------------------------------

    async def intent(
        self, actor: Identity, action: str, noun: str = "", id: str = "", sandbox_id: str = "", **data: Any
    ) -> AuditRow:
        """Say what is about to be done; returns once that is committed. If it raises, the
        effect must not start."""
        return await self._append(_draft(actor, action, "intent", noun, id, sandbox_id, data))

    async def outcome(
        self, actor: Identity, action: str, noun: str = "", id: str = "", sandbox_id: str = "", **data: Any
    ) -> AuditRow:
        """Say how it ended. A row that had to be spooled has ``seq`` 0 until it is chained in."""
        row = await self._append_or_spool(_draft(actor, action, "outcome", noun, id, sandbox_id, data))
        if action in DECISIONS and row.seq:
            await self._seal_a_decision()
        return row

    async def note(
        self, actor: Identity, action: str, noun: str = "", id: str = "", sandbox_id: str = "", **data: Any
    ) -> AuditRow:
        """Say what is no effect of ours: a refusal, a login, a state seen. Spooled like an outcome."""
        return await self._append_or_spool(_draft(actor, action, "note", noun, id, sandbox_id, data))

    @asynccontextmanager
    async def step(
        self, actor: Identity, action: str, noun: str = "", id: str = "", sandbox_id: str = "", **data: Any
    ) -> AsyncIterator[Step]:
        """Intent before the block, outcome after it, with ``ok`` or the error's code and ``step.data``.

        The error goes on to the caller. A cancelled block has the outcome ``cancelled``.
        """
        begun = await self.intent(actor, action, noun, id, sandbox_id, **data)
        step = Step(id=id, sandbox_id=sandbox_id)
        ended: dict[str, Any] = {"ok": True}
        try:
            yield step
        except BaseException as error:
            ended = {"ok": False, **_words(error)}
            raise
        finally:
            facts = {**step.data, **ended, "intent": begun.seq}
            last = self.outcome(actor, action, noun, step.id, step.sandbox_id, **facts)
            await asyncio.shield(asyncio.ensure_future(last))

    async def seal(self) -> SignedHead:
        """Sign the head and write it to the head file.

        Raises:
            AuditBroken: the chain does not hold the head that was signed last; that file is kept as evidence.
        """
        if self._head_file.exists():
            last = SignedHead.load(self._head_file)
            if last.seq and await self._rows.hash_at(last.seq) != last.hash:
                raise AuditBroken(
                    f"the audit no longer holds row {last.seq} as it was signed at {last.at}",
                    remedy="run `fluid audit verify`, and keep a copy of the head file",
                )
        head = Head(*await self._rows.head())
        if self._has_signed and not self._head_file.exists():
            log.error("audit: %s is gone, and is made anew", self._head_file)
            row = await self.note(SYSTEM, "audit.head", reason="the signed head was gone, and is made anew")
            head = Head(row.seq, row.hash) if row.seq else head
        signed = self._signer.sign(head, timestamp(now()))
        await asyncio.to_thread(signed.save, self._head_file)
        self._has_signed = True
        return signed

    async def run(self) -> None:
        """Until cancelled: each minute chain in what was spooled, and seal."""
        while True:
            with contextlib.suppress(*OUTAGES):
                await self.absorb()
            await self._try_seal()
            await asyncio.sleep(SEAL_EVERY_S)

    async def _try_seal(self) -> None:
        """What was done is done and recorded: a seal that fails is for the log and for ``verify``."""
        async with self._sealing:
            try:
                await self.seal()
            except (FluidError, OSError) as error:
                log.error("audit: the head was not signed: %s", error)

    async def _seal_a_decision(self) -> None:
        """At once. What takes longer than :data:`DECISION_SEAL_S` is finished without its caller."""
        sealing = asyncio.create_task(self._try_seal())
        self._owed.add(sealing)
        sealing.add_done_callback(self._owed.discard)
        await asyncio.wait([sealing], timeout=DECISION_SEAL_S)

    async def absorb(self) -> None:
        """Chain in what was spooled, if anything was."""
        if self._spool_dirty:
            async with self._writing:
                await self._absorb()

    # --- reading ------------------------------------------------------------------------------------------

    async def list(self, *, limit: int = 200, after_seq: int = 0, **filters: Any) -> Page:
        """Rows, newest first, and how many match. ``filters``: sandbox_id, id, noun, action, actor_uid."""
        found, total = await self._rows.list(filters, after_seq=after_seq, limit=limit)
        return [Link(0, line, hash_).row() for line, hash_ in found], total

    async def export(self) -> AsyncIterator[str]:
        """The chain as JSON Lines, as the stand-alone verifier reads it."""
        async for batch in self._rows.stream():
            for line, hash_ in batch:
                yield f'{{"hash":"{hash_}",{line[1:]}\n'  # the line's own brace makes room for it

    async def proof(self) -> dict[str, Any]:
        """What whoever verifies rows elsewhere needs beside an export of the chain: the ``head`` that was
        signed last (None: none yet), the ``key`` (PEM) and the ``verifier``, a program."""

        def read() -> dict[str, Any]:
            head = asdict(SignedHead.load(self._head_file)) if self._head_file.exists() else None
            key = self.public_key_file.read_text(encoding="ascii")
            return {"head": head, "key": key, "verifier": VERIFIER.read_text(encoding="utf-8")}

        return await asyncio.to_thread(read)

    async def verify(self, *, whole: bool = True, kept: SignedHead | None = None) -> AuditReport:
        """Check every row, the links, the signed head, and a copy of an earlier one that somebody ``kept``
        elsewhere. Not ``whole``: of the rows those that came since the last time, if all was well then."""
        anchors: dict[int, str] = {}
        if kept is not None and not self._signer.verify(kept):
            return AuditReport(False, 0, None, "the kept head was not signed by this installation")
        if self._head_file.exists():
            try:
                signed = SignedHead.load(self._head_file)
            except AuditBroken as error:
                return AuditReport(False, 0, None, error.message)
            if not self._signer.verify(signed):
                words = f"{self._head_file} was not signed by this installation"
                return AuditReport(False, 0, signed.seq, words)
            anchors[signed.seq] = signed.hash
        if kept is not None and anchors.setdefault(kept.seq, kept.hash) != kept.hash:
            words = "it was signed with another hash once: the chain was rewritten"
            return AuditReport(False, 0, kept.seq, words)
        anchors.pop(EMPTY.seq, None)
        unseen = "" if anchors else "no signed head: a cut tail would not be seen"
        if self._seen.seq:
            anchors.setdefault(self._seen.seq, self._seen.hash)
        goes_on = not whole and self._all_well and await self._holds(anchors)
        check = ChainCheck(anchors, self._seen if goes_on else EMPTY)
        async with contextlib.aclosing(self._rows.stream(check.rows)) as batches:
            async for batch in batches:
                if not await asyncio.to_thread(check.feed, batch):
                    break
        check.finish()
        self._all_well = check.ok and (self._all_well or not goes_on)
        if check.ok:
            self._seen = check.head
        return AuditReport(check.ok, check.rows, check.first_bad, check.reason or unseen)

    async def _holds(self, anchors: dict[int, str]) -> bool:
        """Whether those of the rows that were checked before are where they were."""
        before = [(seq, hash_) for seq, hash_ in anchors.items() if seq <= self._seen.seq]
        return all([await self._rows.hash_at(seq) == hash_ for seq, hash_ in before])

    # --- how a row gets its place ---------------------------------------------------------------------------

    async def _append(self, draft: Draft) -> AuditRow:
        """Wait for a place in the chain. Rows that wait together are committed together."""
        future: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, future))
        # Shielded: whoever leads a batch commits for others, who did not cancel.
        leading = asyncio.ensure_future(self._lead(future))
        await asyncio.shield(leading)
        return (await future).row()

    async def _lead(self, mine: asyncio.Future[Link]) -> None:
        async with self._writing:
            if mine.done():
                return
            batch, self._waiting = self._waiting, []
            try:
                if self._spool_dirty:
                    await self._absorb()
                links = await self._commit([draft for draft, _ in batch])
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
                    future.exception()  # marked as seen: a caller that was cancelled does not ask
                return
            for (_, future), one in zip(batch, links, strict=True):
                future.set_result(one)

    async def _commit(self, drafts: Sequence[Draft]) -> Links:
        for _ in range(APPEND_ATTEMPTS):
            head = self._head or Head(*await self._rows.head())
            links, after = link(drafts, head)
            self._head = None  # whatever happens now, the database knows better, until it said yes
            try:
                await self._rows.append([(one.line, one.hash) for one in links])
            except Conflict:
                continue
            self._head = after
            return links
        raise AuditBroken(
            "another program keeps appending to this audit", remedy="run one backend on one database"
        )

    async def _append_or_spool(self, draft: Draft) -> AuditRow:
        try:
            return await self._append(draft)
        except OUTAGES as error:
            async with self._spooling:
                kept = await asyncio.to_thread(self._spool.add, draft)
                self._spool_dirty = True
            log.warning("audit: %s of %s is spooled: %s", draft["action"], draft["id"], error.message)
            return AuditRow.model_validate({**kept, "seq": EMPTY.seq})

    async def _absorb(self) -> None:
        async with self._spooling:
            drafts = await asyncio.to_thread(self._spool.read)
            for start in range(0, len(drafts), SPOOL_PART):
                part = drafts[start : start + SPOOL_PART]
                known = await self._rows.spooled([draft["data"]["spool_id"] for draft in part])
                fresh = [draft for draft in part if draft["data"]["spool_id"] not in known]
                if fresh:
                    await self._commit(fresh)
            await asyncio.to_thread(self._spool.forget)
            self._spool_dirty = False


def _draft(
    actor: Identity, action: str, step: str, noun: str, id: str, sandbox_id: str, data: dict[str, Any]
) -> Draft:
    fields = {
        "at": now(),
        "actor_uid": actor.uid,
        "actor_name": actor.name,
        "role": actor.role.value,
        "action": action,
        "step": step,
        "noun": noun,
        "id": id,
        "sandbox_id": sandbox_id,
        "data": data,
    }
    return {key: plain(value) for key, value in fields.items()}


def _words(error: BaseException) -> dict[str, str]:
    if isinstance(error, FluidError):
        return {"error": error.code, "message": error.message}
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return {"error": "cancelled"}
    return {"error": "internal", "message": type(error).__name__}
