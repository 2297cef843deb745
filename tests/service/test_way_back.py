"""The way back from an apply, over a real database. Targets are stood in for, what is kept of them is not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import ANY

import pytest

from backend.approvals import ApprovalBook, Approvals, WaysBack
from backend.approvals.book import became
from backend.audit import Audit
from backend.changes import LIMITS, Asker, BlobStore, Differ, NoiseProfile, Told
from backend.config import Config
from backend.disks import Content
from backend.disks.records import Node, pack
from backend.errors import LimitReached, NotFound, RoleDenied, TargetNotFound, WrongState
from backend.models import (
    KEPT_FOR,
    Approval,
    ApprovalState,
    Changes,
    Identity,
    Playbook,
    Role,
    Run,
    RunKind,
    RunState,
    new_id,
    now,
)
from backend.playbooks import Playbooks, digest
from backend.store import EventBus, Store
from backend.targets import Keeper, Kept, Wanted, keeping
from tests.fix_manifests import Rows, kept_in
from tests.unit.playbooks_sample import Sample

KEY = b"k" * 32
AGENT = Identity(uid=2001, name="agent", role=Role.AGENT)
ANNA = Identity(uid=3001, name="anna", role=Role.OPERATOR)
RUN = "RUN-00000001"
YAML = """---
- name: A test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Write /srv/x
      ansible.builtin.copy:
        src: files/{sha}
        dest: /srv/x
        mode: "0644"
"""
NEW = b"new\n"
SHA = hashlib.sha256(NEW).hexdigest()
FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
PASSWD = {"/etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "/etc/group": b"root:x:0:\n"}


def machine(files: Mapping[str, bytes | str | None]) -> Told:
    """What a machine with these files tells: bytes are a file, text is a link's target, None is a folder."""
    nodes: dict[bytes, Node] = {}
    contents: dict[bytes, Content] = {}

    def put(path: bytes, mode: int, size: int = 0, target: bytes | None = None, when: int = 0) -> None:
        nodes[path] = Node(path, mode, 0, 0, 1, 1, size, 0, when, None, target, ())

    put(b"/", FOLDER)
    for name, what in (PASSWD | dict(files)).items():
        path = name.encode()
        for folder in (path[:at] for at in range(1, len(path)) if path[at : at + 1] == b"/"):
            if folder not in nodes:
                put(folder, FOLDER)
        if isinstance(what, bytes):
            put(path, FILE, len(what), when=zlib.crc32(what))  # written at another time
            md5 = hashlib.md5(what, usedforsecurity=False).hexdigest()
            contents[path] = Content(len(what), hashlib.sha256(what).hexdigest(), md5, what, "")
        else:
            put(path, FOLDER if what is None else LINK, target=what.encode() if what else None)
    return Told(b"".join(pack(nodes[path]) for path in sorted(nodes)), contents)


class StandIns(Keeper):
    """Targets that tell what a test gives them; what is kept of them is kept for real."""

    def __init__(self, folder: Path) -> None:
        super().__init__(cast("Any", None), folder, KEY)
        self.now: dict[str, Told] = {}

    async def look(self, name: str, wanted: Wanted) -> Kept:
        return Kept(self.now[name], wanted)


@pytest.fixture
def keeper(tmp_path: Path) -> StandIns:
    (tmp_path / "kept").mkdir(mode=0o700)
    return StandIns(tmp_path / "kept")


@pytest.fixture
def audit(store: Store, tmp_path: Path) -> Audit:
    return Audit(store, tmp_path / "spool", tmp_path / "key", tmp_path / "head")


@pytest.fixture
def book(store: Store, bus: EventBus) -> ApprovalBook:
    return ApprovalBook(store, bus)


class Pipeline:
    """Where the machines would be."""

    def __init__(self) -> None:
        self.rehearsed: list[str] = []
        self.under_way: set[str] = set()

    def rehearsals_of(self, uid: int) -> set[str]:
        return self.under_way

    def rehearse(self, approval: Approval) -> None:
        self.rehearsed.append(approval.id)


