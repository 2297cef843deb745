"""Our network on a real libvirtd, where the bridge of its name is there already."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from backend.errors import HypervisorFailed
from backend.fleet.addresses import free_network, taken_networks
from backend.hypervisor import Hypervisor, NetworkSpec, PrivateLibvirt

PREFIX = "fluid-nets"
BRIDGE, PORT = (f"fl{kind}{os.getpid() % 1_000_000}" for kind in "bp")


def ip(*words: str) -> None:
    subprocess.run(["ip", "link", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hypervisor]:
    folder = tmp_path_factory.mktemp("nets")
    daemon = PrivateLibvirt(folder / "lv", hide_kvm=True)
    host = Hypervisor(await daemon.start(), folder=folder / "host", virt_type="qemu", prefix=PREFIX)
    await host.open()
    yield host
    await host.close()
    await daemon.stop()


@pytest.fixture
async def network(host: Hypervisor) -> AsyncIterator[NetworkSpec]:
    spec = NetworkSpec(f"{PREFIX}-guests", BRIDGE, free_network(await taken_networks()))
    yield spec
    await host.remove_network(spec.name)


@pytest.fixture
def bridge(network: NetworkSpec) -> Iterator[str]:
    """What a killed libvirtd leaves: a bridge that is up and has our address."""
    ip("add", network.bridge, "type", "bridge")
    subprocess.run(["ip", "address", "add", f"{network.host_address}/24", "dev", BRIDGE], check=True)
    ip("set", network.bridge, "up")
    yield network.bridge
    subprocess.run(["ip", "link", "del", network.bridge], check=False, capture_output=True)


@pytest.mark.usefixtures("bridge")
async def test_a_bridge_that_a_killed_libvirtd_left_is_in_nobodys_way(
    host: Hypervisor, network: NetworkSpec
) -> None:
    left = Path(f"/sys/class/net/{BRIDGE}/ifindex").read_text()
    await host.ensure_network(network)
    assert Path(f"/sys/class/net/{BRIDGE}/ifindex").read_text() != left
    await host.ensure_network(network)  # one that works stays


async def test_a_bridge_with_a_port_is_left_alone_and_the_command_named(
    host: Hypervisor, network: NetworkSpec, bridge: str
) -> None:
    ip("add", PORT, "type", "veth")
    try:
        ip("set", PORT, "master", bridge)
        with pytest.raises(HypervisorFailed, match=bridge) as caught:
            await host.ensure_network(network)
        assert f"ip link del {bridge}" in caught.value.remedy
        assert Path(f"/sys/class/net/{bridge}/brif/{PORT}").exists()
    finally:
        ip("del", PORT)


async def test_an_interface_of_another_kind_is_left_alone(host: Hypervisor, network: NetworkSpec) -> None:
    ip("add", network.bridge, "type", "veth")
    try:
        with pytest.raises(HypervisorFailed, match=network.bridge):
            await host.ensure_network(network)
        assert Path(f"/sys/class/net/{network.bridge}").exists()
    finally:
        ip("del", network.bridge)
