"""Images as operators manage them: listed with who uses them, built with an audit row."""

from __future__ import annotations

import logging

from backend.audit import Audit
from backend.fleet.core import FleetCore
from backend.images import Images
from backend.models import Identity, ImageView

log = logging.getLogger(__name__)


class Sources:
    """What sandboxes are forked from."""

    def __init__(self, images: Images, audit: Audit, fleet: FleetCore) -> None:
        self._images = images
        self._audit = audit
        self._fleet = fleet

    async def list(self) -> list[ImageView]:
        live = await self._fleet.all_live()
        views = [image.view() for image in self._images.list()]
        for view in views:
            view.used_by = sum(sandbox.base_image == view.name for sandbox in live)
        return views

    async def build(self, actor: Identity, name: str, force: bool) -> ImageView:
        """Build the host's own release; minutes, unless it is there already. ``force``: from nothing."""
        async with self._audit.step(actor, "image.build", "image", name, force=force):
            image = await self._images.build(
                name or None, progress=lambda words: log.info("image: %s", words), force=force
            )
        return image.view()
