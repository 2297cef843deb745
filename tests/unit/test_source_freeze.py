"""A guest that is frozen for a copy is thawed, whatever happens: at once, after a failure, after a crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from backend import background as background_module
from backend.background import Background
from backend.config import Config, SourceConfig
from backend.errors import HostNotFound, HypervisorDown, HypervisorFailed, NotFound, TimedOut, WrongState
from backend.fleet import DomainSources, domain_sources
from backend.hypervisor import Backup, Copying, SourceDomain, sources
from backend.images import Images, ImportLimits

SOURCE = SourceDomain(
    "web", "u", "running", None, "x86_64", efi=False, kernel=False, agent="connected", disks=()
)
FAILED = HypervisorFailed("libvirt says no", remedy="read its log")
LATE = TimedOut("too late", remedy="wait")


class Silent(libvirt.libvirtError):
    """libvirt's word for an agent that does not answer, or went away in the middle."""

    def __init__(self) -> None:
        Exception.__init__(self, "the agent is silent")

    def get_error_code(self) -> int:
        return libvirt.VIR_ERR_AGENT_UNRESPONSIVE


SILENT = HypervisorFailed("the agent is silent", remedy="see it")
SILENT.__cause__ = Silent()


DOWN = HypervisorDown("no connection", remedy="wait")


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

    def fsFreeze(self) -> int:  # noqa: N802
        return self._say("freeze")

    def fsThaw(self) -> int:  # noqa: N802
        return self._say("thaw")

    def backupBegin(self, *_: Any) -> int:  # noqa: N802
        return self._say("begin")

    def isActive(self) -> int:  # noqa: N802
        return 1


async def begin(
    guest: Guest, copying: Copying | None = None, source: SourceDomain = SOURCE
) -> tuple[str, float]:
    copying = copying or Copying(Path("/copy"))
    return await sources._begin_at_one_point(cast("Any", guest), source, "<domainbackup/>", copying)


async def test_the_copy_begins_between_freeze_and_thaw() -> None:
    guest = Guest()
    unquiesced, frozen_s = await begin(guest)
    assert guest.asked == ["freeze", "begin", "thaw"]
    assert unquiesced == "" and frozen_s > 0


async def test_nobody_in_a_paused_guest_is_asked() -> None:
    guest, paused = Guest(), replace(SOURCE, state="paused")
    told = await begin(guest, source=paused)
    assert (guest.asked, told) == (["begin"], ("it is paused", 0.0))


async def test_an_agent_that_refuses_gives_a_copy_that_says_so() -> None:
    guest = Guest(freeze=FAILED, thaw=FAILED)
    assert await begin(guest) == ("libvirt says no", 0.0)
    assert guest.asked == ["freeze", "begin", "thaw"]


@pytest.mark.parametrize(
    ("answers", "asked", "frozen", "writing"),
    [
        ({"begin": FAILED}, ["freeze", "begin", "thaw"], False, False),
        ({"begin": LATE}, ["freeze", "begin", "thaw"], False, True),
        ({"begin": DOWN, "thaw": DOWN}, ["freeze", "begin", "thaw"], True, True),
        ({"freeze": LATE}, ["freeze", "thaw"], True, False),
        ({"thaw": FAILED}, ["freeze", "begin", "thaw"], True, True),
    ],
    ids=["no copy", "perhaps a copy", "gone", "no answer", "no thaw"],
)
async def test_what_fails_is_told_with_what_may_go_on_there(
    answers: dict[str, Exception], asked: list[str], frozen: bool, writing: bool
) -> None:
    guest, copying = Guest(**answers), Copying(Path("/copy"))
    with pytest.raises(type(next(iter(answers.values())))):
        await begin(guest, copying)
    assert (guest.asked, copying.frozen, copying.writing) == (asked, frozen, writing)


@pytest.mark.parametrize(("thaw", "frozen"), [(None, False), (FAILED, False), (SILENT, True), (DOWN, True)])
async def test_a_guest_whose_agent_went_away_in_the_freeze_may_stand_still(
    thaw: Exception | None, frozen: bool
) -> None:
    guest, copying = Guest(freeze=SILENT, **({"thaw": thaw} if thaw else {})), Copying(Path("/copy"))
    assert await begin(guest, copying) == ("the agent is silent", 0.0)
    assert copying.frozen == frozen


# --- what a copy leaves is ended in the background -------------------------------------------------------

ENTRY = SourceConfig(name="web", domain="Web.1")


class Machine:
    """A host's libvirt, and what was done there: ``away`` has answers that fail, ``copy`` is a copy."""

    is_local = True

    def __init__(self, told: list[str], **away: Exception) -> None:
        self.told = told
        self.away = away
        self.copy: Callable[[Copying], None] = lambda _: None

    def _answer(self, what: str, *, word: str) -> None:
        if error := self.away.get(word):
            self.told.append(f"{word} fails")
            raise error
        self.told.append(what)

    async def thaw_source(self, name: str) -> None:
        self._answer(f"thawed {name}", word="thaw")

    def copy_place(self, here: Path) -> Path:
        return here.parent / "copy"

    async def back_up_source(
        self, source: SourceDomain, target: str, copying: Copying, into: Path, limits: object
    ) -> Backup:
        self.copy(copying)
        into.write_bytes(b"a copy")
        return Backup("", 0.1, 0.1)

    async def end_source_copy(self, name: str, file: Path, late_s: float) -> bool:
        self._answer(f"ended {name} {file.name} {late_s:g}", word="end")
        return bool(late_s)


