"""When evidence suffices, what a digest binds, and what an agent may see of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from backend.approvals.digest import digest_of
from backend.approvals.evidence import blockers, counts, for_agent
from backend.approvals.risks import of_reading, risks
from backend.models import (
    Approval,
    ApprovalState,
    Changes,
    ChangeVerb,
    Evidence,
    FileChange,
    PackageChange,
    Playbook,
    ResidualRow,
    SettingChange,
    SettingKind,
    TargetEvidence,
    TargetResult,
    now,
)
from backend.playbooks.rehearse import reasoned
from backend.store.encoding import dump, load
from tests.unit.playbooks_sample import Sample


def complete() -> Evidence:
    return Evidence(
        rehearsal=TargetResult(ok=9, changed=9),
        again=TargetResult(ok=9),
        again_changed=0,
        dry_run={
            "web-01": TargetEvidence(target="web-01", at=now(), differs=["secret words"], fingerprint="f")
        },
    )


def approval(evidence: Evidence) -> Approval:
    return Approval(
        id="APR-12345678",
        sandbox_id="SBX-1",
        playbook_id="PBK-1",
        targets=["web-01"],
        reason="tls",
        requester_uid=1000,
        state=ApprovalState.PENDING,
        evidence=evidence,
        created_at=now(),
        updated_at=now(),
        expires_at=now() + timedelta(hours=1),
    )


PLAYBOOK = Playbook(id="PBK-1", name="p", sandbox_id="SBX-1", yaml="", digest="d", created_at=now())
WIRE = {"web-01": ["10.0.0.1", 22, "root", "ssh-ed25519 A", False]}

DIGEST_WITHOUT_RUNNING = "f469582b1c37616b2a7390dd21d474a6265ba1fb701b9c9fac11060045a7e4a5"
"""Of evidence that a version made which asked no guest what runs in it: it may still be approved."""


def test_complete_evidence_is_blocked_by_nothing() -> None:
    assert blockers(complete(), ["web-01"]) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"rehearsal": None}, "the rehearsal is not finished"),
        ({"again_changed": None}, "the rehearsal is not finished"),
        ({"again_changed": 2}, "not idempotent"),
        ({"failure": "the rehearsal failed: x"}, "the rehearsal failed"),
        ({"unrehearsed": ["t"]}, "skipped in the rehearsal"),
        ({"residual": [ResidualRow(kind="missing", noun="file", name="/a")]}, "residual is not empty"),
        ({"residual": [ResidualRow(kind="extra", noun="file", name="/a")]}, "residual is not empty"),
        ({"dry_run": {}}, "dry run on web-01 is not finished"),
        (
            {"dry_run": {"web-01": TargetEvidence(target="web-01", at=now(), error="x")}},
            "dry run on web-01 failed",
        ),
    ],
)
def test_each_gap_blocks_with_its_words(spoil: dict[str, object], words: str) -> None:
    found = blockers(complete().model_copy(update=spoil), ["web-01"])
    assert any(words in sentence for sentence in found)


def test_what_is_made_anew_on_each_machine_does_not_block() -> None:
    row = ResidualRow(kind="regenerated", noun="file", name="/etc/ssl/site.key")
    assert blockers(complete().model_copy(update={"residual": [row]}), ["web-01"]) == []


def test_what_guests_say_of_what_runs_blocks_nothing_and_is_part_of_what_is_approved() -> None:
    row = ResidualRow(kind="missing", noun="port", name="tcp *:8000", reason="no unit starts it")
    told = complete().model_copy(update={"running": [row]})
    assert blockers(told, ["web-01"]) == []
    assert digest_of(approval(told), PLAYBOOK, WIRE, "p") != DIGEST_WITHOUT_RUNNING
    assert digest_of(approval(complete()), PLAYBOOK, WIRE, "p") == DIGEST_WITHOUT_RUNNING


def test_where_a_dry_run_went_is_part_of_what_is_approved() -> None:
    noted, elsewhere = complete(), complete()
    noted.dry_run["web-01"].login = "root@10.0.0.1:22"
    elsewhere.dry_run["web-01"].login = "root@10.0.0.2:22"
    found = {digest_of(approval(one), PLAYBOOK, WIRE, "p") for one in (noted, elsewhere)}
    assert len(found | {DIGEST_WITHOUT_RUNNING}) == 3
    shown = for_agent(approval(noted).model_copy(update={"digest": "d"}))
    assert "10.0.0.1" not in shown.model_dump_json(), "an agent learns no address"


def test_the_digest_is_the_same_for_the_same_evidence_made_at_another_time() -> None:
    one, other = approval(complete()), approval(complete())
    other.evidence.dry_run["web-01"].at = now() + timedelta(minutes=1)
    other.evidence.dry_run["web-01"].run_id = "RUN-other"
    assert digest_of(one, PLAYBOOK, WIRE, "p") == digest_of(other, PLAYBOOK, WIRE, "p")


def test_the_digest_binds_both_changes_and_who_asked_why() -> None:
    hashed = {"changes_sha256": "a" * 64, "sandbox_changes_sha256": "b" * 64}

    def digest(more: dict[str, str] | None = None, **fields: object) -> str:
        evidence = complete().model_copy(update=hashed | (more or {}))
        return digest_of(approval(evidence).model_copy(update=fields), PLAYBOOK, WIRE, "p")

    others = [digest({name: "c" * 64}) for name in hashed]
    others += [digest(reason="ssl"), digest(requester_uid=1001), digest(requester_name="root")]
    others += [digest(agent_id="another"), DIGEST_WITHOUT_RUNNING]
    assert len({digest(), *others}) == 8 and digest() == digest()
    older = approval(complete()).model_copy(update={"reason": "ssl", "requester_uid": 1001})
    assert digest_of(older, PLAYBOOK, WIRE, "p") == DIGEST_WITHOUT_RUNNING, "it may still be approved"


def a_change() -> Changes:
    sample = Sample()
    sample.add("/etc/motd", b"\x00 \xee\x80\x80 hello\n", verb=ChangeVerb.MODIFIED, owner="root")
    sample.files[0].path = "/etc/motd\udce9"
    return sample.changes().model_copy(update={"notes": ["a note"]})


def _another_text(one: Changes) -> None:
    after = one.files[0].after
    assert after is not None
    after.text = "hello you\n"


def _another_owner(one: Changes) -> None:
    after = one.files[0].after
    assert after is not None
    after.owner = "eve"


def _another_path(one: Changes) -> None:
    one.files[0].path = "/etc/issue"


@pytest.mark.parametrize(
    "edit",
    [
        _another_text,
        _another_owner,
        _another_path,
        lambda one: one.files.clear(),
        lambda one: one.notes.clear(),
        lambda one: setattr(one.files[0], "hidden", "logs"),
        lambda one: one.packages.append(PackageChange(name="eve", verb=ChangeVerb.ADDED)),
    ],
)
def test_the_hash_of_a_change_is_of_all_that_a_reader_is_shown(edit: Callable[[Changes], object]) -> None:
    one = a_change()
    before = one.sha256()
    edit(one)
    assert one.sha256() != before


def test_the_hash_of_a_change_is_the_same_from_the_database_and_in_another_run() -> None:
    one = a_change()
    assert load(Changes, dump(one)).sha256() == one.sha256()
    other = one.model_copy(deep=True)
    other.id, other.sandbox_id, other.created_at, other.took_s = "CHG-x", "SBX-x", now(), 9.0
    assert other.files[0].after is not None
    other.files[0].after.mtime = now()
    assert other.sha256() == one.sha256()


def test_the_digest_binds_playbook_targets_policy_threshold_and_evidence() -> None:
    base = digest_of(approval(complete()), PLAYBOOK, WIRE, "p")
    drifted = complete()
    drifted.dry_run["web-01"].fingerprint = "other"
    others = [
        digest_of(approval(complete()), PLAYBOOK.model_copy(update={"digest": "x"}), WIRE, "p"),
        digest_of(approval(complete()), PLAYBOOK, {"web-01": ["10.0.0.2", 22, "root", "k", False]}, "p"),
        digest_of(approval(complete()), PLAYBOOK, WIRE, "other policy"),
        digest_of(approval(complete()).model_copy(update={"threshold": 2}), PLAYBOOK, WIRE, "p"),
        digest_of(approval(drifted), PLAYBOOK, WIRE, "p"),
    ]
    assert len({base, *others}) == 6


def test_an_agent_sees_counts_and_no_word_of_production() -> None:
    whole = approval(complete()).model_copy(update={"digest": "d", "apply_run": "RUN-1"})
    shown = for_agent(whole).model_dump_json()
    assert "secret words" not in shown and "RUN-1" not in shown
    assert for_agent(whole).evidence.dry_run["web-01"].result == TargetResult()
    assert whole.evidence.dry_run["web-01"].differs == ["secret words"]


@pytest.mark.parametrize(
    ("outcome", "said", "told"),
    [
        ("the apply failed", "web-01: Copy it: 10.9.8.7 is full", "the apply failed"),
        ("no: use port 80", "", "no: use port 80"),
    ],
)
def test_an_agent_learns_how_it_ended_and_nothing_that_a_target_said(
    outcome: str, said: str, told: str
) -> None:
    ended = approval(complete()).model_copy(update={"outcome": outcome, "said_by_targets": said})
    shown = for_agent(ended)
    assert (shown.outcome, shown.said_by_targets, for_agent(shown).outcome) == (told, "", told)
    assert ended.ending == (f"{outcome}: {said}" if said else outcome)


def test_of_a_row_of_an_older_version_an_agent_learns_its_state() -> None:
    ended = approval(complete()).model_copy(update={"outcome": "the apply failed: 10.9.8.7 is full"})
    assert (for_agent(ended).outcome, ended.ending) == ("", "the apply failed: 10.9.8.7 is full")


def test_the_figures_count_a_rename_once_and_settings_by_kind() -> None:
    def file(path: str, verb: ChangeVerb, **more: str) -> FileChange:
        return FileChange(path=path, verb=verb, **more)

    sudo = SettingChange(kind=SettingKind.SUDO, name="x", verb=ChangeVerb.ADDED)
    found = Changes(
        id="CHG-1",
        sandbox_id="SBX-1",
        from_snapshot="a",
        to_snapshot="b",
        created_at=now(),
        files=[
            file("/new", ChangeVerb.ADDED, renamed_from="/old"),
            file("/old", ChangeVerb.REMOVED, renamed_to="/new"),
            file("/etc/x", ChangeVerb.ADDED),
            file("/usr/x", ChangeVerb.ADDED, package="p"),
        ],
        settings=[
            sudo,
            sudo,
            sudo.model_copy(update={"package": "p"}),
            sudo.model_copy(update={"hidden": "identity"}),
        ],
    )
    told = {name: count for name, count in counts(found).items() if count}
    assert told == {"files": 2, "files_added": 1, "files_renamed": 1, "sudo rule": 2}


def test_a_change_that_the_guest_told_is_a_risk_and_part_of_what_is_approved() -> None:
    found = Changes(id="CHG-1", sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b", created_at=now())
    assert risks(found) == []
    found.read_from = "guest"
    assert risks(found) == ["the change was read by asking the guest: root there could lie"]
    told = complete().model_copy(update={"read_from": "guest"})
    told.again_changed = 2
    assert "not idempotent: the second run changed 2 things by the guest's own word" in blockers(told, [])
    told.again_changed = 0
    digests = {digest_of(approval(one), PLAYBOOK, WIRE, "p") for one in (complete(), told)}
    assert len(digests) == 2


def test_a_disk_that_was_not_frozen_is_a_risk_in_words_and_part_of_what_is_approved() -> None:
    notes = ["not quiesced: read as after a power cut, unwritten data is missing"]
    told = complete().model_copy(update={"quiesced": False, "notes": notes})
    (risk,) = of_reading(told)
    assert "what was not written yet is missing" in risk and "from the residual" in risk
    assert of_reading(told.model_copy(update={"read_from": "guest"})) == [], "it was asked, with all it held"
    others = [complete().model_copy(update=one) for one in ({"quiesced": True, "notes": []}, {"notes": []})]
    assert of_reading(others[0]) == []
    digests = [digest_of(approval(one), PLAYBOOK, WIRE, "p") for one in (complete(), told, *others)]
    assert len(set(digests)) == 4


def test_a_row_of_an_older_version_says_nothing_of_how_it_was_read_and_its_digest_stands() -> None:
    whole = complete().model_dump(mode="json")
    old = Evidence.model_validate({key: whole[key] for key in whole.keys() - {"quiesced", "notes"}})
    assert (old.quiesced, old.notes, old.unwritten, of_reading(old)) == (None, None, False, [])
    assert digest_of(approval(old), PLAYBOOK, WIRE, "p") == DIGEST_WITHOUT_RUNNING


def test_a_missing_row_has_the_reason_that_the_playbook_was_made_with() -> None:
    rows = [
        ResidualRow(kind=kind, noun="file", name="/srv/a", reason="as usual") for kind in ("missing", "extra")
    ]
    notes = ["/srv/a: a fifo cannot be expressed", "words"]
    found = [(row.kind, row.noun, row.name, row.reason) for row in reasoned(rows, notes)]
    assert found == [
        ("missing", "file", "/srv/a", "a fifo cannot be expressed"),
        ("extra", "file", "/srv/a", "as usual"),
    ]
