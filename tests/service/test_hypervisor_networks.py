"""Our network on a real libvirtd, where the bridge of its name is there already."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import libvirt
import pytest

from backend.config import Config, HostConfig
from backend.errors import Conflict, HypervisorDown, HypervisorFailed
from backend.fleet import Host
from backend.fleet.addresses import free_address, free_network, taken_networks
from backend.hypervisor import ForeignNetwork, Hypervisor, NetworkSpec, PrivateLibvirt
from backend.paths import Paths

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


LAN, LAN_BRIDGE = "somebodys-lan", f"fll{os.getpid() % 1_000_000}"
LAN_XML = f"""<network><name>{LAN}</name><bridge name="{LAN_BRIDGE}"/><dns enable="no"/>
<ip family="ipv6" address="fd00:77::1" prefix="64"/>
<ip address="10.77.99.30" prefix="27"><dhcp>
  <range start="10.77.99.2" end="10.77.99.20"/><host mac="52:54:00:11:22:33" name="nas" ip="10.77.99.22"/>
</dhcp></ip></network>"""
FLAT_XML = f"<network><name>flat</name><forward mode='bridge'/><bridge name='{LAN_BRIDGE}'/></network>"


@pytest.fixture
def theirs(host: Hypervisor) -> Iterator[libvirt.virConnect]:
    """Whoever made networks before us, on the same libvirtd."""
    connection = libvirt.open(host.uri)
    yield connection
    for network in connection.listAllNetworks(0):
        if network.isActive():
            network.destroy()
        network.undefine()
    connection.close()


async def test_somebody_elses_network_is_read_and_left_as_it_is(
    host: Hypervisor, theirs: libvirt.virConnect
) -> None:
    network = theirs.networkDefineXML(LAN_XML)
    network.create()
    before = (network.XMLDesc(0), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
    found = await host.find_network(LAN)
    assert found == ForeignNetwork(
        LAN,
        LAN_BRIDGE,
        "10.77.99.0/27",
        "10.77.99.30",
        (("10.77.99.2", "10.77.99.20"), ("10.77.99.22", "10.77.99.22")),
    )
    taken = {found.host_address}
    assert free_address(found.cidr, taken, found.reserved, name=LAN) == "10.77.99.21"
    await host.remove_network(f"{PREFIX}-guests")  # as at the end of a backend
    assert network.isActive()
    assert before == (network.XMLDesc(0), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
    assert [one.name() for one in theirs.listAllNetworks(0)] == [LAN]
    assert await host.our_networks() == []


def on_the_lan(host: Hypervisor, folder: Path) -> Host:
    """The fleet's side of the same libvirtd, told to use that network."""
    paths = Paths.under(folder)
    paths.make()
    probed = Paths.default().cache / "kvm-probe.json"
    if probed.exists():  # a probe is booted otherwise, for ten seconds
        shutil.copy(probed, paths.cache)
    return Host(Config(), HostConfig(uri=host.uri, network=LAN), paths)


async def test_a_host_whose_network_is_somebody_elses_gives_addresses_of_it_and_says_so(
    host: Hypervisor, theirs: libvirt.virConnect, tmp_path: Path
) -> None:
    network = theirs.networkDefineXML(LAN_XML)
    network.create()
    before = network.XMLDesc(0)
    fleet_host = on_the_lan(host, tmp_path)
    assert await fleet_host.open(), fleet_host.require()
    assert await fleet_host.take_address(set()) == "10.77.99.21"
    assert await fleet_host.take_address(set()) == "10.77.99.23"
    assert (await fleet_host.view(0, 0)).isolated is False
    await fleet_host.close()
    assert network.isActive() and network.XMLDesc(0) == before
    assert not [one.name() for one in theirs.listAllNetworks(0) if one.name() != LAN]


async def test_a_host_whose_network_has_no_room_is_down_and_says_what_to_do(
    host: Hypervisor, theirs: libvirt.virConnect, tmp_path: Path
) -> None:
    theirs.networkDefineXML(LAN_XML.replace("10.77.99.20", "10.77.99.29")).create()
    fleet_host = on_the_lan(host, tmp_path)
    assert not await fleet_host.open()
    with pytest.raises(HypervisorDown, match=r"has no address of .* left for a guest") as refused:
        fleet_host.require()
    assert f"virsh net-edit {LAN}" in refused.value.remedy
    await fleet_host.close()


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("nowhere", "there is no network 'nowhere'", "it has flat, off"),
        ("off", "network 'off' is off", "virsh net-start off"),
        ("flat", "network 'flat' has no IPv4 range", "name another one"),
    ],
)
async def test_a_network_that_no_guest_can_be_on_is_refused_with_words(
    host: Hypervisor, theirs: libvirt.virConnect, name: str, message: str, remedy: str
) -> None:
    ip("add", LAN_BRIDGE, "type", "bridge")
    try:
        theirs.networkDefineXML(FLAT_XML).create()
        theirs.networkDefineXML("<network><name>off</name></network>")
        with pytest.raises(Conflict, match=message) as refused:
            await host.find_network(name)
        assert remedy in refused.value.remedy
    finally:
        ip("del", LAN_BRIDGE)
