"""How the backend is, and who the caller is taken for."""

from __future__ import annotations

from fastapi import Response

from backend import __version__
from backend.api.common import Caller, Served, answer, router
from backend.models import Identity, Role

agent = router("health")


@agent.get("/v1/health")
@agent.get("/health", include_in_schema=False)
async def health(caller: Caller, services: Served) -> Response:
    """``ok`` as long as the backend answers. Each part says for itself how it is: to operators and auditors,
    since what a host is called, what it runs and what fails there is nothing to an agent."""
    components = [] if caller.role is Role.AGENT else await services.components()
    return answer({"status": "ok", "version": __version__, "components": components})


@agent.get("/v1/whoami", response_model=Identity)
async def whoami(caller: Caller) -> Response:
    """The identity that the kernel vouches for, and the role that the config gives it on this door."""
    return answer(caller)


@agent.get("/v1/policy")
async def policy(caller: Caller, services: Served) -> Response:
    """What the caller may do: ``words`` for a reader, limits and rules as data."""
    return answer(services.policy(caller))
