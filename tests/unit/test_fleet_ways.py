"""Which way leads to a host; what a way to another one refuses, because guests there would not be held; what
of its disk is root's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.config import HostConfig
from backend.errors import FluidError, HypervisorDown, HypervisorFailed
from backend.fleet import ways
from backend.fleet.ways import LocalWay, RemoteWay, UsersWay, way_to
from backend.paths import Paths


def far_way(tmp_path: Path, said: bytes | FluidError) -> tuple[RemoteWay, list[list[str]]]:
    """A way whose host says that to every command; and the commands."""
    way = way_to(
        HostConfig(name="far", address="198.51.100.7", user="fluid"), Paths.under(tmp_path), "fluid-a"
    )
    assert isinstance(way, RemoteWay)
    asked: list[list[str]] = []

    async def run(argv: list[str]) -> bytes:
        asked.append(argv)
        if isinstance(said, FluidError):
            raise said
        return said

    way._link = SimpleNamespace(name="far", run=run)  # type: ignore[assignment]
    return way, asked


@pytest.mark.parametrize(
    ("said", "held"), [(b"0\n0\n", False), (b"0\n", False), (b"0\n1\n", True), (b"1\n0\n", True), (b"", True)]
)
async def test_a_host_whose_iptables_does_not_see_the_bridge_is_refused(
    tmp_path: Path, said: bytes, held: bool
) -> None:
    way, asked = far_way(tmp_path, said)
    if held:
        await way.must_hold("fl-0")
    else:
        with pytest.raises(HypervisorFailed, match="fl-0, so guests are not held"):
            await way.must_hold("fl-0")
    assert "/sys/class/net/fl-0/bridge/nf_call_iptables" in asked[0]


@pytest.mark.parametrize(
    ("said", "reserved_mb"),
    [
        (b"1000000 743936 4096\n", 1000),
        (b"500 500 4096\n", 0),
        (b"stat: unknown option\n", 0),
        (HypervisorFailed("`stat` on host far ended with 1", remedy="run it there"), 0),
    ],
)
async def test_what_only_root_may_fill_is_asked_of_the_host(
    tmp_path: Path, said: bytes | FluidError, reserved_mb: int
) -> None:
    way, asked = far_way(tmp_path, said)
    assert await way.reserved_mb() == reserved_mb
    assert asked == [["stat", "-f", "-c", "%f %a %S", "/var/lib/libvirt/images/fluid-a"]]


@pytest.mark.parametrize(
    ("host", "placed", "pool"),
    [
        ({}, None, "/var/lib/libvirt/images/fluid-a"),
        ({}, "/srv/domains", "/srv/domains"),
        ({"pool_path": "/srv/pool"}, "/srv/domains", "/srv/pool"),
    ],
)
def test_this_machine_has_a_pool_for_who_is_not_root_and_folders_for_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: dict[str, str], placed: str | None, pool: str
) -> None:
    settings = HostConfig.model_validate({"name": "local", **host})
    paths = Paths.under(tmp_path).placed(images=None, domains=Path(placed) if placed else None)
    for uid, kind in ((0, LocalWay), (1000, UsersWay)):
        monkeypatch.setattr(ways.os, "geteuid", lambda uid=uid: uid)
        way = way_to(settings, paths, "fluid-a")
        assert isinstance(way, kind) and way.link is None
    assert isinstance(way, UsersWay) and way.uri == "qemu:///system"
    assert (way._pool.name, str(way._pool.path)) == ("fluid-a", pool)


async def test_the_libvirtd_that_has_our_machines_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[str | None] = []

    async def system() -> str | None:
        return answers.pop()

    monkeypatch.setattr(ways, "system_libvirt", system)
    paths = Paths.under(tmp_path)
    paths.make()
    way = LocalWay(None, paths, "fluid-a")
    answers.append(None)
    assert await way._machines_libvirt() is None, "a machine without one: ours is started"
    defined = paths.state / "libvirt/etc/qemu/fluid-a-sbx-1.xml"
    (defined.parent / "networks").mkdir(parents=True)
    (defined.parent / "networks/fluid-a-guests.xml").touch()
    defined.touch()
    answers.append("qemu:///system")
    assert await way._machines_libvirt() is None, "ours has a machine, and the other knows nothing of it"
    defined.unlink()
    assert await way._machines_libvirt() == "qemu:///system", "it has none left"
    answers.append(None)
    with pytest.raises(HypervisorDown, match="which has been used so far, does not answer") as refused:
        await way._machines_libvirt()
    (paths.state / refused.value.remedy.rpartition("/")[2]).unlink()
    answers.append(None)
    assert await way._machines_libvirt() is None, "as the remedy says"
