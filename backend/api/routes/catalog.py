"""What there is to work with: sources, targets, images, hosts; and what an agent says of itself."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from backend.api.bodies import BuildBody, HostBody, HostKeyBody, ImportBody, PrepareBody, StatusBody
from backend.api.common import Caller, Served, answer, router
from backend.images import ImageImport
from backend.models import HostKeyView, HostView, ImageView, LeftoverReport, Role, SourceCheck

agent = router("catalog")
operator = router("catalog")

NO_ANSWER = "it does not answer"


@agent.get("/v1/sources")
async def sources(caller: Caller, services: Served) -> Response:
    """What a sandbox may be forked from."""
    return answer({"sources": await services.sources.list(caller)})


@agent.get("/v1/vms")
async def vms(caller: Caller, services: Served) -> Response:
    """The sources as the published SDK lists them."""
    hosts = await services.fleet.hosts()
    local = next((host for host in hosts if host.status == "up"), None)
    found: list[dict[str, Any]] = [
        {
            "name": source.name,
            "uuid": "",
            "state": "shutdown",
            "persistent": True,
            "disk_path": "",
            "host_name": local.name if local else "",
            "host_address": local.address if local else "",
        }
        for source in await services.fleet.sources(caller)
    ]
    lost = [host for host in hosts if host.status != "up" and host.last_error]
    errors = [
        {
            "host_name": host.name,
            "host_address": host.address,
            "error": NO_ANSWER if caller.role is Role.AGENT else host.last_error,
        }
        for host in lost
    ]
    return answer({"vms": found, "host_errors": errors})


@agent.get("/v1/targets")
async def targets(caller: Caller, services: Served) -> Response:
    """The names that the caller may ask for."""
    return answer({"targets": await services.targets.list(caller)})


@agent.get("/v1/images")
async def images(caller: Caller, services: Served) -> Response:
    """What sandboxes are forked from; operators see who stands on it."""
    return answer({"images": await services.images.list(caller)})


@agent.post("/v1/agents/me", status_code=204)
async def say_status(caller: Caller, services: Served, body: StatusBody) -> Response:
    """How the agent does, in its own words; operators see it with its age."""
    await services.fleet.status(caller, body)
    return Response(status_code=204)


@operator.post("/v1/targets/check")
async def check_targets(caller: Caller, services: Served, name: str | None = None) -> Response:
    """Try each target (or one) over SSH with its group's key."""
    return answer({"targets": await services.targets.check(caller, name)})


@operator.post("/v1/images", status_code=201, response_model=ImageView)
async def build_image(caller: Caller, services: Served, body: BuildBody) -> Response:
    return answer(await services.images.build(caller, body.name, body.force), 201)


@operator.post("/v1/images/import", status_code=201, response_model=ImageView)
async def import_image(caller: Caller, services: Served, body: ImportBody) -> Response:
    """Take a cloud image; blocks until it is prepared, which takes minutes."""
    wanted = ImageImport(body.source, body.format, body.sha256, body.name, caller.uid)
    return answer(await services.images.import_image(caller, wanted), 201)


@operator.delete("/v1/images/{name}")
async def remove_image(caller: Caller, services: Served, name: str) -> Response:
    """Remove one that no sandbox stands on, with its stock and its templates."""
    return answer({"name": name, "freed_bytes": await services.images.remove(caller, name)})


@operator.post("/v1/sources/{name}/check", response_model=SourceCheck)
async def check_source(caller: Caller, services: Served, name: str) -> Response:
    """What stands in the way of a domain's becoming a source, and which secrets a clone would carry."""
    return answer(await services.sources.check(caller, name))


@operator.post("/v1/sources/{name}/prepare", status_code=201, response_model=ImageView)
async def prepare_source(caller: Caller, services: Served, name: str, body: PrepareBody) -> Response:
    """Copy a domain's disk and prepare the copy; blocks until it is a source, which takes minutes."""
    return answer(await services.sources.prepare(caller, name, body.as_it_is), 201)


@operator.get("/v1/hosts")
async def hosts(services: Served) -> Response:
    return answer({"hosts": await services.fleet.hosts()})


@operator.post("/v1/hosts/{name}/drain", response_model=HostView)
async def drain_host(caller: Caller, services: Served, name: str) -> Response:
    """It takes no new sandboxes from now on; those it has stay."""
    return answer(await services.fleet.drain(caller, name, True))


@operator.post("/v1/hosts/{name}/resume", response_model=HostView)
async def resume_host(caller: Caller, services: Served, name: str) -> Response:
    return answer(await services.fleet.drain(caller, name, False))


@operator.get("/v1/leftovers", response_model=LeftoverReport)
async def leftovers(caller: Caller, services: Served) -> Response:
    """Domains, files and networks of ours that nothing needs, and recordings past their time."""
    report = await services.fleet.leftovers(caller)
    report.found += await services.recordings.leftovers(caller)
    return answer(report)


@operator.delete("/v1/leftovers", response_model=LeftoverReport)
async def clear_leftovers(caller: Caller, services: Served) -> Response:
    """Remove them; the answer is what was removed."""
    report = await services.fleet.clear(caller)
    report.found += await services.recordings.clear(caller)
    return answer(report)


@operator.post("/v1/hosts/key", response_model=HostKeyView)
async def host_key(caller: Caller, services: Served, body: HostKeyBody) -> Response:
    """The key that a host shows now, for a person to compare; nothing believes it."""
    return answer(await services.fleet.host_key(caller, body.address, body.port))


@operator.post("/v1/hosts", status_code=201, response_model=HostView)
async def add_host(caller: Caller, services: Served, body: HostBody) -> Response:
    """One more host behind SSH, with the only key that it may ever show."""
    return answer(await services.fleet.add_host(caller, body.settings, body.host_key), 201)


@operator.delete("/v1/hosts/{name}", status_code=204)
async def remove_host(caller: Caller, services: Served, name: str) -> Response:
    """Forget a host that was added so, and has no sandbox left."""
    await services.fleet.remove_host(caller, name)
    return Response(status_code=204)
