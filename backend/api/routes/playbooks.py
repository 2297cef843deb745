"""Playbooks: generated from a change, read, edited within the grammar, deleted."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Body, Response

from backend.api.bodies import GenerateBody, PlaybookBody, PlaybookEdit
from backend.api.common import Caller, PlaybookId, SandboxId, Served, answer, router
from backend.errors import BadRequest, PlaybookNotFound
from backend.models import Playbook

agent = router("playbooks")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@agent.post("/v1/sandboxes/{id}/generate/{tool}")
async def generate(
    caller: Caller,
    services: Served,
    id: SandboxId,
    tool: str,
    body: Annotated[GenerateBody | None, Body()] = None,
) -> Response:
    """The playbook of what was changed. ``tool`` is ``ansible``."""
    if tool != "ansible":
        raise BadRequest(f"no generator for {tool!a}", remedy="use `ansible`")
    asked = body or GenerateBody()
    made = await services.playbooks.generate(caller, id, asked.from_snapshot, asked.to_snapshot)
    return answer(
        {"playbook_name": made.name, "yaml": made.yaml, "notes": made.notes, "id": made.id, "playbook": made}
    )


@agent.post("/v1/playbooks", status_code=201, response_model=Playbook)
async def create(caller: Caller, services: Served, body: PlaybookBody) -> Response:
    made = await services.playbooks.generate(caller, body.sandbox_id, body.from_snapshot, body.to_snapshot)
    return answer(made, 201)


@agent.get("/v1/playbooks")
async def list_playbooks(caller: Caller, services: Served) -> Response:
    found = await services.playbooks.list(caller)
    return answer({"playbooks": found, "total": len(found)})


@agent.get("/v1/playbooks/{id}", response_model=Playbook)
async def read(caller: Caller, services: Served, id: PlaybookId) -> Response:
    return answer(await services.playbooks.get(caller, id))


@agent.put("/v1/playbooks/{id}", response_model=Playbook)
async def update(caller: Caller, services: Served, id: PlaybookId, body: PlaybookEdit) -> Response:
    """An edit is checked by the grammar, and voids the evidence that the playbook had."""
    edited = await services.playbooks.update(caller, id, body.yaml)
    await services.approvals.void_edited(caller, id, edited)
    return answer(edited)


@agent.delete("/v1/playbooks/{id}", status_code=204)
async def delete(caller: Caller, services: Served, id: PlaybookId) -> Response:
    await services.playbooks.delete(caller, id)
    return Response(status_code=204)


@agent.get("/v1/playbooks/{id}/files/{sha256}")
async def read_file(caller: Caller, services: Served, id: PlaybookId, sha256: str) -> Response:
    """The bytes of one file of the playbook."""
    if not _SHA256.fullmatch(sha256):
        raise PlaybookNotFound(f"no file {sha256!a} in {id}", remedy=f"GET /v1/playbooks/{id} lists them")
    data = await services.playbooks.file(caller, id, sha256)
    return Response(data, media_type="application/octet-stream")
