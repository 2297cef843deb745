"""How far another host's clock is from ours, asked of a real sshd whose `date` is set wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.config import Config, HostConfig
from backend.errors import FluidError, HypervisorDown
from backend.fleet import Host
from backend.hypervisor import HostFacts
from backend.paths import Paths
from tests.fix_sshd import HostSshd, make_sshd

__all__ = ["make_sshd"]

LIMIT_S = 20.0
NEAR_S = 0.5
FACTS = HostFacts("far", "9.0.0", "7.2.0", 2, 1024, 512, 9000, "qemu")


def with_date(server: HostSshd, script: str) -> None:
    """Another program answers to `date` there, from the next login on."""
    programs = server.folder / "bin"
    programs.mkdir()
    date = programs / "date"
    date.write_text(f"#!/bin/sh\n{script}\n")
    date.chmod(0o755)
    config = server.folder / "sshd_config"
    server.stop()
    text = config.read_text().replace("SetEnv ", f"SetEnv PATH={programs}:/usr/bin:/bin ")
    config.write_text(text)
    server.start()


async def far(server: HostSshd, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host behind it, linked. Its libvirt is another test's matter."""
    known = {"key": server.folder / "key", "known_hosts": server.folder / "known_hosts"}
    settings = HostConfig(name="far", address="127.0.0.1", user="root", port=server.port, uri=None, **known)
    paths = Paths.under(folder / "home")
    paths.make()
    host = Host(Config(), settings, paths)

    async def look(*, patient: bool) -> HostFacts:
        return FACTS

    monkeypatch.setattr(host, "look", look)
    assert host.way.link is not None
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await host.way.link.open()
                return host
            except HypervisorDown:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("skew_s", [-90, 0, 5])
async def test_the_skew_is_measured_to_half_of_a_round_trip(
    make_sshd: Callable[[str], HostSshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    server = make_sshd("far")
    with_date(server, f"exec /bin/date -d '{skew_s} seconds' \"$@\"")
    host = await far(server, tmp_path, monkeypatch)
    told = (await host.view(0, 0)).clock_skew_s
    assert told is not None and abs(told - skew_s) < NEAR_S
    await host.close()


async def test_it_is_asked_once_a_minute_and_words_are_no_time(
    make_sshd: Callable[[str], HostSshd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_sshd("far")
    count = server.folder / "count"
    with_date(server, f"echo asked >>{count}; echo half past ten")
    host = await far(server, tmp_path, monkeypatch)
    for _ in range(5):
        assert (await host.view(0, 0)).clock_skew_s is None
    assert count.read_text().count("asked") == 1
    with pytest.raises(FluidError, match="half past ten"):
        await host.way.clock_skew()
    await host.close()


async def test_this_machine_has_no_skew(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    assert await Host(Config(), HostConfig(), paths).way.clock_skew() is None
