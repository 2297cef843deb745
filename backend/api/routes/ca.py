"""The SSH user CA: its public key for who prepares a machine, its change for operators."""

from __future__ import annotations

from fastapi import Response

from backend.api.common import Caller, Served, answer, router
from backend.models import CaView

agent = router("ca")
operator = router("ca")

USAGE = "one line of the file that TrustedUserCAKeys of an sshd_config names; guests have it already"


@agent.get("/v1/access/ca-pubkey")
async def ca_pubkey(services: Served) -> Response:
    """The public half alone."""
    return answer({"public_key": services.trust.public_key(), "usage": USAGE})


@operator.get("/v1/ca", response_model=CaView)
async def show(caller: Caller, services: Served) -> Response:
    """The key that signs, one that is still trusted, and which guests do not follow yet."""
    return answer(await services.trust.view(caller))


@operator.post("/v1/ca/rotate", response_model=CaView)
async def rotate(caller: Caller, services: Served) -> Response:
    """Blocks until every guest that can be reached trusts the new key and it signs."""
    return answer(await services.trust.rotate(caller))