@dataclass
class Lab:
    """The service on a host that may be away; what it did there and told, in order."""

    state: Path
    background: Background
    told: list[str]
    machine: Machine
    listed: bool = True

    def service(self) -> DomainSources:
        async def note(actor: object, action: str, noun: str, name: str) -> None:
            self.told.append(f"{action} {name}")

        def named(name: str) -> SimpleNamespace:
            if not self.listed:
                raise HostNotFound(f"no host {name}")
            return SimpleNamespace(require=lambda: self.machine)

        made = DomainSources(
            Config(),
            self.state,
            Images(self.state),
            cast("Any", SimpleNamespace(note=note)),
            cast("Any", None),
            cast("Any", SimpleNamespace(limits=ImportLimits(1 << 30, 0))),
            cast("Any", SimpleNamespace(named=named)),
            lambda: frozenset(),
            self.background,
        )
        made.recover()
        return made

    async def copy(self, service: DomainSources) -> None:
        source = replace(SOURCE, name="Web.1")
        await service._back_up(ENTRY, source, self.state)

    def left(self) -> list[str]:
        return sorted(str(file.relative_to(self.state)) for file in self.state.glob("*/*"))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(background_module, "AWAY_PAUSE_S", 0.01)
    monkeypatch.setattr(background_module, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(domain_sources, "LATE_S", 0.02)
    told: list[str] = []
    async with Background() as background:
        yield Lab(tmp_path, background, told, Machine(told))


def noted(state: Path, folder: str, **data: str) -> None:
    (state / folder).mkdir()
    (state / folder / "web.json").write_text(json.dumps({"host": "local", "domain": "Web.1", **data}))


@pytest.mark.parametrize("error", [DOWN, LATE, FAILED], ids=["away", "silent", "refuses"])
async def test_what_a_crash_left_frozen_is_thawed_again_and_again_until_it_is(
    lab: Lab, error: Exception
) -> None:
    noted(lab.state, "frozen")  # as the version before wrote it
    lab.machine.away["thaw"] = error
    lab.service()
    await lab.until(lambda: lab.told.count("thaw fails") > 2)
    assert lab.left() == ["frozen/web.json"]
    lab.machine.away.clear()
    await lab.until(lambda: not lab.left())
    done = ["thawed Web.1", "source.thaw Web.1", "thawed Web.1"]
    assert lab.told[-3:] == done, "and again, for a freeze that was on its way"


async def test_what_is_gone_is_not_thawed_and_a_host_that_nobody_lists_is_waited_for(lab: Lab) -> None:
    noted(lab.state, "frozen")
    lab.machine.away["thaw"] = NotFound("gone")
    lab.listed = False
    lab.service()
    await asyncio.sleep(0.1)
    assert (lab.told, lab.left()) == ([], ["frozen/web.json"])
    lab.listed = True
    await lab.until(lambda: not lab.left())
    assert lab.told == ["thaw fails"]


async def test_a_copy_that_a_crash_left_is_ended_though_its_guest_cannot_be_thawed(lab: Lab) -> None:
    noted(lab.state, "frozen", file="/images/copy")
    noted(lab.state, "copies", file="/images/copy")
    lab.machine.away.update(thaw=FAILED, end=DOWN)
    lab.service()
    await lab.until(lambda: lab.told.count("end fails") > 2)
    assert lab.left() == ["copies/web.json", "frozen/web.json"]
    del lab.machine.away["end"]
    await lab.until(lambda: lab.left() == ["frozen/web.json"])
    ended = lab.told.index("ended Web.1 copy 0.02")
    assert "source.abort Web.1" in lab.told[ended:]


async def test_a_copy_that_is_whole_leaves_nothing_to_be_ended(lab: Lab) -> None:
    at_work: list[list[str]] = []
    lab.machine.copy = lambda _: at_work.append(lab.left())
    await lab.copy(lab.service())
    assert at_work == [["copies/web.json", "frozen/web.json"]], "noted ahead"
    assert (lab.told, lab.left()) == (["ended Web.1 copy 0"], [])


async def test_a_guest_that_a_copy_left_frozen_is_thawed_when_its_host_is_back(lab: Lab) -> None:
    def cut_off(copying: Copying) -> None:
        copying.frozen = copying.writing = True
        raise DOWN

    lab.machine.copy = cut_off
    lab.machine.away.update(thaw=DOWN, end=DOWN)
    service = lab.service()
    with pytest.raises(HypervisorDown):
        await lab.copy(service)
    await lab.until(lambda: lab.told.count("thaw fails") > 1 and lab.told.count("end fails") > 1)
    with pytest.raises(WrongState, match="an earlier copy of web is not ended yet on local"):
        await lab.copy(service)
    lab.machine.away.clear()
    await lab.until(lambda: not lab.left())
    assert {"thawed Web.1", "source.thaw Web.1", "ended Web.1 copy 0.02", "source.abort Web.1"} <= {*lab.told}


async def test_a_new_copy_takes_over_a_guest_that_may_stand_still(lab: Lab) -> None:
    noted(lab.state, "frozen")
    lab.machine.away["thaw"] = DOWN
    service = lab.service()
    await lab.until(lambda: "thaw fails" in lab.told)

    def copy(copying: Copying) -> None:
        assert copying.frozen and not lab.background.running("thaw web")
        copying.frozen = False  # it was thawed for sure

    lab.machine.copy = copy
    await lab.copy(service)
    assert lab.left() == []
