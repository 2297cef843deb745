"""How large a sandbox may be: what was asked for, within the policy, and no smaller than its source."""

from __future__ import annotations

import asyncio
import math

from backend.errors import InvalidValue, PolicyDenied
from backend.fleet.core import FleetCore
from backend.hypervisor import virtual_size
from backend.images import BuiltImage
from backend.models import CreateSandbox, Sandbox
from backend.policy import Refusal

GIB = 1024**3


class Sizes(FleetCore):
    """The size of a guest's disk. Processors and memory are its template's."""

    async def disk_gb(self, request: CreateSandbox, image: BuiltImage) -> int:
        """How large its disk is to be.

        Raises:
            InvalidValue: the source's is larger already, or ends where a partition does. PolicyDenied: over
                the limit, also by its source.
        """
        least = await asyncio.to_thread(_source_gb, image)
        wanted = request.disk_gb or least
        if wanted < least:
            raise InvalidValue(
                f"the disk of {image.name} has {least} GB, {wanted} are asked for",
                remedy=f"ask for disk_gb {least} or more, or leave it out",
            )
        if wanted > least and image.kind != "built":
            raise InvalidValue(
                f"the disk of {image.name} has partitions and stays as it is: {least} GB",
                remedy="leave disk_gb out, or import an image whose disk is larger",
            )
        allow(self._policy.check_disk(wanted))
        return wanted

    async def grow(self, sandbox: Sandbox, image: BuiltImage) -> None:
        """Give a running sandbox's disk the size that was asked for."""
        wanted = sandbox.disk_gb or 0
        if wanted > await asyncio.to_thread(_source_gb, image):
            await self.machine(sandbox).grow_disk(sandbox.domain, wanted)


def allow(refusal: Refusal | None) -> None:
    """Raises PolicyDenied with a refusal's words and its rule."""
    if refusal:
        raise PolicyDenied(f"{refusal.words} (rule {refusal.rule})", remedy=refusal.remedy, rule=refusal.rule)


def _source_gb(image: BuiltImage) -> int:
    """The size of a source's disk as a guest sees it, in whole GiB."""
    return math.ceil(virtual_size(image.disk) / GIB)
