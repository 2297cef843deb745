"""What a dry run says of a drifted target."""

from __future__ import annotations

from backend.approvals.evidence import blockers
from backend.models import Evidence, Run, RunEvent, RunKind, RunState, TargetResult, now
from backend.playbooks.preview import preview


def run(kind: RunKind, host: str, *events: tuple[int, str, str], failed: int = 0) -> Run:
    return Run(
        id="RUN-1",
        kind=kind,
        state=RunState.FAILED if failed else RunState.SUCCESSFUL,
        results={host: TargetResult(changed=1, failed=failed)},
        events=[
            RunEvent(at=now(), host=host, task=f"task {i}", task_index=i, status=status, diff=diff)
            for i, status, diff in events
        ],
        started_at=now(),
    )


FRESH = "--- before\n+++ after: a\n@@ -0,0 +1 @@\n+vm.swappiness = 10\n"
DRIFTED = "--- before: /etc/x\n+++ after: b\n@@ -1 +1 @@\n-vm.swappiness = 60\n+vm.swappiness = 10\n"


def test_the_same_story_on_both_says_nothing() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", FRESH)), "web-01", "")
    assert seen.differs == [] and seen.error == ""


def test_another_content_on_the_target_is_called_out_with_its_words() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", DRIFTED)), "web-01", "")
    assert seen.differs == ["task 0: web-01 has 'vm.swappiness = 60' where the rehearsal had nothing"]


def test_what_is_there_already_is_called_out() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", ""))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "ok", "")), "web-01", "")
    assert seen.differs == ["task 0: already so on web-01"]


def test_a_task_that_check_mode_skips_is_not_previewed() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", ""))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "skipped", "")), "web-01", "")
    assert seen.not_previewed == ["task 0"] and seen.differs == []


def test_a_failed_dry_run_is_an_error_and_never_silent() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", ""))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "failed", ""), failed=1), "web-01", "")
    assert seen.error.startswith("task 0")


def test_a_dry_run_of_which_results_are_left_out_is_an_error_and_blocks() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    cut = run(RunKind.DRY_RUN, "web-01", (0, "changed", FRESH)).model_copy(update={"left_out": 1})
    seen = preview(twin, cut, "web-01", "")
    assert seen.error.startswith("more than 1 results")
    evidence = Evidence(rehearsal=TargetResult(), again_changed=0, dry_run={"web-01": seen})
    assert blockers(evidence, ["web-01"]) == [f"the dry run on web-01 failed: {seen.error}"]


def test_drift_between_two_dry_runs_changes_the_fingerprint_and_nothing_else_does() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    first = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", DRIFTED)), "web-01", "")
    again = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", DRIFTED)), "web-01", "")
    moved = preview(
        twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", DRIFTED.replace("60", "61"))), "web-01", ""
    )
    assert first.fingerprint == again.fingerprint != moved.fingerprint
    under = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", DRIFTED)), "web-01", "0f")
    assert under.fingerprint != first.fingerprint
