"""A second host on this machine, with a login that is not root: its libvirt answers through its SSH."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest
from pydantic import ValidationError

from backend.config import HostConfig
from backend.errors import HypervisorDown
from backend.fleet.ways import way_to
from backend.guests import HostLink, hosts
from backend.hypervisor import connection as dialled
from backend.paths import Paths
from tests.fix_hosts import USER, RealHost, real_hosts
from tests.fix_tls import write_pki

LIMIT_S = 30.0
POOL = "<pool type='dir'><name>probe</name><target><path>/var/lib/libvirt/images</path></target></pool>"
VOLUME_BYTES = 32 * 1024**2
VOLUME = f"<volume><name>probe.raw</name><capacity>{VOLUME_BYTES}</capacity></volume>"


@pytest.fixture(scope="module")
def far() -> Iterator[RealHost]:
    with real_hosts("far-1") as (host,):
        yield host


@pytest.fixture
async def link(far: RealHost, open_folder: Path) -> AsyncIterator[HostLink]:
    link = HostLink(far.name, far.destination, open_folder / "run")
    await link.open()
    yield link
    await link.close()


async def asked(link: HostLink, question: Callable[[libvirt.virConnect], Any]) -> Any:
    """libvirt's answer over the forwarded socket; the loop carries its bytes meanwhile."""
    uri = await link.libvirt_uri()

    def ask() -> Any:
        connection = libvirt.open(uri)
        try:
            return question(connection)
        finally:
            connection.close()

    async with asyncio.timeout(LIMIT_S):
        return await asyncio.to_thread(ask)


async def back(link: HostLink) -> None:
    """The link tries by itself."""
    async with asyncio.timeout(LIMIT_S):
        while not link.up:
            await asyncio.sleep(0.05)


async def test_libvirt_of_a_far_host_answers_a_user_that_is_not_root(far: RealHost, link: HostLink) -> None:
    assert (await link.run(["id", "-un"])).decode().strip() == USER
    assert await asked(link, lambda connection: connection.getHostname()) == "far-1"
    assert await asked(link, lambda connection: connection.listAllStoragePools()) == []
    assert (await link.run(["ip", "-j", "-4", "route", "show", "default"])).strip() in (b"", b"[]", b"[ ]")