class OneGroup:
    """A group that everybody may ask for."""

    def allowed(self, actor: Identity, names: Any) -> Any:
        return names

    def resolve(self, names: Any) -> list[Any]:
        return [SimpleNamespace(name=name, group="web", approvals=1) for name in names]


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    async def load(sandbox_id: str) -> Any:
        return SimpleNamespace(id=sandbox_id, sandbox_name="web", agent_id="")

    blobs = BlobStore(tmp_path / "blobs")
    return SimpleNamespace(
        load=load,
        source_digest=lambda _: "debian-12",
        blobs=blobs,
        differ=Differ(cast("Any", None), blobs, KEY, NoiseProfile.load(tmp_path / "none")),
        asker=Asker(cast("Any", None), kept_in(Rows()), blobs, KEY, LIMITS),
    )


@pytest.fixture
def playbooks(store: Store, audit: Audit, fleet: Any) -> Playbooks:
    return Playbooks(store, audit, fleet)


@pytest.fixture
def ways_back(store: Store, audit: Audit, fleet: Any, playbooks: Playbooks, keeper: StandIns) -> WaysBack:
    return WaysBack(store, audit, fleet, playbooks, keeper)


@pytest.fixture
def approvals(
    store: Store,
    book: ApprovalBook,
    audit: Audit,
    playbooks: Playbooks,
    pipeline: Pipeline,
    fleet: Any,
    ways_back: WaysBack,
) -> Approvals:
    runs = SimpleNamespace(load=store.runs.get)
    parts: list[Any] = [Config(), store, book, pipeline, audit, fleet, playbooks, runs, OneGroup(), ways_back]
    return Approvals(*parts, lambda: None)


def a_key(word: str) -> bytes:
    return f"-----BEGIN PRIVATE KEY-----\nMII{word}\n-----END PRIVATE KEY-----\n".encode()


@pytest.fixture
async def applied(store: Store, book: ApprovalBook, fleet: Any) -> Run:
    """The run of an apply that wrote /srv/x in a folder of its own, to two targets."""
    fleet.blobs.put(NEW)
    sample = Sample()
    sample.add("/srv/x", NEW)
    changes: Changes = await store.changes.insert(sample.changes())
    yaml = YAML.format(sha=SHA)
    playbook = await store.playbooks.insert(
        Playbook(
            id="PBK-00000001",
            name="web-00000001",
            sandbox_id="SBX-00000001",
            owner_uid=AGENT.uid,
            yaml=yaml,
            files={SHA: len(NEW)},
            digest=digest(yaml, [SHA]),
            created_at=now(),
        )
    )
    at = now()
    approval = Approval(
        id=new_id("APR"),
        sandbox_id=playbook.sandbox_id,
        playbook_id=playbook.id,
        targets=["web-01", "web-02"],
        reason="tls",
        requester_uid=AGENT.uid,
        state=ApprovalState.APPLIED,
        created_at=at,
        updated_at=at,
        expires_at=at + timedelta(hours=1),
    )
    approval.evidence.changes_id = changes.id
    await book.add(approval)
    run = Run(
        id=RUN, kind=RunKind.APPLY, state=RunState.SUCCESSFUL, approval_id=approval.id,
        playbook_id=playbook.id, started_at=at,
    )  # fmt: skip
    return await store.runs.insert(run)


WANTED = Wanted(frozenset({*LIMITS.whole, b"/srv/x"}))


async def had(keeper: StandIns, **machines: Told) -> None:
    """What targets had before the apply."""
    for name, told in machines.items():
        keeper.now[name.replace("_", "-")] = told
        await keeper.keep(RUN, name.replace("_", "-"), WANTED)


async def back(approvals: Approvals, playbooks: Playbooks, target: str = "") -> Playbook:
    asked = await approvals.request_rollback(ANNA, RUN, target)
    assert (asked.state, asked.rolls_back, asked.requester_uid) == (ApprovalState.REHEARSING, RUN, ANNA.uid)
    return await playbooks.load(asked.playbook_id)


