"""Which commands a changed account is told with: the account files keep their last change only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backend.changes.attribution import Timeline
from backend.changes.dpkg import Package, hold_changes
from backend.changes.semantic import Semantics
from backend.disks import Entry, Pair
from backend.models import Changes, ChangeVerb, Command, FileKind, GroupChange, PackageChange, UserChange

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP_S = 60


def file(path: str, before_s: float | None, after_s: float) -> Pair:
    """An account file, last changed so long after the first point, at each of the two."""
    entry = Entry(path.encode(), FileKind.FILE, 0o644, 0, 0, 0, 0, 0, 12, 1, None, None, ())
    sides = [
        None if at is None else replace(entry, ctime_ns=int((START.timestamp() + at) * 1e9))
        for at in (before_s, after_s)
    ]
    return Pair(sides[0], sides[1], None, None)


def told(made: Changes, *texts: str, home: str = "", package_s: float | None = None) -> dict[str, list[str]]:
    """The commands of each account; one began each minute, and the last changed the account files."""
    commands = [
        Command(
            id=f"CMD-{number}",
            sandbox_id="SBX-1",
            command=text,
            started_at=START + timedelta(seconds=number * STEP_S),
            ended_at=START + timedelta(seconds=number * STEP_S + 1),
        )
        for number, text in enumerate(texts, 1)
    ]
    last = len(texts) * STEP_S + 0.5
    pairs = [file("/etc/passwd", 0, last), file("/etc/group", 0, last)]
    pairs += [file(home, None, STEP_S + 0.5)] if home else []
    pairs += [file("/var/lib/dpkg/info/nginx.list", None, package_s)] if package_s is not None else []
    Semantics(pairs, [], Timeline(commands)).attribute(made, {})
    return {one.name: one.commands for one in (*made.users, *made.groups)}


@pytest.fixture
def made(changes: Callable[..., Changes]) -> Changes:
    user = {"home": "/home/ada"}
    return changes(
        users=[
            UserChange(name="ada", verb=ChangeVerb.MODIFIED, before=user, after=user),
            UserChange(name="svc", verb=ChangeVerb.ADDED, after={"home": "/nonexistent"}),
        ],
        groups=[GroupChange(name="team", verb=ChangeVerb.ADDED, after={})],
    )


def test_a_hold_is_told_with_the_commands_that_name_it_and_else_with_the_last_that_wrote_the_database():
    texts = ("apt-mark hold bash", "apt-get install x", "apt-mark unhold bash-doc", "apt-mark hold 'bas?'")
    commands = [
        Command(
            id=f"CMD-{at}",
            sandbox_id="SBX-1",
            command=text,
            started_at=START + timedelta(seconds=at * STEP_S),
            ended_at=START + timedelta(seconds=at * STEP_S + 1),
        )
        for at, text in enumerate(texts, 1)
    ]
    semantics = Semantics([file("/var/lib/dpkg/status", 0, 4 * STEP_S + 0.5)], [], Timeline(commands))
    free = {name: Package(name, "1", "all", "installed") for name in ("bash", "base")}
    held = {name: replace(one, held=True) for name, one in free.items()}
    found = semantics.holds(hold_changes(free, held))
    assert {one.name: one.commands for one in found} == {
        "hold of bash": ["CMD-1"],
        "hold of base": ["CMD-4"],
    }
    assert semantics.holds([]) == []


def test_each_account_is_told_with_the_commands_that_name_it_and_not_with_the_last(made: Changes):
    assert told(
        made,
        "groupadd team",
        "useradd -r -M svc",
        "usermod -aG team ada && chown ada /srv",
        "cat /etc/passwd | grep svc; getent passwd ada",
        "passwd -l ada",
        "chown svc:team /srv/x",
        "gpasswd -a bob teams",
    ) == {"ada": ["CMD-3", "CMD-5"], "svc": ["CMD-2"], "team": ["CMD-1", "CMD-3"]}


def test_an_account_that_no_command_names_is_told_with_the_only_one_that_ran_or_with_none(made: Changes):
    assert told(made, "/root/setup.sh") == {"ada": ["CMD-1"], "svc": ["CMD-1"], "team": ["CMD-1"]}
    assert told(made, "/root/setup.sh", "groupadd team") == {"ada": [], "svc": [], "team": ["CMD-2"]}


def test_a_line_that_was_written_into_an_account_file_names_its_account(made: Changes):
    found = told(made, "echo 'team:x:900:' >> /etc/group", "true", "useradd -M svc")
    assert (found["team"], found["svc"], found["ada"]) == (["CMD-1"], ["CMD-3"], [])


def test_a_new_home_tells_when_its_user_was_made_where_no_command_names_it(changes: Callable[..., Changes]):
    made = changes(users=[UserChange(name="eve", verb=ChangeVerb.ADDED, after={"home": "/home/eve"})])
    assert told(made, "newusers list", "true", "groupadd x", home="/home/eve") == {"eve": ["CMD-1"]}


def test_an_account_that_a_package_made_is_told_with_the_commands_of_the_package(
    changes: Callable[..., Changes],
):
    made = changes(
        packages=[PackageChange(name="nginx", verb=ChangeVerb.ADDED, arch="amd64")],
        users=[UserChange(name="nginx", verb=ChangeVerb.ADDED, package="nginx", after={"home": "/"})],
    )
    texts = ("apt-get install -y nginx", "true", "usermod -aG adm ada")
    assert told(made, *texts, package_s=STEP_S + 0.5) == {"nginx": ["CMD-1"]}


def test_what_ran_before_the_first_point_did_nothing_since(made: Changes):
    commands = [
        Command(id="CMD-0", sandbox_id="SBX-1", command="useradd svc", started_at=START, ended_at=START)
    ]
    pairs = [file("/etc/passwd", 0.2, STEP_S)]
    Semantics(pairs, [], Timeline(commands)).attribute(made, {})
    assert made.users[1].commands == []
