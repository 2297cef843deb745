"""What a rehearsal's twin may stand on: the frozen source of the sandbox, and no layer that anybody wrote."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.errors import WrongState
from backend.fleet.lifecycle import Lifecycle
from backend.images import BuiltImage
from backend.models import Sandbox, now

SHA = "5a" * 32
OWN, TEMPLATE, IMAGE = "/f/domains/t/disk-0.qcow2", "/f/templates/k/disk.qcow2", f"/i/base-{SHA[:16]}.qcow2"
FAR_OWN, FAR_TEMPLATE = "/pool/f-twin.disk-0.qcow2", "/pool/f-template-k.disk.qcow2"
FAR_IMAGE = f"/pool/image.base-{SHA[:16]}.qcow2"


class Fleet(Lifecycle):
    """Twins get a disk of these layers, the top first."""

    def __init__(self, *layers: str) -> None:
        async def disk_layers(domain: str) -> list[Path]:
            return [Path(layer) for layer in layers]

        self._host = SimpleNamespace(disk_layers=disk_layers)
        self.gone: list[str] = []

    def image_of(self, sandbox: Sandbox) -> BuiltImage:
        return cast("BuiltImage", SimpleNamespace(name="base", sha256=SHA))

    async def obtain(self, wanted: Sandbox, image: BuiltImage) -> Sandbox:
        return wanted

    async def discard(self, sandbox: Sandbox) -> None:
        self.gone.append(sandbox.sandbox_name)

    def machine(self, sandbox: Sandbox) -> Any:
        return self._host

    async def twin(self) -> Sandbox:
        row = Sandbox(id="SBX-1", sandbox_name="box", base_image="base", created_at=now(), updated_at=now())
        return await self.fork_twin(row, purpose="rehearsal")


@pytest.mark.parametrize(
    "layers",
    [(OWN, TEMPLATE, IMAGE), (OWN, IMAGE), (FAR_OWN, FAR_TEMPLATE, FAR_IMAGE), (FAR_OWN, FAR_IMAGE)],
)
async def test_a_twin_stands_on_a_template_or_on_the_image(layers: tuple[str, ...]) -> None:
    fleet = Fleet(*layers)
    assert (await fleet.twin()).purpose == "rehearsal" and fleet.gone == []


@pytest.mark.parametrize(
    ("layers", "shared"),
    [
        (("/f/domains/t/disk-1.qcow2", OWN, TEMPLATE, IMAGE), OWN),  # a branch: it is the sandbox's by a link
        ((FAR_OWN, "/pool/f-box.disk-3.qcow2", FAR_TEMPLATE, FAR_IMAGE), "/pool/f-box.disk-3.qcow2"),
        ((OWN, "/var/lib/libvirt/images/shop.qcow2"), "/var/lib/libvirt/images/shop.qcow2"),
        ((OWN, "/var/lib/libvirt/images/shop-disk.qcow2"), "/var/lib/libvirt/images/shop-disk.qcow2"),
        ((OWN, TEMPLATE, f"/i/base-{'6b' * 8}.qcow2"), f"/i/base-{'6b' * 8}.qcow2"),
    ],
)
async def test_a_twin_that_stands_on_anything_else_is_refused_and_gone(
    layers: tuple[str, ...], shared: str
) -> None:
    fleet = Fleet(*layers)
    with pytest.raises(WrongState, match="no frozen layer of base") as caught:
        await fleet.twin()
    assert f" stands on {shared}," in caught.value.message
    assert [name.partition("-")[0] for name in fleet.gone] == ["rehearsal"]