def contents(playbook: Playbook, fleet: Any) -> list[bytes]:
    return [fleet.blobs.get(sha256) for sha256 in playbook.files]


async def test_the_way_back_leads_to_nothing_where_there_was_nothing(
    approvals: Approvals, playbooks: Playbooks, pipeline: Pipeline, keeper: StandIns, applied: Run
) -> None:
    await had(keeper, web_01=machine({"/srv": None}), web_02=machine({"/srv": None}))
    keeper.now |= dict.fromkeys(("web-01", "web-02"), machine({"/srv/x": NEW}))
    playbook = await back(approvals, playbooks)
    assert [task.name for task in playbook.tasks] == ["Remove /srv/x"]
    assert len(pipeline.rehearsed) == 1


async def test_the_way_back_leads_to_what_a_target_had_of_its_own(
    approvals: Approvals, playbooks: Playbooks, keeper: StandIns, fleet: Any, applied: Run
) -> None:
    own = machine({"/srv/x": b"mine\n"})
    await had(keeper, web_01=own, web_02=own)
    keeper.now |= dict.fromkeys(
        ("web-01", "web-02"), machine({"/srv/x": NEW, "/srv/other": b"of somebody\n"})
    )
    playbook = await back(approvals, playbooks)
    assert [task.name for task in playbook.tasks] == ["Write /srv/x"]
    assert contents(playbook, fleet) == [b"mine\n"]


async def test_targets_that_had_different_things_are_taken_back_one_by_one(
    approvals: Approvals, playbooks: Playbooks, keeper: StandIns, fleet: Any, applied: Run
) -> None:
    await had(keeper, web_01=machine({"/srv/x": b"one\n"}), web_02=machine({"/srv/x": b"two\n"}))
    keeper.now |= dict.fromkeys(("web-01", "web-02"), machine({"/srv/x": NEW}))
    with pytest.raises(WrongState, match="did not have the same") as refused:
        await approvals.request_rollback(ANNA, RUN)
    assert f"fluid runs rollback {RUN} --target web-02" in str(refused.value.remedy)
    assert contents(await back(approvals, playbooks, "web-02"), fleet) == [b"two\n"]
    with pytest.raises(TargetNotFound, match="web-03"):
        await approvals.request_rollback(ANNA, RUN, "web-03")


async def test_a_secret_that_a_target_had_is_a_variable_whose_value_was_kept(
    approvals: Approvals,
    playbooks: Playbooks,
    keeper: StandIns,
    book: ApprovalBook,
    ways_back: WaysBack,
    store: Store,
    applied: Run,
    tmp_path: Path,
) -> None:
    """A private key, and a file with a password: neither is in the database or in a file in clear."""
    key = a_key("hunter2secret")
    await had(keeper, web_01=machine({"/srv/x": key}))
    keeper.now["web-01"] = machine({"/srv/x": NEW})
    playbook = await back(approvals, playbooks, "web-01")
    assert playbook.secrets == ["content_of_srv_x"] and playbook.asked == [] and playbook.kept == RUN
    asked = next(row for row in await book.all() if row.rolls_back)
    assert await ways_back.values(asked, playbook) == {"content_of_srv_x": key.decode()}
    text = playbook.model_dump_json() + (await store.changes.get(playbook.changes_id)).model_dump_json()
    assert "hunter2secret" not in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"hunter2secret" not in file.read_bytes(), file


async def test_targets_that_had_different_secrets_are_taken_back_one_by_one(
    approvals: Approvals,
    playbooks: Playbooks,
    keeper: StandIns,
    book: ApprovalBook,
    ways_back: WaysBack,
    applied: Run,
) -> None:
    """Their playbooks are the same: a secret is a variable. No target gets another's."""
    ones, twos = a_key("hunter2one"), a_key("hunter2two")
    await had(keeper, web_01=machine({"/srv/x": ones}), web_02=machine({"/srv/x": twos}))
    keeper.now |= dict.fromkeys(("web-01", "web-02"), machine({"/srv/x": NEW}))
    with pytest.raises(WrongState, match="web-01 and web-02 did not have the same") as refused:
        await approvals.request_rollback(ANNA, RUN)
    assert f"fluid runs rollback {RUN} --target web-02" in refused.value.remedy
    assert "hunter2" not in f"{refused.value.message} {refused.value.remedy} {refused.value.details}"
    playbook = await back(approvals, playbooks, "web-02")
    asked = next(row for row in await book.all() if row.rolls_back)
    assert await ways_back.values(asked, playbook) == {"content_of_srv_x": twos.decode()}


