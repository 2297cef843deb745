"""A machine that was there before Fluid, at both doors and the command line of a real backend."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt
import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import Conflict, ImageRefused, NotFound, SourceNotFound, WrongState
from backend.models import Phase
from tests.bench.stage import CHECKOUT, Stage
from tests.fix_cloud_image import cloud_image
from tests.fix_foreign import foreign_xml, idle_floppy, raw_disk
from tests.leftovers import left_of

LIMIT_S = 60
WHOLE = "Golden.Machine"
LOOK_S = 0.2
TARGETS = {"ssh_key_file": "/none", "known_hosts": "/none"}


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    """A backend whose config lists `web`, and whose libvirt has that, a marked machine, and a target."""
    async with Stage() as stage:
        inventory = stage.paths.config / "hosts.ini"
        inventory.write_text("[prod]\nweb-01 ansible_host=192.0.2.7\n")
        stage.configure(
            sources=[
                {"name": "web", "domain": "Web.Golden"},
                {"name": "web-01"},
                {"name": "golden", "domain": WHOLE},
            ],
            targets={"inventory": str(inventory), "groups": {"prod": TARGETS}},
        )
        connection = libvirt.open(stage.libvirt)
        disk = raw_disk(stage.paths.state / "web.disk")
        for name, role in (("Web.Golden", ""), ("marked", "source"), ("unlisted", ""), ("web-01", "")):
            connection.defineXML(foreign_xml(name, [(disk, "raw")], role))
        try:
            await stage.start()
            yield stage
        finally:
            for domain in connection.listAllDomains(0):
                if not domain.name().startswith("fluid-"):
                    if domain.isActive():
                        domain.destroy()
                    domain.undefine()
            connection.close()


def fluid(stage: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "backend.cli", *words],
        cwd=CHECKOUT,
        env=stage.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


async def test_operators_see_what_may_become_a_source_and_only_that(stage: Stage) -> None:
    door = Fluid(stage.paths.operator_socket)
    views = {view.name: view for view in await asyncio.to_thread(door.sources)}
    assert set(views) == {"web", "marked", "web-01", "golden"}
    assert not any(view.ready for view in views.values())
    assert (views["web"].state, views["web"].host, views["web"].problem) == ("shutoff", "local", "")
    assert views["web-01"].problem == "web-01 is a target of production, and is never a source"
    shown = await asyncio.to_thread(fluid, stage, "sources", "list")
    assert shown.returncode == 0, shown.stderr
    assert "web\tdomain\tx86_64\tnot prepared\tlocal\tshutoff" in shown.stdout


async def test_a_check_and_refusals_reach_the_operator_and_the_record(stage: Stage) -> None:
    door = Fluid(stage.paths.operator_socket)
    checked = await asyncio.to_thread(fluid, stage, "sources", "check", "web")
    assert checked.returncode == 0, checked.stderr
    assert "is not known: it could not be looked into" in checked.stdout, "there is no file system on it"
    with pytest.raises(SourceNotFound):
        await asyncio.to_thread(door.check_source, "unlisted")
    with pytest.raises(Conflict, match="is a target of production"):
        await asyncio.to_thread(door.prepare_source, "web-01")
    with pytest.raises(WrongState, match="which the config does not allow"):
        await asyncio.to_thread(lambda: door.prepare_source("web", as_it_is=True))
    with pytest.raises(ImageRefused, match="the disk of web cannot be read"):
        await asyncio.to_thread(door.prepare_source, "web")
    with pytest.raises(SourceNotFound):
        await asyncio.to_thread(lambda: door.create_sandbox("web", agent_id="e2e"))
    rows = await asyncio.to_thread(lambda: door.audit(action="source.prepare"))
    assert {row.id for row in rows} >= {"web", "web-01"}
    assert [path.name for path in images(stage) if not path.name.endswith((".lock", ".log"))] == []


def images(stage: Stage) -> list[Path]:
    return list(stage.paths.images.iterdir())


@pytest.mark.full
async def test_a_machine_that_runs_becomes_sandboxes_and_stays_as_it_is(stage: Stage) -> None:
    disk = stage.paths.state / "golden.qcow2"
    await asyncio.to_thread(lambda: shutil.copyfile(cloud_image(), disk))
    connection = libvirt.open(stage.libvirt)
    floppy = idle_floppy(stage.paths.state / "floppy")
    domain = connection.defineXML(foreign_xml(WHOLE, [(disk, "qcow2")], floppy=floppy))
    domain.create()

    def state() -> tuple[object, ...]:
        found = disk.stat()
        digest = hashlib.sha256(disk.read_bytes()).hexdigest()
        return digest, found.st_mtime_ns, found.st_ino, domain.XMLDesc(0), domain.info()[0], domain.ID()

    before, door = state(), Fluid(stage.paths.operator_socket)
    began = time.monotonic()
    image = await asyncio.to_thread(lambda: door.prepare_source("golden"))
    print(f"prepared in {time.monotonic() - began:.0f} s: {image.origin}")
    assert (
        image.origin == f"domain {WHOLE} of local, running, not quiesced (it has no channel to QEMU's agent)"
    )
    assert state() == before and domain.isActive()
    box = await asyncio.to_thread(used, stage)
    assert state() == before
    await stage.start()  # a backend that finds it all there takes the machine for nothing of its own
    await asyncio.to_thread(still_apart, stage, box)
    assert await asyncio.to_thread(door.remove_image, "golden") > 0
    assert state() == before and domain.isActive()
    connection.close()


def used(stage: Stage) -> FluidSandbox:
    """A sandbox of it, by its source's name, as an agent asks for one."""
    agent = Fluid(stage.paths.agent_socket)
    assert "golden" in {view.name for view in agent.sources()}
    box = agent.create_sandbox("golden", agent_id="e2e", name="of-golden")
    print(f"made by {box.noun.created_by} in {box.noun.ready_s} s")
    assert (box.noun.base_image, box.noun.created_by) == ("golden", "fork")
    who = box.run("hostname; cat /etc/machine-id; hostname -I").stdout.split()
    assert who == [box.noun.sandbox_name, box.noun.machine_id, box.noun.ip_address]
    box.write_file("/root/mark", b"mine\n")
    return box


def still_apart(stage: Stage, box: FluidSandbox) -> None:
    """The machine is no sandbox, no stock, no target, and nothing that is left over."""
    agent, door = Fluid(stage.paths.agent_socket), Fluid(stage.paths.operator_socket)
    deadline = time.monotonic() + LIMIT_S
    while door.sandbox(box.id).phase is not Phase.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(LOOK_S)
    mine = FluidSandbox(agent, box.noun)
    assert mine.read_file("/root/mark") == b"mine\n"
    assert [row.sandbox_name for row in door.fleet().sandboxes] == ["of-golden"]
    for name in ("golden", WHOLE):
        assert name not in {target.name for target in door.targets()}
        for ask in (agent.sandbox, agent.snapshots, door.stop, door.destroy):
            with pytest.raises(NotFound):
                ask(name)
    assert [host.stock for host in door.hosts()] == [0]
    assert left_of(door.leftovers()) == []
    mine.destroy()
