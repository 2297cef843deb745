"""A guest that is frozen for a copy is thawed, whatever happens: at once, after a failure, after a crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.config import Config
from backend.errors import HypervisorDown, HypervisorFailed, NotFound, TimedOut
from backend.fleet import DomainSources
from backend.hypervisor import sources
from backend.hypervisor.source_xml import SourceDomain

SOURCE = SourceDomain(
    "web", "u", "running", None, "x86_64", efi=False, kernel=False, agent="connected", disks=()
)
FAILED = HypervisorFailed("libvirt says no", remedy="read its log")
LATE = TimedOut("too late", remedy="wait")


class Guest:
    """The domain and the connection to it: what was asked of it, in order, and how each answers."""

    def __init__(self, **answers: Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def call(self, function: Callable[[Any], Any], *, what: str, limit_s: float = 0) -> Any:
        await asyncio.sleep(0)
        return function(self)

    def lookupByName(self, _: str) -> Guest:  # noqa: N802 - libvirt's names
        return self

    lookupByUUIDString = lookupByName  # noqa: N815

    def _say(self, word: str) -> int:
        self.asked.append(word)
        if error := self.answers.get(word):
            raise error
        return 1

    def isActive(self) -> int:  # noqa: N802
        return 1

    def fsFreeze(self) -> int:  # noqa: N802
        return self._say("freeze")

    def fsThaw(self) -> int:  # noqa: N802
        return self._say("thaw")

    def backupBegin(self, *_: Any) -> int:  # noqa: N802
        return self._say("begin")

    def jobStats(self, _: int) -> dict[str, int]:  # noqa: N802
        return {"operation": sources.libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}

    def abortJob(self) -> int:  # noqa: N802
        return self._say("abort")


async def begin(guest: Guest) -> tuple[str, float]:
    return await sources._begin_at_one_point(cast("Any", guest), SOURCE, "<domainbackup/>")


async def test_the_copy_begins_between_freeze_and_thaw() -> None:
    guest = Guest()
    unquiesced, frozen_s = await begin(guest)
    assert guest.asked == ["freeze", "begin", "thaw"]
    assert unquiesced == "" and frozen_s > 0


async def test_nobody_in_a_paused_guest_is_asked() -> None:
    guest, paused = Guest(), replace(SOURCE, state="paused")
    told = await sources._begin_at_one_point(cast("Any", guest), paused, "<domainbackup/>")
    assert (guest.asked, told) == (["begin"], ("it is paused", 0.0))


async def test_an_agent_that_refuses_gives_a_copy_that_says_so() -> None:
    guest = Guest(freeze=FAILED, thaw=FAILED)
    assert await begin(guest) == ("libvirt says no", 0.0)
    assert guest.asked == ["freeze", "begin", "thaw"]


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ({"begin": FAILED}, ["freeze", "begin", "thaw"]),
        ({"freeze": LATE}, ["freeze", "thaw"]),
        ({"thaw": FAILED}, ["freeze", "begin", "thaw", "abort"]),
    ],
    ids=["no copy", "no answer", "no thaw"],
)
async def test_what_fails_is_told_and_the_guest_is_thawed(
    answers: dict[str, Exception], asked: list[str]
) -> None:
    guest = Guest(**answers)
    with pytest.raises(type(next(iter(answers.values())))):
        await begin(guest)
    assert guest.asked == asked


def service(state: Path, thaw: Callable[[str], None], told: list[str]) -> DomainSources:
    class Machine:
        is_local = True

        async def thaw_source(self, name: str) -> None:
            thaw(name)

    async def note(actor: object, action: str, noun: str, name: str) -> None:
        told.append(f"{action} {name}")

    hosts = SimpleNamespace(named=lambda _: SimpleNamespace(require=Machine))
    nothing = cast("Any", None)
    audit = cast("Any", SimpleNamespace(note=note))
    return DomainSources(
        Config(), state, nothing, audit, nothing, nothing, cast("Any", hosts), lambda: frozenset()
    )


async def recovered(state: Path, error: Exception | None) -> tuple[list[str], bool]:
    """What was thawed and told after a crash, and whether the note of it is left."""
    note = state / "frozen/web.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text(json.dumps({"host": "local", "domain": "Web.1"}))
    told: list[str] = []

    def thaw(name: str) -> None:
        if error:
            raise error
        told.append(f"thawed {name}")

    await service(state, thaw, told).recover()
    return told, note.exists()


async def test_the_next_start_thaws_what_a_crash_left_frozen(tmp_path: Path) -> None:
    assert await recovered(tmp_path, None) == (["thawed Web.1", "source.thaw Web.1"], False)
    assert await recovered(tmp_path, HypervisorDown("silent", remedy="wait")) == ([], True)
    assert (await recovered(tmp_path, NotFound("gone")))[1] is False