async def test_what_is_uploaded_lies_on_the_far_host_only(far: RealHost, link: HostLink) -> None:
    def upload(connection: libvirt.virConnect) -> float:
        pool = connection.storagePoolCreateXML(POOL)
        try:
            volume = pool.createXML(VOLUME)
            started = time.monotonic()
            stream = connection.newStream()
            volume.upload(stream, 0, VOLUME_BYTES)
            left = VOLUME_BYTES
            chunk = bytes(range(256)) * 1024
            while left:
                left -= stream.send(chunk[: min(left, len(chunk))])
            stream.finish()
            return time.monotonic() - started
        finally:
            pool.destroy()

    took_s = await asked(link, upload)
    print(f"{VOLUME_BYTES / 1024**2 / took_s:.0f} MiB/s")
    there = far.folder / "lib/images/probe.raw"
    assert there.read_bytes() == bytes(range(256)) * (VOLUME_BYTES // 256)
    assert not Path("/var/lib/libvirt/images/probe.raw").exists()
    assert far.exec(["stat", "-c", "%s", "/var/lib/libvirt/images/probe.raw"]).split() == [
        b"%d" % VOLUME_BYTES
    ]


async def test_a_libvirtd_that_starts_again_is_behind_the_same_socket(far: RealHost, link: HostLink) -> None:
    await asyncio.to_thread(far.stop_libvirtd)
    try:
        with pytest.raises(libvirt.libvirtError):
            await asked(link, lambda connection: connection.getHostname())
    finally:
        await asyncio.to_thread(far.start_libvirtd)
    assert await asked(link, lambda connection: connection.getHostname()) == "far-1"


async def test_a_cable_that_is_pulled_is_told_and_found_again(
    far: RealHost, link: HostLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DIAL_TIMEOUT_S", 1.0)
    far.cut()
    try:
        (await link.connection()).abort()  # as the keepalive does after its 20 s
        with pytest.raises(HypervisorDown, match=r"host far-1 .* is lost since .*(no answer|No route)"):
            await link.run(["true"])
    finally:
        far.mend()
    await back(link)
    assert await asked(link, lambda connection: connection.getHostname()) == "far-1"


async def test_a_libvirt_at_a_uri_of_its_own_is_dialled_there_and_its_guests_are_not(
    far: RealHost, open_folder: Path
) -> None:
    uri = f"qemu+tcp://{far.address}/system"
    with pytest.raises(ValidationError, match="allow_plaintext"):
        HostConfig.model_validate({**far.settings, "uri": uri})
    with listening(far):
        await must_answer(far, open_folder, uri, allow_plaintext=True)


async def test_over_tls_both_sides_show_certificates_of_one_authority(
    far: RealHost, open_folder: Path, tmp_path: Path
) -> None:
    write_pki(ours := far.etc / "libvirt" / "pki", far.address)
    write_pki(strange := tmp_path / "strange", far.address)
    names = {"ca": "cacert", "cert": "servercert", "key": "serverkey"}
    files = "".join(f'{word}_file = "/etc/libvirt/pki/{name}.pem"\n' for word, name in names.items())
    with listening(far, f"listen_tls = 1\n{files}"):
        await must_answer(far, open_folder, f"qemu+tls://{far.address}/system?pkipath={ours}")
        with pytest.raises(HypervisorDown, match="certificate"):
            await must_answer(far, open_folder, f"qemu+tls://{far.address}/system?pkipath={strange}")


async def test_a_libvirt_that_falls_silent_is_lost_and_answers_again_when_it_goes_on(
    far: RealHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel keeps the connection: only that nobody answers tells that it hangs."""
    monkeypatch.setattr(dialled, "KEEPALIVE_INTERVAL_S", 1)
    monkeypatch.setattr(dialled, "KEEPALIVE_COUNT", 2)
    with listening(far):
        connection = dialled.Connection(f"qemu+tcp://{far.address}/system")
        await connection.open()
        try:
            async with connection.listening() as events:
                far.freeze()
                try:
                    asking = asyncio.create_task(
                        connection.call(lambda it: it.getHostname(), what="ask", limit_s=2 * LIMIT_S)
                    )
                    async with asyncio.timeout(LIMIT_S):
                        assert (await events.get()).kind == "lost"
                    assert not connection.alive
                    with pytest.raises(HypervisorDown):  # who waited for it is told, too
                        await asyncio.wait_for(asking, LIMIT_S)
                finally:
                    far.thaw()
                async with asyncio.timeout(LIMIT_S):
                    assert (await events.get()).kind == "connected"
            assert await connection.call(lambda it: it.getHostname(), what="ask") == "far-1"
        finally:
            await connection.close()


@contextmanager
def listening(far: RealHost, config: str = "listen_tls = 0\n") -> Iterator[None]:
    """Its libvirtd answers on the network too."""
    file = far.etc / "libvirt" / "libvirtd.conf"
    text = file.read_text()
    far.stop_libvirtd()
    try:
        file.write_text(text.replace("listen_tls = 0\n", config))
        far.start_libvirtd("--listen")
        yield
    finally:
        far.stop_libvirtd()
        file.write_text(text)
        far.start_libvirtd()


async def must_answer(far: RealHost, folder: Path, uri: str, **settings: bool) -> None:
    """libvirt by its URI, the way to its guests by SSH."""
    config = HostConfig.model_validate({**far.settings, "uri": uri, **settings})
    paths = Paths.under(folder)
    paths.make()
    way = way_to(config, paths, "fluid-uri")
    try:
        hypervisor = await way.hypervisor()
        try:
            facts = await hypervisor.facts()
        finally:
            await hypervisor.close()
        assert (facts.hostname, way.uri) == ("far-1", uri)
        assert facts.cpu_busy_ns > 0 and facts.cpu_idle_ns > 0
        assert way.link is not None and way.link.up
    finally:
        await way.leave(idle=True)
