"""A machine that was there before Fluid, at both doors and the command line of a real backend."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt
import pytest

from backend.client import Fluid
from backend.errors import Conflict, ImageRefused, SourceNotFound, WrongState
from tests.bench.stage import CHECKOUT, Stage
from tests.fix_foreign import foreign_xml, raw_disk

LIMIT_S = 60
TARGETS = {"ssh_key_file": "/none", "known_hosts": "/none"}


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    """A backend whose config lists `web`, and whose libvirt has that, a marked machine, and a target."""
    async with Stage() as stage:
        inventory = stage.paths.config / "hosts.ini"
        inventory.write_text("[prod]\nweb-01 ansible_host=192.0.2.7\n")
        stage.configure(
            sources=[{"name": "web", "domain": "Web.Golden"}, {"name": "web-01"}],
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
    assert set(views) == {"web", "marked", "web-01"}
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
