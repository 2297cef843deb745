"""The guest's own word on what a diff shows: whatever is otherwise there, or not there, is named."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.errors import Unavailable
from backend.models import (
    Changes,
    ChangeVerb,
    Command,
    FileKind,
    GroupChange,
    UserChange,
    guest_path,
    wire_path,
)
from tests.e2e.tasks import driven, second_opinion
from tests.e2e.tasks.corpus import Task
from tests.e2e.tasks.second_opinion import Told, ask, differences
from tests.unit.playbooks_sample import Sample

KEY = b"k" * 32
CONTENT = b"1\n"
SUM = hashlib.sha256(CONTENT).hexdigest()
SECRET_SUM = hmac.new(KEY, SUM.encode(), hashlib.sha256).hexdigest()
ROOT = {"owner": "0 root", "group": "0 root"}
ADA = {
    "uid": "1601",
    "gid": "1601",
    "home": "/home/ada",
    "shell": "/bin/bash",
    "comment": "Ada Byron",
    "groups": "operators",
    "password": "locked",
}


def sample() -> Sample:
    made = Sample()
    made.add("/etc/x", CONTENT, mode=0o640)
    made.add("/etc/x.key", CONTENT, secret="private key", sha256=SECRET_SUM)
    made.add(b"/srv/caf\xe9\n", kind=FileKind.LINK, mode=0o777, target="/etc/x")
    made.add("/srv/low", kind=FileKind.DIRECTORY, mode=0o755, xattrs={"security.capability": "01"})
    made.add("/srv/null", kind=FileKind.CHARACTER, mode=0o600, device="1:3")
    made.add("/srv/gone", CONTENT, verb=ChangeVerb.REMOVED)
    made.add("/var/log/x", CONTENT, hidden="logs")
    made.parts["users"] = [
        UserChange(name="ada", verb=ChangeVerb.ADDED, after={**ADA, "ageing": "at most 90"}),
        UserChange(name="old", verb=ChangeVerb.REMOVED, before=ADA),
    ]
    made.parts["groups"] = [
        GroupChange(name="operators", verb=ChangeVerb.MODIFIED, after={"gid": "1500", "members": "ada,grace"})
    ]
    return made


def told() -> Told:
    file = {"kind": "file", "mode": "0644", "links": "1", "size": "2", "sha256": SUM, **ROOT}
    return Told(
        files={
            b"/etc/x": {**file, "mode": "0640"},
            b"/etc/x.key": dict(file),
            b"/srv/caf\xe9\n": {"kind": "link", "mode": "0777", "links": "1", "target": "/etc/x", **ROOT},
            b"/srv/low": {
                "kind": "directory",
                "mode": "0755",
                "attribute security.capability": "01",
                **ROOT,
            },
            b"/srv/null": {
                "kind": "character device",
                "mode": "0600",
                "links": "1",
                "device": "1:3",
                **ROOT,
            },
        },
        users={"ada": dict(ADA)},
        groups={"operators": {"gid": "1500", "members": "ada,grace"}},
    )


def test_a_guest_that_says_the_same_is_no_problem() -> None:
    assert differences(sample().changes(), told(), KEY) == []


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/etc/x", "sha256", "0" * 64),
        ("/etc/x", "mode", "0600"),
        ("/etc/x", "owner", "1601 ada"),
        ("/etc/x", "owner", "0 toor"),
        ("/etc/x", "group", "4 adm"),
        ("/etc/x", "size", "3"),
        ("/etc/x", "links", "2"),
        ("/etc/x", "kind", "directory"),
        ("/etc/x", "attribute security.capability", "02"),
        ("/etc/x.key", "sha256", "0" * 64),
        ("/srv/caf%E9%0A", "target", "/etc/y"),
        ("/srv/low", "attribute security.capability", "02"),
        ("/srv/null", "device", "1:5"),
    ],
)
def test_each_attribute_that_the_guest_says_otherwise_is_named(path: str, field: str, value: str) -> None:
    guest = told()
    guest.files[guest_path(path)][field] = value
    (words,) = differences(sample().changes(), guest, KEY)
    assert words.startswith(f"{path}: {field} is ") and words.endswith(" in the guest")


def test_an_attribute_that_only_the_diff_has_is_named() -> None:
    guest = told()
    del guest.files[b"/srv/low"]["attribute security.capability"]
    assert differences(sample().changes(), guest, KEY) == [
        "/srv/low: attribute security.capability is '01' in the diff, 'none' in the guest"
    ]


def test_what_is_gone_is_gone_in_the_guest_and_what_is_there_is_there() -> None:
    guest = told()
    guest.files[b"/srv/gone"] = guest.files.pop(b"/etc/x")
    guest.users["old"] = guest.users.pop("ada")
    assert differences(sample().changes(), guest, KEY) == [
        "/etc/x: in the diff it is there, in the guest it is not",
        "/srv/gone: in the guest it is there, in the diff it is not",
        "user ada: in the diff it is there, in the guest it is not",
        "user old: in the guest it is there, in the diff it is not",
    ]


@pytest.mark.parametrize("field", sorted(ADA))
def test_each_field_of_a_user_is_held_against_the_guests(field: str) -> None:
    guest = told()
    guest.users["ada"][field] = "another"
    assert differences(sample().changes(), guest, KEY) == [
        f"user ada: {field} is {ADA[field]!r} in the diff, 'another' in the guest"
    ]


def test_a_groups_members_are_held_against_the_guests() -> None:
    guest = told()
    guest.groups["operators"]["members"] = "ada"
    assert differences(sample().changes(), guest, KEY) == [
        "group operators: members is 'ada,grace' in the diff, 'ada' in the guest"
    ]


def test_many_differences_are_counted() -> None:
    made = Sample()
    for number in range(50):
        made.add(f"/srv/{number}", CONTENT)
    found = differences(made.changes(), Told({}, {}, {}), KEY)
    assert len(found) == 21 and found[-1] == "and 30 more differences of the diff and the guest"


# --- asking, by the programs of this machine ----------------------------------------------------------------


class Here:
    """This machine in place of a guest, whose disk begins at a folder."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def run(self, line: str, *, stdin: bytes | None, timeout: int) -> SimpleNamespace:
        self.lines.append(line)
        done = subprocess.run(
            ["bash", "-c", line], input=stdin or b"", capture_output=True, timeout=timeout, check=False
        )
        return SimpleNamespace(
            stdout=done.stdout.decode(),
            stderr=done.stderr.decode(),
            exit_code=done.returncode,
            truncated=False,
        )