async def test_a_request_for_targets_that_had_different_secrets_has_no_values(
    approvals: Approvals,
    playbooks: Playbooks,
    keeper: StandIns,
    book: ApprovalBook,
    ways_back: WaysBack,
    applied: Run,
) -> None:
    """One that was made before this was looked at."""
    ones = machine({"/srv/x": a_key("hunter2one")})
    await had(keeper, web_01=ones, web_02=ones)
    keeper.now |= dict.fromkeys(("web-01", "web-02"), machine({"/srv/x": NEW}))
    playbook = await back(approvals, playbooks)
    asked = next(row for row in await book.all() if row.rolls_back)
    assert asked.targets == ["web-01", "web-02"] and await ways_back.values(asked, playbook)
    await had(keeper, web_02=machine({"/srv/x": a_key("hunter2two")}))
    with pytest.raises(WrongState, match="web-01 and web-02 did not have the same") as refused:
        await ways_back.values(asked, playbook)
    assert "hunter2" not in f"{refused.value.message} {refused.value.remedy} {refused.value.details}"


async def test_what_was_not_kept_stays_and_is_said(
    approvals: Approvals, playbooks: Playbooks, keeper: StandIns, store: Store, applied: Run
) -> None:
    """A file too large to be kept, and one behind a link that the twin had not."""
    huge = machine({"/srv/x": b"huge\n", "/srv/y": b"1\n"})
    huge = replace(huge, contents={**huge.contents, b"/srv/x": Content(9, None, None, None, "over 8 bytes")})
    keeper.now["web-01"] = huge
    await keeper.keep(RUN, "web-01", replace(WANTED, names=WANTED.names | {b"/srv/y"}))
    keeper.now["web-01"] = machine({"/srv/x": NEW, "/srv/y": b"2\n"})
    changes = await store.changes.get((await store.approvals.get(applied.approval_id)).evidence.changes_id)
    sample = Sample()
    sample.add("/srv/x", NEW)
    sample.add("/srv/y", b"2\n")
    await store.changes.save(changes.model_copy(update={"files": sample.changes().files}))
    playbook = await back(approvals, playbooks, "web-01")
    assert [task.name for task in playbook.tasks] == ["Write /srv/y"]
    assert playbook.notes[0] == "stays: /srv/x: over 8 bytes"

    await had(keeper, web_02=machine({"/srv": "data", "/data/x": b"mine\n"}))
    keeper.now["web-02"] = machine({"/srv": "data", "/data/x": NEW})
    with pytest.raises(WrongState, match="web-02 has what it had"):
        await back(approvals, playbooks, "web-02")


async def test_a_folder_in_which_others_put_something_stays(
    approvals: Approvals, playbooks: Playbooks, keeper: StandIns, store: Store, applied: Run
) -> None:
    changes = await store.changes.get((await store.approvals.get(applied.approval_id)).evidence.changes_id)
    sample = Sample()
    sample.add("/srv/site", kind=cast("Any", "directory"), mode=0o755)
    sample.add("/srv/site/x", NEW)
    await store.changes.save(changes.model_copy(update={"files": sample.changes().files}))
    wanted = replace(WANTED, names=WANTED.names | {b"/srv/site", b"/srv/site/x"})
    keeper.now["web-01"] = machine({"/srv": None})
    await keeper.keep(RUN, "web-01", wanted)
    keeper.now["web-01"] = machine({"/srv/site/x": NEW, "/srv/site/uploads/a": b"precious\n"})
    playbook = await back(approvals, playbooks, "web-01")
    assert [task.name for task in playbook.tasks] == ["Remove /srv/site/x"]
    assert playbook.notes == [
        "stays: /srv/site: /srv/site/uploads and 1 more are in it, which the apply did not make"
    ]


