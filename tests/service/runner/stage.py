"""A whole backend but for its virtual machines: sandbox, twins and production are machines in namespaces.

As a program it approves one request and dies where it is told to: :func:`main` reads its job from standard
input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from backend.ansible import Runner, SshKey, TargetHost
from backend.approvals import ApprovalBook, Approvals, Pipeline, WaysBack
from backend.audit import Audit
from backend.background import Background
from backend.changes import LIMITS, Asker, BlobStore, Differ, NoiseProfile, Told
from backend.changes.dpkg import LOG
from backend.config import Config, TargetsConfig
from backend.models import (
    Approval,
    ApprovalRequest,
    ApprovalState,
    Changes,
    Command,
    Identity,
    Playbook,
    Role,
    RunKind,
    RunningState,
    RunState,
    Sandbox,
    new_id,
    now,
)
from backend.playbooks import Playbooks, Rehearser, Runs, digest, generate
from backend.store import Database, EventBus, Store
from backend.store.pool import Connection
from backend.targets import Keeper, Targets, Wanted
from tests.fix_manifests import Rows, kept_in
from tests.fix_namespaces import Machine, targets_of

WAIT_S = 300.0
KEY = b"k" * 32
AGENT = Identity(uid=2001, name="agent", role=Role.AGENT)
ANNA = Identity(uid=3001, name="anna", role=Role.OPERATOR)
BERT = Identity(uid=3002, name="bert", role=Role.OPERATOR)
# What dpkg knows of the one package that tests install.
SHOPD = {b"/var/lib/dpkg/info/shopd." + word for word in (b"list", b"conffiles", b"md5sums")}
ALL = Wanted(
    frozenset(LIMITS.whole) - {LOG} | SHOPD | {b"/usr/sbin/shopd"},
    frozenset({b"/etc", b"/srv"}),
    folders=frozenset(LIMITS.listed),
)
Make = Callable[[str], Machine]


class Fleet:
    """Where the virtual machines would be: sandbox and twins are made by ``make``."""

    def __init__(self, make: Make, blobs: BlobStore) -> None:
        self._make = make
        self.blobs = blobs
        self.asker = Asker(cast("Any", None), kept_in(Rows()), blobs, KEY, LIMITS)
        self.differ = Differ(cast("Any", None), blobs, KEY, NoiseProfile.load(Path("/nonexistent")))
        self.machines: dict[str, Machine] = {}

    def strategy(self) -> str:
        return "mitogen_linear"

    def versions(self) -> dict[str, str]:
        return {}

    def source_digest(self, _: Sandbox) -> str:
        return "this machine"

    async def load(self, sandbox_id: str) -> Sandbox:
        at = now()
        return Sandbox(
            id=sandbox_id, sandbox_name=sandbox_id.lower(), base_image="here", owner_uid=AGENT.uid,
            created_at=at, updated_at=at,
        )  # fmt: skip

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        return await self.load(sandbox_id)

    async def fork_twin(self, sandbox: Sandbox, *, purpose: str) -> Sandbox:
        twin = await self.load(new_id("SBX"))
        self.machines[twin.id] = await asyncio.to_thread(self._make, twin.id.lower())
        return twin

    async def discard(self, sandbox: Sandbox) -> None:
        self.machines.pop(sandbox.id).stop()

    async def freeze(self, sandbox: Sandbox) -> Told:
        return await self.look(self.machines[sandbox.id])

    async def told(self, sandbox: Sandbox, since: object = None) -> Told:
        return await self.freeze(sandbox)

    async def what_runs(self, sandbox: Sandbox) -> RunningState:
        return RunningState(notes=["a machine in namespaces is not asked"])

    async def look(self, found: Machine) -> Told:
        kept = await Keeper(Targets(targets_of(found)), found.folder, KEY).look(found.name, ALL)
        assert not kept.cut
        return self.asker.without_secrets(kept.told.packed, kept.told.contents)

    @asynccontextmanager
    async def ansible_access(self, sandbox: Sandbox) -> AsyncIterator[tuple[TargetHost, SshKey]]:
        found = self.machines[sandbox.id]
        host = TargetHost("rehearsal", "127.0.0.1", " ".join(found.host_key.split()[:2]), found.port)
        yield host, SshKey((found.folder / "key").read_bytes())


class Stage:
    """The backend. ``folder`` is its state, and outlives it; ``make`` makes its machines."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        bus: EventBus,
        runner: Runner,
        background: Background,
        production: TargetsConfig,
        make: Make,
    ) -> None:
        self.store, self.folder = store, folder
        self.fleet = Fleet(make, BlobStore(folder / "blobs"))
        self.targets = targets = Targets(production)
        fleet = cast("Any", self.fleet)
        audit = Audit(store, folder / "spool", folder / "signing", folder / "head")
        (folder / "kept").mkdir(mode=0o700, exist_ok=True)
        self.keeper = Keeper(targets, folder / "kept", KEY)
        self.runs = Runs(store, bus, audit, runner, timeout_s=600)
        self.playbooks = Playbooks(store, audit, fleet)
        self.book = ApprovalBook(store, bus)
        back = WaysBack(store, audit, fleet, self.playbooks, self.keeper)
        config, calm = Config(), lambda: None
        rehearser = Rehearser(store, fleet, self.runs)
        self.pipeline = Pipeline(
            config, store, self.book, audit, fleet, self.playbooks, rehearser, self.runs, targets, back,
            background, calm, self.operator,
        )  # fmt: skip
        self.approvals = Approvals(
            config,
            store,
            self.book,
            self.pipeline,
            audit,
            fleet,
            self.playbooks,
            self.runs,
            targets,
            back,
            calm,
        )

    def operator(self, uid: int) -> Identity:
        """Who somebody is now."""
        return {ANNA.uid: ANNA, BERT.uid: BERT}[uid]

    async def work(self, sandbox: Machine, commands: Sequence[str]) -> Playbook:
        """What an agent does in its sandbox, and the playbook that comes of it."""
        before = await self.fleet.look(sandbox)
        rows = []
        for number, text in enumerate(commands):
            at = now()
            await asyncio.to_thread(sandbox.run, text)
            rows.append(
                Command(
                    id=f"CMD-{number}",
                    sandbox_id="SBX-1",
                    command=text,
                    exit_code=0,
                    started_at=at,
                    ended_at=now(),
                )
            )
        after = await self.fleet.look(sandbox)
        changes = await self.fleet.differ.diff(
            "SBX-1", "before", "after", before, after, quiesced=True, commands=rows, made_before=True
        )
        draft = generate(changes, rows, self.fleet.blobs, name="a test")
        for content in draft.files.values():
            self.fleet.blobs.put(content)
        return await self.kept(changes, draft.yaml, list(draft.files), draft.secrets)

    async def kept(
        self, changes: Changes, yaml: str, files: list[str] | None = None, secrets: list[str] | None = None
    ) -> Playbook:
        """A playbook of the agent's."""
        changes = changes.model_copy(update={"read_from": "disk"})  # so that a twin is frozen, not asked
        if await self.store.changes.find({"id": changes.id}) is None:
            await self.store.changes.insert(changes)
        return await self.store.playbooks.insert(
            Playbook(
                id=new_id("PBK"),
                name=new_id("PBK").lower(),
                sandbox_id="SBX-1",
                owner_uid=AGENT.uid,
                changes_id=changes.id,
                yaml=yaml,
                files=dict.fromkeys(files or [], 1),
                secrets=secrets or [],
                digest=digest(yaml, files or []),
                created_at=now(),
            )
        )

    async def asked(self, playbook: Playbook) -> Approval:
        """A request whose rehearsal is over."""
        request = ApprovalRequest(
            sandbox_id="SBX-1", playbook=playbook.id, targets=["web-01"], reason="a test"
        )
        return await self.moved(await self.approvals.request(AGENT, request))

    async def reviewed(self, approval: Approval) -> Approval:
        """The same with a dry run."""
        assert approval.state is ApprovalState.PENDING, approval.outcome
        await self.approvals.dry_run(BERT, approval.id)
        await self.idle()
        seen = await self.book.load(approval.id)
        assert seen.digest, (
            self.pipeline.blockers(seen),
            [row.model_dump() for row in seen.evidence.residual],
        )
        return seen

    async def applied(self, approval: Approval, secrets: dict[str, str] | None = None) -> Approval:
        """The same after a yes, at its end."""
        approval = await self.reviewed(approval)
        await self.approvals.approve(BERT, approval.id, approval.digest, secrets=secrets)
        await self.idle()
        return await self.book.load(approval.id)

    async def taken_back(self, approval: Approval) -> Approval:
        """The roll back of its apply, applied."""
        asked = await self.moved(await self.approvals.request_rollback(ANNA, approval.apply_run))
        return await self.applied(asked)

    async def run(self, playbook: Playbook, secrets: dict[str, str]) -> None:
        """Run a playbook on production, and nothing else of an apply."""
        (target,) = self.targets.resolve(["web-01"])
        done = await self.runs.execute(
            RunKind.APPLY,
            playbook,
            self.playbooks.contents(playbook),
            [target.host()],
            self.targets.key("web-01"),
            strategy=self.fleet.strategy(),
            secrets=secrets,
        )
        assert done.state is RunState.SUCCESSFUL, done.reason

    async def moved(self, approval: Approval) -> Approval:
        await self.idle()
        return await self.book.load(approval.id)

    async def idle(self) -> None:
        """Until no stage is under way."""
        words = ("rehearse", "dry run", "apply")
        while tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith(words)]:
            await asyncio.wait(tasks, timeout=WAIT_S)


class Mortal(Database):
    """Ends its process, as by kill -9, when it is asked for one transaction more than ``lives``."""

    def __init__(self, dsn: str, lives: int) -> None:
        super().__init__(dsn)
        self._lives, self.asked = lives, 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        if self.asked == self._lives:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked += 1
        async with super().transaction() as connection:
            yield connection


async def _mortal(job: dict[str, Any]) -> None:
    """Approve a request, see its apply to the end and tell how many transactions that took, or die before."""
    database = Mortal(job["dsn"], job["lives"])
    await database.open()
    store = Store(database)
    bus = EventBus(store.events)
    await bus.open()
    runner = Runner(Path(job["runs"]), run_as=job["run_as"], python=job["python"])
    async with Background() as background:
        production = TargetsConfig.model_validate(job["production"])
        stage = Stage(Path(job["folder"]), store, bus, runner, background, production, _none)
        await stage.approvals.approve(BERT, job["approval"], job["digest"])
        await stage.idle()
        print(database.asked, flush=True)
    await database.close()


def _none(name: str) -> Machine:
    raise AssertionError(f"no machine {name} is needed")


def main() -> None:
    asyncio.run(_mortal(json.loads(sys.stdin.readline())))
