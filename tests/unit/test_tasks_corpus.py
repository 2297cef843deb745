"""The corpus of real tasks: every script has its truth, and what differs from it fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend.models import (
    ApprovalState,
    Changes,
    ChangeVerb,
    Evidence,
    PackageChange,
    ResidualRow,
    SettingChange,
    SettingKind,
    TargetResult,
    UnitChange,
    UnitState,
    UserChange,
)
from tests.e2e.tasks import corpus
from tests.e2e.tasks.judged import Row, judge, lines, report
from tests.unit.playbooks_sample import Sample

SCRIPT = "## install it\napt-get install x\n\n## write it\ncat >/etc/x <<'EOF'\n# no step\nEOF\n"
TRUTH = "# words\n+ package x\n~ unit x.service on\n+ file /etc/x\nmissing file /srv/y  # no module has it\n"


@pytest.fixture
def task(tmp_path: Path) -> corpus.Task:
    (tmp_path / "x.sh").write_text(SCRIPT)
    (tmp_path / "x.truth").write_text(TRUTH)
    return corpus.load("x", tmp_path)


def changes() -> Changes:
    sample = Sample()
    sample.parts["packages"] = [
        PackageChange(name="x", verb=ChangeVerb.ADDED, wanted=True),
        PackageChange(name="libx", verb=ChangeVerb.ADDED),
    ]
    sample.parts["units"] = [
        UnitChange(name="x.service", verb=ChangeVerb.MODIFIED, after=UnitState(enabled=True, defined=True)),
        UnitChange(name="y.service", verb=ChangeVerb.ADDED, after=UnitState(defined=True), package="libx"),
    ]
    sample.parts["users"] = [UserChange(name="x", verb=ChangeVerb.ADDED, package="x")]
    sample.add("/etc/x", b"1\n")
    sample.add("/etc/x.default", b"1\n", package="x")
    sample.add("/etc/passwd", b"x\n", verb=ChangeVerb.MODIFIED)
    sample.add("/var/log/x", b"1\n", hidden="logs")
    return sample.changes()


def evidence(*rows: ResidualRow, again: int = 0) -> Evidence:
    done = TargetResult(ok=3)
    return Evidence(rehearsal=done, again=done, again_changed=again, residual=list(rows))


EXPECTED = ResidualRow(kind="missing", noun="file", name="/srv/y")


def test_the_corpus_is_whole_and_each_expected_row_has_its_reason() -> None:
    names = corpus.names()
    assert len(names) >= 30
    for name in names:
        task = corpus.load(name)
        assert task.steps and task.changes and re.fullmatch(r"[a-z0-9-]{1,40}", name), name
        script = (corpus.FOLDER / f"{name}.sh").read_bytes()
        assert subprocess.run(["bash", "-n"], input=script, check=False).returncode == 0, name
    assert {file.stem for file in corpus.FOLDER.glob("*.truth")} == set(names)


def test_a_script_is_one_command_of_the_agent_for_each_heading(task: corpus.Task) -> None:
    assert task.steps == ("apt-get install x", "cat >/etc/x <<'EOF'\n# no step\nEOF")


@pytest.mark.parametrize("line", ["missing file /x", "+package x", "file /x"])
def test_a_truth_with_a_row_that_says_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.sh").write_text(SCRIPT)
    (tmp_path / "x.truth").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"x\.truth"):
        corpus.load("x", tmp_path)


def test_the_diff_as_lines_leaves_what_packages_bring_to_them() -> None:
    found = lines(changes())
    assert [line for line, must in found.items() if must] == [
        "+ package x", "~ unit x.service on", "+ file /etc/x"
    ]  # fmt: skip
    assert {"+ package libx", "+ unit y.service off", "+ user x", "+ file /etc/x.default"} <= set(found)


def test_what_a_file_states_is_a_line_with_its_value() -> None:
    sample = Sample()
    sample.parts["settings"] = [
        SettingChange(
            kind=SettingKind.SYSCTL, name="vm.swappiness", verb=ChangeVerb.ADDED, after={"value": "10"}
        )
    ]
    assert lines(sample.changes()) == {"+ kernel parameter vm.swappiness = 10": True}


def test_a_diff_equal_to_the_truth_with_the_expected_rows_is_explained(task: corpus.Task) -> None:
    row = Row("x")
    judge(row, task, changes(), evidence(EXPECTED), ApprovalState.PENDING)
    assert (row.problems, row.verdict) == ([], "explained")
    assert row.explained == ["missing file /srv/y: no module has it"]


def test_whatever_differs_from_the_truth_fails(task: corpus.Task) -> None:
    odd = changes().model_copy(update={"packages": []})
    for words, diff, seen in (
        ("in the truth only: \\+ package x", odd, evidence(EXPECTED)),
        ("the second run changes", changes(), evidence(EXPECTED, again=1)),
        ("expected, and not there: missing file /srv/y", changes(), evidence()),
        ("extra file /z", changes(), evidence(EXPECTED, ResidualRow(kind="extra", noun="file", name="/z"))),
        (
            "unrehearsed: skip me",
            changes(),
            evidence(EXPECTED).model_copy(update={"unrehearsed": ["skip me"]}),
        ),
    ):
        row = Row("x")
        judge(row, task, diff, seen, ApprovalState.PENDING)
        assert row.verdict == "FAILED" and any(re.match(words, one) for one in row.problems), row.problems
    row = Row("x")
    plain = Sample()
    plain.add("/etc/x", b"1\n")
    judge(row, corpus.Task("x", (), frozenset(), {}, ""), plain.changes(), evidence(), ApprovalState.PENDING)
    assert row.problems == ["in the diff only:  + file /etc/x"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"rehearsal": None}, "there was no rehearsal"),
        ({"again": None}, "there was no second run"),
        ({"rehearsal": TargetResult(ok=2, failed=1)}, "rehearsal: failed=1 unreachable=0"),
        ({"rehearsal": TargetResult(unreachable=1)}, "rehearsal: failed=0 unreachable=1"),
        ({"again": TargetResult(failed=2)}, "second run: failed=2 unreachable=0"),
        ({"again_changed": None}, "nobody measured what the second run changes"),
        ({"again_changed": 1, "again_paths": ["/etc/x"]}, "the second run changes /etc/x"),
        ({"failure": "the rehearsal failed: no"}, "the rehearsal failed: no"),
    ],
)
def test_a_task_that_was_not_rehearsed_twice_to_a_good_end_fails(
    task: corpus.Task, seen: dict[str, Any], words: str
) -> None:
    row = Row("x")
    judge(row, task, changes(), evidence(EXPECTED).model_copy(update=seen), ApprovalState.PENDING)
    assert (row.problems, row.verdict) == ([words], "FAILED")


@pytest.mark.parametrize("state", sorted(set(ApprovalState) - {ApprovalState.PENDING}))
def test_a_request_that_nobody_could_approve_fails(task: corpus.Task, state: ApprovalState) -> None:
    row = Row("x")
    judge(row, task, changes(), evidence(EXPECTED), state)
    assert row.verdict == "FAILED" and f"the request is {state}, not pending" in row.problems[0]


def test_a_rehearsal_that_had_no_more_time_fails(task: corpus.Task) -> None:
    row = Row("x")
    judge(row, task, changes(), Evidence(residual=[EXPECTED]), ApprovalState.REHEARSING)
    assert row.verdict == "FAILED" and len(row.problems) == 4


def test_the_table_passes_only_with_results_of_this_code(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", key="1"), Row("b", key="1", problems=["no"])]
    assert report(rows, {"a": "1", "b": "1"}, []) == 1
    assert report(rows, {"a": "1", "b": "1"}, ["a"]) == 0
    assert report(rows[:1], {"a": "2"}, []) == 1
    told = capsys.readouterr().out
    assert (
        "(of other code)" in told and "b: no" in told and "2 of 2 tasks have a result: 1 ok, 1 FAILED" in told
    )
