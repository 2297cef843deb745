"""Snapshots of a sandbox, and the difference of two of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response

from backend.api.bodies import DiffBody
from backend.api.common import ID, WAKES, Caller, ChangesId, SandboxId, Served, answer, router
from backend.api.services import Services
from backend.models import (
    BranchSandbox,
    Changes,
    ChangeVerb,
    Command,
    Identity,
    PackageChange,
    SnapshotRequest,
)

agent = router("snapshots")


@agent.post("/v1/sandboxes/{id}/snapshots", status_code=201)
@agent.post("/v1/sandboxes/{id}/snapshot", status_code=201)
async def create(caller: Caller, services: Served, id: SandboxId, body: SnapshotRequest) -> Response:
    """A point in time: memory, frozen disk layer, manifest. A second of that name: 409."""
    return answer({"snapshot": await services.fleet.snapshot(caller, id, body)}, 201)


@agent.get("/v1/sandboxes/{id}/snapshots")
async def list_snapshots(caller: Caller, services: Served, id: SandboxId) -> Response:
    return answer({"snapshots": await services.fleet.snapshots(caller, id)})


@agent.post("/v1/sandboxes/{id}/snapshots/{name}/restore", dependencies=WAKES)
async def restore(caller: Caller, services: Served, id: SandboxId, name: str) -> Response:
    """The sandbox as it was then, running."""
    return answer({"sandbox": await services.fleet.restore(caller, id, name)})


@agent.post("/v1/sandboxes/{id}/snapshots/{name}/branch", status_code=201, dependencies=WAKES)
async def branch(caller: Caller, services: Served, id: SandboxId, name: str, body: BranchSandbox) -> Response:
    """A new sandbox from this point, its processes alive; the first one goes on undisturbed."""
    sandbox = await services.fleet.branch(caller, id, name, body)
    return answer({"sandbox": sandbox, "ip_address": sandbox.ip_address}, 201)


@agent.delete("/v1/sandboxes/{id}/snapshots/{name}")
async def delete(caller: Caller, services: Served, id: SandboxId, name: str) -> Response:
    """Forget a point anywhere in the tree; ``freed_bytes`` are the host's again."""
    return answer({"freed_bytes": await services.fleet.delete_snapshot(caller, id, name)})


@agent.post("/v1/sandboxes/{id}/diff")
async def diff(caller: Caller, services: Served, id: SandboxId, body: DiffBody) -> Response:
    """``diff_json`` as the published SDK reads it, our ``changes`` beside it."""
    changes = await services.fleet.diff(caller, id, body.from_snapshot, body.to_snapshot, body.to_sandbox)
    return answer({"diff": _published(changes, await _commands_between(caller, services, changes))})


@agent.get("/v1/changes/{id}", response_model=Changes)
async def read_changes(
    caller: Caller,
    services: Served,
    id: ChangesId,
    approval: Annotated[str, Query(pattern=f"^({ID.pattern})?$")] = "",
) -> Response:
    """With ``approval``, whose evidence names it: refused if somebody altered it since."""
    if approval:
        return answer(await services.approvals.changes(caller, approval, id))
    return answer(await services.fleet.changes(caller, id))


async def _commands_between(caller: Identity, services: Services, changes: Changes) -> list[Command]:
    """None between two sandboxes: neither came from the other."""
    if changes.to_sandbox:
        return []
    points = {one.name: one.created_at for one in await services.fleet.snapshots(caller, changes.sandbox_id)}
    begin = points.get(changes.from_snapshot)
    end = points.get(changes.to_snapshot, changes.created_at)
    ran = await services.fleet.command_log(caller, changes.sandbox_id)
    return [one for one in ran if (begin is None or one.started_at >= begin) and one.started_at <= end]


def _published(changes: Changes, ran: list[Command]) -> dict[str, Any]:
    shown = changes.shown()
    paths = {verb: [one.path for one in shown if one.verb is verb] for verb in ChangeVerb}
    return {
        "id": changes.id,
        "sandbox_id": changes.sandbox_id,
        "from_snapshot": changes.from_snapshot,
        "to_snapshot": changes.to_snapshot,
        "created_at": changes.created_at,
        "diff_json": {
            "files_modified": sorted(paths[ChangeVerb.MODIFIED] + paths[ChangeVerb.METADATA]),
            "files_added": paths[ChangeVerb.ADDED],
            "files_removed": paths[ChangeVerb.REMOVED],
            "packages_added": [_package(one) for one in changes.packages if one.verb is ChangeVerb.ADDED],
            "packages_removed": [_package(one) for one in changes.packages if one.verb is ChangeVerb.REMOVED],
            "services_changed": [
                {
                    "name": one.name,
                    "enabled": one.after.enabled,
                    "state": "masked" if one.after.masked else one.verb.value,
                }
                for one in changes.units
            ],
            "commands_run": [
                {"cmd": one.command, "exit_code": one.exit_code, "at": one.started_at} for one in ran
            ],
        },
        "changes": changes,
    }


def _package(change: PackageChange) -> dict[str, str]:
    return {"name": change.name, "version": change.after_version or change.before_version}
