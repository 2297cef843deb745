"""One change, end to end, for real: with a fixed seed, with a random one, and what is left afterwards."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from backend.client import Fluid
from backend.demo.scenario import draw
from backend.errors import FluidError
from backend.models import Playbook
from tests.fix_demo import FIXED_SEED, NAME, Demo, Told, play

RANDOM_SEED = int(os.environ.get("FLUID_TEST_SEED", "0"))


def test_every_promise_is_kept_with_the_fixed_seed(told: Told) -> None:
    assert told.code == 0, told.transcript
    report = told.report
    assert report["http_status"] == 200
    assert report["rehearsal"]["again_changed"] == 0 and report["rehearsal"]["failed"] == 0
    assert report["residual"]["missing"] == 0 and report["residual"]["extra"] == 0
    assert report["residual"]["regenerated"] >= 2
    assert report["diff"]["read_from"] == "disk" and report["diff"]["quiesced"]
    assert len(report["dry_run"]["web-01"]["differs"]) >= 2
    assert report["verified_changed"] == 0
    assert report["audit_ok"] is True and report["audit_rows"] > 20
    assert report["created_by"] in ("stock", "fork")  # stock, if one was parked by then
    assert report["sandbox_ready_s"] < report["cold_boot_s"]


def test_the_transcript_is_text_that_a_person_can_read(told: Told) -> None:
    assert "\x1b" not in told.transcript and "Traceback" not in told.transcript
    assert "digest" in told.transcript and "differs" in told.transcript


def test_the_playbook_is_short_and_says_where_each_task_comes_from(operator: Fluid) -> None:
    playbook = _playbook(operator)
    assert len(playbook.tasks) <= 30
    assert sum(bool(task.commands) for task in playbook.tasks) >= len(playbook.tasks) // 2
    assert "BEGIN" not in playbook.yaml and "PRIVATE" not in playbook.yaml


def test_strange_names_reach_production_byte_for_byte(operator: Fluid, told: Told) -> None:
    paths = {change.path for change in operator.changes(_approval(operator).evidence.changes_id).files}
    for file in draw(FIXED_SEED).files:
        assert file.path in paths


def test_what_ran_is_what_was_approved(operator: Fluid) -> None:
    approval = _approval(operator)
    assert approval.decisions[0].digest == approval.digest
    assert operator.run_of(approval.apply_run).playbook_id == approval.playbook_id
    assert approval.decisions[0].uid != approval.requester_uid


def test_a_second_approval_is_refused_with_who_was_first(operator: Fluid) -> None:
    approval = _approval(operator)
    with pytest.raises(FluidError) as refused:
        operator.approve(approval.id, approval.digest)
    assert refused.value.code == "approval_already_decided" and "root" in refused.value.message


def test_the_agents_door_has_no_approve_route_and_no_word_of_production(demo: Demo, operator: Fluid) -> None:
    approval = _approval(operator)
    account = pwd.getpwnam(f"{NAME}-agent")
    script = (
        "import sys\nfrom backend.client import Fluid\nfrom backend.errors import FluidError\n"
        "door = Fluid(sys.argv[1])\nseen = door.approval(sys.argv[2]).model_dump_json()\nprint(seen)\n"
        "try:\n    door.approve(sys.argv[2], 'x')\n"
        "except FluidError as error:\n    print('refused', error.status)\n"
    )
    done = subprocess.run(
        [
            "/usr/bin/env",
            f"PYTHONPATH={demo.home}/agent/lib",
            *_python(),
            "-c",
            script,
            str(demo.agent_socket),
            approval.id,
        ],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert "refused 404" in done.stdout, done.stdout + done.stderr
    target = operator.targets()[0]
    assert target.address and target.address not in done.stdout
    assert all(words not in done.stdout for words in approval.evidence.dry_run["web-01"].differs)


def test_root_is_served_as_operator_because_the_config_names_it(operator: Fluid) -> None:
    assert operator.whoami().role == "operator"


@pytest.mark.full
def test_every_promise_is_kept_with_a_random_seed(demo: Demo, told: Told, tmp_path: Path) -> None:
    again = play(demo, RANDOM_SEED, tmp_path)
    assert again.code == 0, again.transcript


def _approval(operator: Fluid):  # type: ignore[no-untyped-def]
    name = draw(FIXED_SEED).sandbox_name
    return next(row for row in operator.approvals() if row.sandbox_name == name)


def _playbook(operator: Fluid) -> Playbook:
    return operator.playbook(_approval(operator).playbook_id)


def _python() -> list[str]:
    import sys

    return [sys.executable]