async def taken_back(approvals: Approvals, times: int) -> tuple[list[Approval], list[LimitReached]]:
    """Requests that are made at once: those that are there, and those that were too many."""
    done = await asyncio.gather(
        *(approvals.request_rollback(ANNA, RUN, "web-01") for _ in range(times)), return_exceptions=True
    )
    assert all(isinstance(one, Approval | LimitReached) for one in done), done
    refused = [one for one in done if isinstance(one, LimitReached)]
    return [one for one in done if isinstance(one, Approval)], refused


async def test_so_many_requests_of_one_user_are_rehearsed_at_once(
    approvals: Approvals, pipeline: Pipeline, keeper: StandIns, book: ApprovalBook, applied: Run
) -> None:
    """Each starts a machine. One that was withdrawn counts as long as its rehearsal has not ended."""
    await had(keeper, web_01=machine({"/srv": None}))
    keeper.now["web-01"] = machine({"/srv/x": NEW})
    most = Config().limits.rehearsals_per_requester
    made, refused = await taken_back(approvals, most + 3)
    assert (len(made), len(refused), len(pipeline.rehearsed)) == (most, 3, most)
    assert f"you have {most} requests in rehearsal" in refused[0].message
    assert len(await book.open()) == most, "nothing of the others is there"
    await approvals.withdraw(ANNA, made[0].id)
    pipeline.under_way = {made[0].id}
    assert await taken_back(approvals, 1) == ([], [ANY])
    pipeline.under_way = set()
    assert await taken_back(approvals, 2) == ([ANY], [ANY])


async def test_a_user_has_so_many_open_requests(
    approvals: Approvals, keeper: StandIns, book: ApprovalBook, applied: Run
) -> None:
    await had(keeper, web_01=machine({"/srv": None}))
    keeper.now["web-01"] = machine({"/srv/x": NEW})
    limits, made = Config().limits, list[Approval]()
    while len(made) < limits.requests_per_requester:
        fresh, _ = await taken_back(approvals, limits.rehearsals_per_requester)
        for one in fresh:
            await book.change(one.id, [ApprovalState.REHEARSING], became(ApprovalState.PENDING, ""))
        made += fresh
    assert len(made) == limits.requests_per_requester
    _, (refused,) = await taken_back(approvals, 1)
    assert f"you have {len(made)} open requests" in refused.message and refused.remedy
    await approvals.withdraw(ANNA, made[0].id)
    ((failed,), _) = await taken_back(approvals, 1)
    assert await taken_back(approvals, 1) == ([], [ANY])
    await book.change(failed.id, [ApprovalState.REHEARSING], became(ApprovalState.DRAFTING, "it failed"))
    assert await taken_back(approvals, 1) == ([ANY], [])


async def test_an_agent_takes_nothing_back(approvals: Approvals, applied: Run) -> None:
    with pytest.raises(RoleDenied):
        await approvals.request_rollback(AGENT, RUN)


@pytest.mark.parametrize(
    "change", [{"kind": RunKind.REHEARSAL}, {"state": RunState.RUNNING}, {"kind": RunKind.ROLLBACK}]
)
async def test_only_an_apply_that_is_over_is_taken_back(
    approvals: Approvals, store: Store, applied: Run, change: dict[str, Any]
) -> None:
    await store.runs.save(applied.model_copy(update=change))
    with pytest.raises(WrongState, match=RUN):
        await approvals.request_rollback(ANNA, RUN)


async def test_an_apply_before_which_nothing_was_kept_is_not_taken_back(
    approvals: Approvals, applied: Run, pipeline: Pipeline
) -> None:
    with pytest.raises(NotFound, match=r"web-0[12] had before RUN-00000001 is not kept"):
        await approvals.request_rollback(ANNA, RUN)
    assert pipeline.rehearsed == []


