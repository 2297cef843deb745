"""What a dry run says of a drifted target."""

from __future__ import annotations

import pytest

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


OPTIONS = "--- before: /etc/x\n+++ after: b\n@@ -1,2 +1,2 @@\n host = db\n{}\n+++verbose\n"


def test_a_line_that_looks_like_the_head_of_a_diff_is_content_and_changes_the_fingerprint() -> None:
    """Options of a command line, a comment of SQL or Lua."""
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    first, other = (
        preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", OPTIONS.format(line))), "web-01", "")
        for line in ("---quiet", "---silent")
    )
    assert first.differs == ["task 0: web-01 has '--quiet' where the rehearsal had nothing"]
    assert first.fingerprint != other.fingerprint


def test_of_several_diffs_each_is_read_and_of_one_that_is_cut_what_is_there() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", FRESH))
    two = f"{DRIFTED}\n{OPTIONS.format('---quiet')}\n--- before\n+++ after\n@@ -1,9 +0,0 @@\n-last\n… cut"
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", two)), "web-01", "")
    assert seen.differs == [
        "task 0: web-01 has 'vm.swappiness = 60' and 2 more lines where the rehearsal had nothing"
    ]


@pytest.mark.parametrize(("status", "words"), [("skipped", "was skipped"), ("", "did not run")])
def test_a_task_that_the_rehearsal_did_not_try_and_the_target_would_do_is_called_out(
    status: str, words: str
) -> None:
    """By a condition of its facts, or a handler that nobody notified there."""
    twin = run(RunKind.REHEARSAL, "rehearsal", *([(0, status, "")] if status else []))
    seen = preview(twin, run(RunKind.DRY_RUN, "web-01", (0, "changed", "")), "web-01", "")
    assert seen.differs == [f"task 0: would change web-01, and {words} in the rehearsal"]


def test_what_is_there_already_is_called_out() -> None:
    twin = run(RunKind.REHEARSAL, "rehearsal", (0, "changed", ""))
    there = run(RunKind.DRY_RUN, "web-01", (0, "ok", ""))
    seen = preview(twin, there, "web-01", "")
    assert seen.differs == ["task 0: already so on web-01"] and seen.error == ""


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