NAMES = (
    b"plain",
    b"two words",
    b"-rf",
    b"$HOME `id`",
    b"caf\xe9",
    b"two\nlines",
    b"back\\slash",
    b"%s %n {{ x }}",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(second_opinion, "ALONE", ("env", f"--chdir={tmp_path}"))
    return tmp_path


def test_a_guest_tells_of_names_of_any_bytes_and_none_of_them_is_in_a_command(root: Path) -> None:
    made = Sample()
    me = {"uid": os.getuid(), "gid": os.getgid(), "owner": _name("u"), "group": _name("g")}
    for name in NAMES:
        file = root / os.fsdecode(name)
        file.write_bytes(CONTENT)
        file.chmod(0o640)
        os.setxattr(file, b"user.seen", b"\0\xff")
        (root / os.fsdecode(name + b".link")).symlink_to(os.fsdecode(name))
        made.add(b"/" + name, CONTENT, mode=0o640, xattrs={"user.seen": "00ff"}, **me)
        made.add(b"/" + name + b".link", kind=FileKind.LINK, mode=0o777, target=wire_path(name), **me)
        made.add(b"/" + name + b".gone", CONTENT, verb=ChangeVerb.REMOVED)
    box = Here()
    guest = ask(cast("Any", box), made.changes())
    assert differences(made.changes(), guest, KEY) == []
    assert len(guest.files) == 2 * len(NAMES)
    assert not any("two words" in line or "lines" in line for line in box.lines)


def _name(letter: str) -> str:
    return subprocess.run(["id", f"-{letter}n"], capture_output=True, text=True, check=True).stdout.strip()


def test_a_guest_tells_its_accounts(root: Path) -> None:
    guest = ask(cast("Any", Here()), Sample().changes())
    assert guest.files == {}
    assert (guest.users["root"]["uid"], guest.users["root"]["home"]) == ("0", "/root")
    assert guest.groups["root"]["gid"] == "0"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"exit_code": 1}, "it ended with 1"),
        ({"truncated": True}, "it says too much"),
        ({"stdout": "bm8="}, "what nobody can read"),
        ({"stdout": "no base64"}, "what nobody can read"),
    ],
)
def test_a_guest_that_does_not_answer_is_no_guest_that_agrees(answer: dict[str, Any], why: str) -> None:
    usual = {"stdout": "", "stderr": "", "exit_code": 0, "truncated": False}
    run: Callable[..., SimpleNamespace] = lambda *_, **__: SimpleNamespace(**{**usual, **answer})  # noqa: E731
    with pytest.raises(Unavailable, match=why):
        ask(cast("Any", SimpleNamespace(run=run)), sample().changes())


class Door:
    """A sandbox where every command works, its diff, and no playbook."""

    id = "SBX-1"

    def create_sandbox(self, *_: object, **__: object) -> Door:
        return self

    def run(self, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(exit_code=0)

    def diff(self, *_: object) -> Changes:
        return sample().changes()

    def commands(self, *_: object) -> list[Command]:
        return []

    def snapshot(self, *_: object) -> None: ...

    def destroy(self, *_: object) -> None: ...

    def generate_playbook(self, *_: object) -> None:
        raise Unavailable("no playbook")


def test_what_the_guest_says_otherwise_fails_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = told()
    guest.files[b"/etc/x"]["mode"] = "0644"
    monkeypatch.setattr(second_opinion, "ask", lambda *_: guest)
    row = driven.run(cast("Any", Door()), "x", Task("x", (), frozenset(), {}, ""), tmp_path / "x", KEY)
    assert row.verdict == "FAILED"
    assert row.problems == [
        "/etc/x: mode is '0640' in the diff, '0644' in the guest",
        "unavailable: no playbook",
    ]
