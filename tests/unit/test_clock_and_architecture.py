"""Two things that files state which noise hides, and that no task sets: a clock's time, an architecture."""

from __future__ import annotations

import pytest

from backend.approvals.risks import risks
from backend.changes import residual
from backend.changes.noise import NoiseProfile
from backend.models import Changes, ChangeVerb, FileChange, FileKind, FileState, SettingChange, now
from backend.playbooks import generate
from tests.unit.playbooks_sample import Sample
from tests.unit.settings_sample import File, stated

ADJTIME, ARCH = "/etc/adjtime", "/var/lib/dpkg/arch"
LOCAL = (ADJTIME, None, "0.0 0 0.0\n0\nLOCAL\n")
FOREIGN = (ARCH, "amd64\n", "amd64\ni386\n")


def hidden(file: File) -> Changes:
    """A change of a file that the default profile hides, and what it states."""
    state = FileState(kind=FileKind.FILE, mode=0o644, uid=0, gid=0, sha256="a" * 64)
    change = FileChange(path=file[0], verb=ChangeVerb.ADDED, after=state)
    change.hidden = NoiseProfile.default().hides(change)
    assert change.hidden
    return Changes(
        id="CHG-1", sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b", created_at=now(),
        files=[change], settings=stated(file, noise=change.hidden),
    )  # fmt: skip


def shown(changes: Changes) -> list[SettingChange]:
    return [one for one in changes.settings if not one.hidden]


@pytest.mark.parametrize(
    ("file", "name", "note"),
    [
        (LOCAL, "hardware clock", "`timedatectl set-local-rtc 1` does"),
        ((ADJTIME, LOCAL[2], None), "hardware clock", "`timedatectl set-local-rtc 0` does"),
        (FOREIGN, "architecture i386", "`dpkg --add-architecture i386` does"),
        ((ARCH, FOREIGN[2], FOREIGN[1]), "architecture i386", "`dpkg --remove-architecture i386` does"),
    ],
)
def test_it_is_told_compared_and_noted(file: File, name: str, note: str) -> None:
    changes = hidden(file)
    assert [one.name for one in shown(changes)] == [name]
    missing = residual(changes, changes.model_copy(update={"files": [], "settings": []}))
    assert [(row.kind, row.name) for row in missing] == [("missing", name)]
    sample = Sample()
    sample.add("/srv/x", b"x")
    sample.parts["settings"] = changes.settings
    draft = generate(sample.changes(), [], sample.blobs, name="Test")
    assert draft.notes == [f"{name}: no module of ansible.builtin sets it; {note}"]


def test_no_command_is_told_that_a_guest_wrote() -> None:
    sample = Sample()
    sample.add("/srv/x", b"x")
    sample.parts["settings"] = hidden((ARCH, "amd64\n", "amd64\ni386; sh x\n")).settings
    (note,) = generate(sample.changes(), [], sample.blobs, name="Test").notes
    assert note == "architecture i386; sh x: no module of ansible.builtin sets it"


def test_the_drift_of_a_clock_stays_noise() -> None:
    assert shown(hidden((ADJTIME, "0.0 0 0.0\n0\nUTC\n", "0.1 1754 0.0\n1754\nUTC\n"))) == []
    assert shown(hidden((ADJTIME, None, "0.0 0 0.0\n0\nUTC\n"))) == []


def test_a_careful_reader_is_told_of_the_clock() -> None:
    assert risks(hidden(LOCAL)) == ["lets the hardware clock keep local time"]
