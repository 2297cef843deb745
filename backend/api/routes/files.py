"""Files in a guest, by their wire path: what is not UTF-8, a control character or ``%`` stands as ``%XX``."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header, Query, Request, Response

from backend.api.bodies import EditBody
from backend.api.common import Caller, SandboxId, Served, answer, router
from backend.errors import BadRequest
from backend.models import FileState

agent = router("files")

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")
_MODE = r"^0?[0-7]{3,4}$"

GuestPath = Annotated[str, Query(pattern="^/", max_length=12_288, description="absolute, in wire form")]


@agent.get("/v1/sandboxes/{id}/files")
async def read(
    caller: Caller,
    services: Served,
    id: SandboxId,
    path: GuestPath,
    range: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes; with ``Range: bytes=A-B`` a part of them (206)."""
    if range is None:
        data = await services.fleet.read_file(caller, id, path)
        return Response(data, media_type="application/octet-stream")
    offset, length = _parse_range(range)
    data = await services.fleet.read_file(caller, id, path, offset=offset, length=length)
    where = f"bytes {offset}-{offset + max(len(data) - 1, 0)}/*"
    return Response(data, 206, {"content-range": where}, "application/octet-stream")


@agent.put("/v1/sandboxes/{id}/files", response_model=FileState)
async def write(
    request: Request,
    caller: Caller,
    services: Served,
    id: SandboxId,
    path: GuestPath,
    mode: Annotated[str | None, Query(pattern=_MODE)] = None,
    owner: Annotated[str | None, Query(max_length=65)] = None,
) -> Response:
    """The body becomes the file, whole or not at all. ``mode`` is octal, ``owner`` a user or
    ``user:group``."""
    bits = int(mode, 8) if mode is not None else None
    data = await request.body()
    return answer(await services.fleet.write_file(caller, id, path, data, mode=bits, owner=owner))


@agent.delete("/v1/sandboxes/{id}/files", status_code=204)
async def delete(caller: Caller, services: Served, id: SandboxId, path: GuestPath) -> Response:
    await services.fleet.delete_file(caller, id, path)
    return Response(status_code=204)


@agent.post("/v1/sandboxes/{id}/files/edit", response_model=FileState)
async def edit(caller: Caller, services: Served, id: SandboxId, body: EditBody) -> Response:
    """Replace exact text, which must match once unless ``all``."""
    return answer(
        await services.fleet.edit_file(caller, id, body.path, old=body.old, new=body.new, all=body.all)
    )


@agent.get("/v1/sandboxes/{id}/files/list")
async def list_folder(caller: Caller, services: Served, id: SandboxId, path: GuestPath) -> Response:
    """``{"files": {wire path: state}}``."""
    return answer({"files": await services.fleet.list_files(caller, id, path)})


@agent.get("/v1/sandboxes/{id}/files/stat", response_model=FileState)
async def stat(caller: Caller, services: Served, id: SandboxId, path: GuestPath) -> Response:
    return answer(await services.fleet.stat_file(caller, id, path))


def _parse_range(header: str) -> tuple[int, int | None]:
    """Offset and length of RFC 9110 §14.2, one range that has a start."""
    found = _RANGE.fullmatch(header)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise BadRequest(f"Range: {header!a} is not one range", remedy="send `Range: bytes=FIRST-LAST`")
    first = int(found[1])
    return first, int(found[2]) - first + 1 if found[2] else None
