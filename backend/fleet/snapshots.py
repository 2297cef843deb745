"""Points in time: memory, a frozen disk layer, the manifest of the file system; and what lies between."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from backend.changes import Earlier, Point, Taken, Told, running
from backend.errors import (
    DiskUnreadable,
    DuplicateName,
    FluidError,
    HypervisorFailed,
    InvalidValue,
    SnapshotNotFound,
    WrongState,
)
from backend.fleet.core import FleetCore
from backend.hypervisor import Hypervisor, SnapshotFiles
from backend.models import (
    FROM_DISK,
    FROM_GUEST,
    Changes,
    Identity,
    Phase,
    Role,
    RunningState,
    Sandbox,
    Snapshot,
    SnapshotRequest,
    check_name,
    new_id,
    now,
)
from backend.models.sandbox import STANDING_ON
from backend.steps import reached
from backend.together import together

NOW = "now"
RESTORE_TIMEOUT_S = 60
MAX_TYPED = 10_000  # rows of the audit, the last ones
UNREADABLE = (DiskUnreadable, HypervisorFailed)
"""A disk that is refused, and a layer that does not come."""


class Snapshots(FleetCore):
    """Snapshot, restore, diff."""

    async def snapshot(
        self, actor: Identity, sandbox_id: str, request: SnapshotRequest, *, auto: bool = False
    ) -> Snapshot:
        """A named point with memory. Duplicate names are refused; so is ``now``, which means the present.
        ``auto``: made by policy, not by somebody's wish."""
        sandbox = await self.running(actor, sandbox_id)
        name = check_name(request.name, "snapshot name")
        async with self.alone(sandbox, Phase.RUNNING):
            earlier = await self._points(sandbox)
            if name == NOW or any(other.name == name for other in earlier):
                raise DuplicateName(
                    f"{sandbox.sandbox_name} has a snapshot {name!r}", remedy="choose another name"
                )
            async with self.space_for(f"snapshot of {sandbox.id}", self.host_of(sandbox), sandbox.memory_mb):
                snapshot = await self._make_point(actor, sandbox, name, earlier, note=request.note, auto=auto)
        await self._events.publish(
            "snapshot.created", "snapshot", snapshot.id, sandbox_id=sandbox.id, data={"name": name}
        )
        return snapshot

    async def _make_point(
        self, actor: Identity, sandbox: Sandbox, name: str, earlier: list[Snapshot], *, note: str, auto: bool
    ) -> Snapshot:
        started = time.monotonic()
        async with (
            self.audited(actor, "snapshot.create", sandbox, name=name) as step,
            self.ahead(sandbox, "snapshot", name, step=step),
        ):
            await self.merge_layers(sandbox)
            files = await self.machine(sandbox).snapshot(sandbox.domain, name, memory=True)
            layers = _base_first(files)
            (read_from, manifest, names), runs = await together(
                self._manifest(sandbox, layers, earlier), self.what_runs(sandbox)
            )
            reached("manifest")
            snapshot = Snapshot(
                id=new_id("SNP"),
                sandbox_id=sandbox.id,
                name=name,
                ref=str(files.memory_file or ""),
                created_at=now(),
                note=note,
                auto=auto,
                parent=sandbox.stands_on,
                quiesced=files.quiesced,
                has_memory=files.memory_file is not None,
                disk_layers=[str(layer) for layer in layers],
                memory_file=str(files.memory_file or ""),
                read_from=read_from,
                manifest_sha256=manifest,
                files=names,
                running=runs,
                took_s=round(time.monotonic() - started, 3),
                meta_json=json.dumps({"stood_still_s": files.stood_still_s}),
            )
            await self._store.snapshots.insert(snapshot)
            reached("row")
            step.data.update(manifest=manifest, quiesced=files.quiesced, read_from=read_from)
            await self._standing_on(sandbox, name)
        return snapshot

    async def _manifest(
        self, sandbox: Sandbox, layers: list[Path], earlier: list[Snapshot]
    ) -> tuple[str, str, int]:
        """Where it was read, its name, how many names it has. The guest is asked where its disk cannot be
        read."""
        parent = next((one for one in earlier if one.name == sandbox.stands_on), None)
        try:
            taken = await self._take(sandbox, layers, parent)
            return FROM_DISK, taken.sha256, taken.names
        except UNREADABLE as refused:
            since = await self._kept(parent) if parent and parent.read_from == FROM_GUEST else None
            told = await self._ask(sandbox, refused, since)
            return FROM_GUEST, await self._parts.asker.keep(told), len(told.nodes)

    async def _take(self, sandbox: Sandbox, layers: list[Path], parent: Snapshot | None) -> Taken:
        """From the disk, from what changed since ``parent`` where that was read from the disk too."""
        local, since = await self._readable(sandbox, layers), None
        if parent and parent.read_from == FROM_DISK:
            with suppress(*UNREADABLE):
                earlier = await self._readable(sandbox, await self._layers(sandbox, parent))
                since = Earlier(parent.manifest_sha256, earlier)
        return await self._parts.manifests.take(local, since)

    async def _ask(self, sandbox: Sandbox, refused: FluidError, since: Told | None = None) -> Told:
        """What the guest says of its files. Raises ``refused`` when it does not say it either."""
        try:
            return await self._parts.asker.ask(self.guest(sandbox), since)
        except FluidError as error:
            raise DiskUnreadable(f"{refused.message}; {error.message}", remedy=refused.remedy) from error

    async def _kept(self, snapshot: Snapshot) -> Told:
        return await self._parts.asker.kept(snapshot.manifest_sha256)

    async def told(self, sandbox: Sandbox, since: Point | None = None) -> Told:
        """As :meth:`freeze`, of one whose disk cannot be read: what the guest says, with the contents of what
        is another than ``since``."""
        return await self._parts.asker.ask(self.guest(sandbox), since if isinstance(since, Told) else None)

    async def what_runs(self, sandbox: Sandbox) -> RunningState:
        """What the guest says listens and runs in it now. That is no failure, and never takes long: where it
        says nothing, the notes say why."""
        if sandbox.phase is not Phase.RUNNING:
            return RunningState(notes=[f"what listens and runs was not asked: it is {sandbox.phase}"])
        return await self._parts.asker.running(self.guest(sandbox))

    async def _ran(self, sandbox: Sandbox, point: Snapshot | None) -> RunningState | None:
        """As it was told at a point (None: it was not asked), or now."""
        return await self.what_runs(sandbox) if point is None else point.running

    async def snapshots(self, actor: Identity, sandbox_id: str) -> list[Snapshot]:
        """Oldest first; ``parent`` makes them a tree."""
        sandbox = await self.get(actor, sandbox_id)
        return await self._points(sandbox)

    async def first_snapshot(self, actor: Identity, sandbox_id: str) -> str:
        """The name of the oldest that somebody asked for."""
        found = [point for point in await self.snapshots(actor, sandbox_id) if not point.auto]
        if not found:
            raise SnapshotNotFound(
                f"{sandbox_id} has no snapshot", remedy="make one before you change anything"
            )
        return found[0].name

    async def restore(self, actor: Identity, sandbox_id: str, name: str) -> Sandbox:
        """Back to a point: memory, disk, address, processes. Later snapshots stay.

        Raises:
            NoSpace: the host's reserve of disk or memory would be touched. Nothing was begun.
        """
        sandbox = await self.get(actor, sandbox_id)
        async with self.alone(sandbox, Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.ERROR):
            snapshot = await self._named(sandbox, name)
            # A copy of the point's memory lies there while it starts.
            copy_mb = sandbox.memory_mb if snapshot.has_memory else 0
            is_off = sandbox.phase in (Phase.STOPPED, Phase.ERROR)
            async with (
                self.space_for(f"restore of {sandbox.id}", self.host_of(sandbox), copy_mb),
                self.memory_for(sandbox) if is_off else nullcontext(),
                self.audited(actor, "snapshot.restore", sandbox, name=name) as step,
                self.ahead(sandbox, "restore", name, step=step),
            ):
                await self._put_back(sandbox, snapshot)
                await self._standing_on(sandbox, name)
        await self._events.publish(
            "snapshot.restored", "snapshot", snapshot.id, sandbox_id=sandbox.id, data={"name": name}
        )
        return sandbox

    async def _put_back(self, sandbox: Sandbox, snapshot: Snapshot) -> None:
        await self.hang_up(sandbox)
        keys = self._parts.authority.trusted
        files = await snapshot_files(self.machine(sandbox), snapshot)
        await self.machine(sandbox).restore(sandbox.domain, files, ca_public=keys.text)
        await self._guests.ready(self.guest(sandbox), timeout_s=RESTORE_TIMEOUT_S)
        await self.open_egress(sandbox)
        await self.woken(sandbox, keys)

    async def delete_snapshot(self, actor: Identity, sandbox_id: str, name: str) -> int:
        """Forget a point, anywhere in the tree; what stood on it stands on its parent then. A second
        try finishes one that was cut off.

        Returns the bytes that the host's disk has again.
        """
        sandbox = await self.get(actor, sandbox_id)
        async with self.alone(sandbox):
            snapshot = await self._named(sandbox, name)
            async with (
                self._audit.step(
                    actor, "snapshot.delete", "snapshot", snapshot.id, sandbox_id=sandbox.id, name=name
                ) as step,
                self.ahead(sandbox, "forget", name),
            ):
                freed = step.data["freed_bytes"] = await self._drop_point(sandbox, snapshot)
        await self._events.publish(
            "snapshot.deleted", "snapshot", snapshot.id, sandbox_id=sandbox.id, data={"name": name}
        )
        return freed

    async def _drop_point(self, sandbox: Sandbox, snapshot: Snapshot) -> int:
        freed = await self._forget(sandbox, snapshot.name)
        for other in await self._points(sandbox):
            if other.parent == snapshot.name:
                other.parent = snapshot.parent
                await self._store.snapshots.save(other)
        if sandbox.stands_on == snapshot.name:
            await self._standing_on(sandbox, snapshot.parent)
        await self._store.snapshots.delete(snapshot.id)
        reached("row gone")
        return freed

    async def diff(
        self, actor: Identity, sandbox_id: str, from_snapshot: str, to_snapshot: str, to_sandbox: str = ""
    ) -> Changes:
        """What changed from one point to another (or to ``now``), read from the disk; where that cannot be
        read, by asking the guest. Between two named points the answer is kept and is the same the second
        time. ``to_sandbox``: as :meth:`_diff_of_two`."""
        sandbox = await self.get(actor, sandbox_id)
        if to_sandbox and (other := await self.get(actor, to_sandbox)).id != sandbox.id:
            return await self._diff_of_two(actor, (sandbox, from_snapshot), (other, to_snapshot))
        before, after = (
            await self._named(sandbox, from_snapshot),
            await self._named_or_now(sandbox, to_snapshot),
        )
        if after is not None:
            points = {"sandbox_id": sandbox.id, "from_snapshot": from_snapshot, "to_snapshot": to_snapshot}
            kept = await self._store.changes.find(points)
            if kept and kept.created_at >= max(before.created_at, after.created_at):  # else of one gone
                return kept
        commands = await self._store.commands.log(sandbox.id)
        typed = await self._typed(sandbox)
        changes: Changes
        async with self._standing(sandbox, after) as (layers, quiesced):
            make = partial(
                self._parts.differ.diff,
                sandbox.id,
                from_snapshot,
                to_snapshot,
                quiesced=quiesced and before.quiesced,
                commands=commands,
                typed=typed,
            )

            async def compared() -> Changes:
                try:
                    earlier = await self._readable(sandbox, await self._layers(sandbox, before))
                    return await make(earlier, await self._readable(sandbox, layers))
                except UNREADABLE as refused:
                    return await make(*await self._told_points(sandbox, before, after, refused))

            changes, runs = await together(compared(), self._ran(sandbox, after))
        changes.running = running.compare(before.running, runs, from_snapshot, to_snapshot)
        await self._store.changes.insert(changes)
        await self._note_diff(actor, changes)
        return changes

    async def _typed(self, sandbox: Sandbox) -> list[tuple[float, float]]:
        """From when to when somebody's keys went to the sandbox's terminals, in epoch seconds."""
        rows = [
            row
            for action in ("pane.type", "pane.take_over", "pane.hand_back")
            for row in (await self._audit.list(limit=MAX_TYPED, sandbox_id=sandbox.id, action=action))[0]
        ]
        found: list[tuple[float, float]] = []
        taken: dict[str, float] = {}
        for row in sorted(rows, key=lambda row: row.seq):
            at = row.at.timestamp()
            if row.action == "pane.take_over":
                taken.setdefault(row.id, at)
            else:
                found.append((taken.pop(row.id, at) if row.action == "pane.hand_back" else at, at))
        return found + [(at, math.inf) for at in taken.values()]

    async def _diff_of_two(
        self, actor: Identity, before: tuple[Sandbox, str], after: tuple[Sandbox, str]
    ) -> Changes:
        """What the second sandbox has otherwise than the first, each at a point of its own or as it is. Read
        from the disks only, and not kept.

        Raises:
            InvalidValue: they are not of one source.
        """
        (one, from_snapshot), (other, to_snapshot) = before, after
        if (one.base_image, one.image_sha256) != (other.base_image, other.image_sha256):
            raise InvalidValue(
                f"{one.sandbox_name} and {other.sandbox_name} are not forks of the same source",
                remedy="compare two sandboxes of one source",
            )
        disks: list[list[Path]] = []
        points: list[Snapshot | None] = []
        quiesced = True
        changes: Changes
        async with AsyncExitStack() as stack:
            for sandbox, name in (before, after):
                points.append(await self._named_or_now(sandbox, name))
                standing = self._standing(sandbox, points[-1])
                layers, stood_still = await stack.enter_async_context(standing)
                disks.append(await self._readable(sandbox, layers))
                quiesced = quiesced and stood_still
            changes, *runs = await together(
                self._parts.differ.diff(one.id, from_snapshot, to_snapshot, *disks, quiesced=quiesced),
                self._ran(one, points[0]),
                self._ran(other, points[1]),
            )
        changes.to_sandbox = other.id
        names = (f"{sandbox.sandbox_name} {name}" for sandbox, name in (before, after))
        changes.running = running.compare(*runs, *names)
        await self._note_diff(actor, changes)
        return changes

    async def _named_or_now(self, sandbox: Sandbox, name: str) -> Snapshot | None:
        """None: now."""
        return None if name == NOW else await self._named(sandbox, name)

    @asynccontextmanager
    async def _standing(
        self, sandbox: Sandbox, point: Snapshot | None
    ) -> AsyncIterator[tuple[list[Path], bool]]:
        """The frozen layers of a point, or of now, on its host; did the guest stand still? They, and those of
        its other points, stay as they are for the time of the block."""
        if point is None:
            async with self.frozen(sandbox) as found:
                yield found
        else:
            async with self.reading(sandbox.id):
                yield await self._layers(sandbox, point), point.quiesced

    async def _layers(self, sandbox: Sandbox, point: Snapshot) -> list[Path]:
        """The frozen layers of a point on its host, base first."""
        return _base_first(await snapshot_files(self.machine(sandbox), point))

    async def _note_diff(self, actor: Identity, changes: Changes) -> None:
        other = {"to_sandbox": changes.to_sandbox} if changes.to_sandbox else {}
        await self._audit.note(
            actor,
            "sandbox.diff",
            "changes",
            changes.id,
            sandbox_id=changes.sandbox_id,
            files=len(changes.files),
            read_from=changes.read_from,
            **other,
        )

    async def _told_points(
        self, sandbox: Sandbox, before: Snapshot, after: Snapshot | None, refused: FluidError
    ) -> tuple[Told, Told]:
        """Both points by the guest's word (``after`` None: now). Raises ``refused`` unless both can be."""
        if after is None and sandbox.phase is not Phase.RUNNING:
            raise refused
        for point in filter(None, (before, after)):
            if point.read_from != FROM_GUEST:
                raise DiskUnreadable(
                    f"{refused.message}; {point.name} was read from the disk, and what the guest says is not "
                    "compared with that",
                    remedy="make a new snapshot, and compare from there",
                ) from refused
        if after:
            return await self._parts.asker.kept_both(before.manifest_sha256, after.manifest_sha256)
        earlier = await self._kept(before)
        return earlier, await self._ask(sandbox, refused, earlier)

    async def changes(self, actor: Identity, changes_id: str) -> Changes:
        """A diff made before."""
        changes = await self._store.changes.get(changes_id)
        if actor.role is Role.AGENT:
            await self.get(actor, changes.sandbox_id)
        return changes

    @asynccontextmanager
    async def frozen(self, sandbox: Sandbox) -> AsyncIterator[tuple[list[Path], bool]]:
        """The disk as it is now, as layers of its host that nobody writes to for the time of the block; did
        the guest stand still?"""
        name = new_id(NOW).lower()
        async with AsyncExitStack() as stack:
            async with self.alone(sandbox), self.ahead(sandbox, "snapshot", name):
                await self.merge_layers(sandbox)
                files = await self.machine(sandbox).snapshot(sandbox.domain, name, memory=False)
                await self._forget(sandbox, name)
                await stack.enter_async_context(self.reading(sandbox.id))
            yield _base_first(files), files.quiesced

    async def _readable(self, sandbox: Sandbox, layers: list[Path]) -> list[Path]:
        """Layers of its host as files of this machine."""
        return await self.machine(sandbox).local_layers(layers)

    async def freeze(self, sandbox: Sandbox) -> list[Path]:
        """As :meth:`frozen`, for evidence: a guest that does not stand still is no evidence. The layers of a
        twin are few: they stay as they are as long as it lives."""
        async with self.frozen(sandbox) as (layers, quiesced):
            if not quiesced:
                raise WrongState(
                    f"{sandbox.sandbox_name} did not freeze its file systems",
                    remedy="the rehearsal must be made again",
                )
            return await self._readable(sandbox, layers)

    async def _points(self, sandbox: Sandbox) -> list[Snapshot]:
        rows, _ = await self._store.snapshots.list({"sandbox_id": sandbox.id}, oldest_first=True)
        return rows

    async def _named(self, sandbox: Sandbox, name: str) -> Snapshot:
        found = {snapshot.name: snapshot for snapshot in await self._points(sandbox)}
        if name not in found:
            raise SnapshotNotFound(
                f"{sandbox.sandbox_name} has no snapshot {name!r}",
                remedy=f"it has {', '.join(found) or 'none'}",
            )
        return found[name]

    async def _forget(self, sandbox: Sandbox, name: str) -> int:
        """The files of a point; none may be left of an earlier try."""
        try:
            return await self.machine(sandbox).delete_snapshot(sandbox.domain, name)
        except SnapshotNotFound:
            return 0

    async def _standing_on(self, sandbox: Sandbox, name: str | None) -> None:
        labels = {label: text for label, text in sandbox.labels.items() if label != STANDING_ON}
        await self.change(sandbox, labels=labels | ({STANDING_ON: name} if name else {}))


def _base_first(files: SnapshotFiles) -> list[Path]:
    """libvirt tells a chain from the top; readers build it from the base."""
    return list(reversed(files.disk_layers))


async def snapshot_files(machine: Hypervisor, snapshot: Snapshot) -> SnapshotFiles:
    """A point as the hypervisor takes it, with the layers that it has now."""
    return SnapshotFiles(
        disk_layers=tuple(await machine.layers_below(Path(snapshot.disk_layers[-1]))),
        memory_file=Path(snapshot.memory_file) if snapshot.memory_file else None,
        quiesced=snapshot.quiesced,
        stood_still_s=0.0,
        took_s=snapshot.took_s,
    )