# --- what is kept ------------------------------------------------------------------------------------------


async def test_what_is_kept_is_sealed_ours_alone_and_opens_under_its_own_name_only(keeper: StandIns) -> None:
    await had(keeper, web_01=machine({"/srv/x": b"hunter2secret\n"}))
    (file,) = keeper._folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and b"hunter2secret" not in file.read_bytes()
    kept = await keeper.kept(RUN, "web-01")
    assert kept.told.contents[b"/srv/x"].data == b"hunter2secret\n" and kept.wanted == WANTED
    file.rename(file.with_name(f"{RUN}.web-02"))
    with pytest.raises(NotFound):
        await keeper.kept(RUN, "web-02")


APP, ANNA_S = frozenset({b"/etc/app.conf", b"/srv/none"}), frozenset({"anna"})
AS_IT_IS: dict[str, bytes | str | None] = {
    "/etc/app.conf": b"password = hunter2\n",
    "/etc/other": b"x",
    "/etc/shadow": b"root:$6$a:1::::::\nanna:$6$b:1::::::\n",
}


@pytest.mark.parametrize(
    ("drift", "same"),
    [
        ({}, True),
        ({"/etc/other": b"y"}, True),
        ({"/etc/shadow": b"root:$6$c:2::::::\nanna:$6$b:2::::::\n"}, True),
        ({"/etc/app.conf": b"password = hunter3\n"}, False),
        ({"/etc/app.conf": "/etc/other"}, False),
        ({"/srv/none": b""}, False),
        ({"/etc/shadow": b"root:$6$a:1::::::\nanna:$6$d:1::::::\n"}, False),
        ({"/etc/shadow": b"root:$6$a:1::::::\n"}, False),
    ],
)
async def test_a_fingerprint_of_a_target_changes_with_its_secrets_and_tells_nothing_of_them(
    keeper: StandIns, tmp_path: Path, drift: dict[str, bytes | str | None], same: bool
) -> None:
    keeper.now = {"web-01": machine(AS_IT_IS), "web-02": machine(AS_IT_IS)}
    first = await keeper.fingerprint("web-01", APP, ANNA_S)
    assert first != await keeper.fingerprint("web-02", APP, ANNA_S)
    keeper.now["web-01"] = machine(AS_IT_IS | drift)
    assert (await keeper.fingerprint("web-01", APP, ANNA_S) == first) is same
    other = Keeper(cast("Any", None), tmp_path / "kept", b"o" * 32)
    other.look = keeper.look  # type: ignore[method-assign]
    assert await other.fingerprint("web-01", APP, ANNA_S) != first, "without the key nobody tries passwords"


@pytest.mark.parametrize(
    "link", [{"/etc/app.conf": "/srv/own/app.conf"}, {"/etc/app.conf": "../srv/way/app.conf"}]
)
async def test_a_fingerprint_tells_what_stands_behind_links(keeper: StandIns, link: dict[str, str]) -> None:
    links = {**AS_IT_IS, **link, "/srv/way": "/srv/own"}
    prints = []
    for content in (b"1", b"1", b"2"):
        keeper.now = {"web-01": machine({**links, "/srv/own/app.conf": content})}
        prints.append(await keeper.fingerprint("web-01", APP, ANNA_S))
    assert prints[0] == prints[1] != prints[2]


async def test_what_is_kept_is_forgotten_in_time_and_within_bounds(
    keeper: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    await had(keeper, web_01=machine({}), web_02=machine({}))
    old = (now() - KEPT_FOR - timedelta(hours=1)).timestamp()
    os.utime(keeper._file(RUN, "web-01"), (old, old))
    await keeper.age()
    assert [file.name for file in keeper._folder.iterdir()] == [f"{RUN}.web-02"]
    monkeypatch.setattr(keeping, "KEPT_BYTES", 10)
    await keeper.age()
    assert list(keeper._folder.iterdir()) == []
