"""Results of the corpus: of another code, task or image they are made again, of the same they are not, and a
run that was cut off goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from backend.client import Fluid
from tests.e2e.tasks import __main__ as program
from tests.e2e.tasks import corpus
from tests.e2e.tasks.corpus import Task
from tests.e2e.tasks.judged import Row
from tests.e2e.tasks.results import Results

TASKS = [Task(name, (), frozenset(), {}, f"{name}-digest") for name in ("a", "b", "c", "d")]
FLUID = cast("Fluid", None)

DECIDING = (
    "backend/approvals/apply.py",
    "backend/changes/settings/cron.py",
    "backend/fleet/core.py",
    "backend/guests/payload/guestd.py",
    "backend/secret_marks.py",
    "backend/store/migrations/0001.sql",
    "tests/e2e/tasks/driven.py",
    "tests/e2e/tasks/judged.py",
    ".requirements.lock",
)
NOT_DECIDING = (
    "backend/cli/app.py",
    "backend/tmux/pane.py",
    "backend/fleet/__pycache__/core.pyc",
    "tests/unit/test_x.py",
    "fluid_tui/app.py",
)


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


@pytest.mark.parametrize("path", DECIDING)
def test_a_change_of_what_decides_makes_another_code(tmp_path: Path, path: str) -> None:
    before, after = edited(tmp_path, path)
    assert before != after
    (tmp_path / path).rename(tmp_path / f"{path}.new{Path(path).suffix}")
    assert corpus.code_digest(tmp_path) != after


@pytest.mark.parametrize("path", NOT_DECIDING)
def test_a_change_of_what_no_task_comes_through_does_not(tmp_path: Path, path: str) -> None:
    before, after = edited(tmp_path, path)
    assert before == after


def edited(checkout: Path, path: str) -> tuple[str, str]:
    """The code before and after one file of it changed."""
    for one in (*DECIDING, *NOT_DECIDING):
        (checkout / one).parent.mkdir(parents=True, exist_ok=True)
        (checkout / one).write_text("A = 1\n")
    before = corpus.code_digest(checkout)
    (checkout / path).write_text("A = 2\n")
    return before, corpus.code_digest(checkout)


def test_the_rooms_that_a_task_comes_through_and_the_judge_decide() -> None:
    found = {str(file.relative_to(corpus.CHECKOUT)) for file in corpus.deciding()}
    rooms = {path.split("/")[1] for path in found if path.startswith("backend/")}
    assert rooms > {"api", "approvals", "changes", "disks", "fleet", "guests", "hypervisor", "playbooks"}
    assert found > {"backend/secret_marks.py", "tests/e2e/tasks/second_opinion.py", ".requirements.lock"}
    assert all((corpus.CHECKOUT / "backend" / room).is_dir() for room in corpus.LEFT_OUT)


def test_a_result_of_the_same_is_not_due_and_one_of_another_code_image_or_task_is(tmp_path: Path) -> None:
    results = Results(tmp_path, "code", "image")
    assert results.due(TASKS) == TASKS
    for task in TASKS[:3]:
        results.keep(task, Row(task.name, problems=["it failed"] if task.name == "b" else []))
    assert names(Results(tmp_path, "code", "image").due(TASKS)) == ["d"]
    assert names(Results(tmp_path, "other", "image").due(TASKS)) == ["a", "b", "c", "d"]
    assert names(Results(tmp_path, "code", "other").due(TASKS)) == ["a", "b", "c", "d"]
    edited = Task("a", (), frozenset(), {}, "another script")
    assert names(results.due([edited, *TASKS[1:]])) == ["a", "d"]
    assert results.row("b").problems == ["it failed"]


def test_a_result_that_was_half_written_is_due(tmp_path: Path) -> None:
    results = Results(tmp_path, "code", "image")
    results.keep(TASKS[0], Row("a"))
    whole = (tmp_path / "a/result.json").read_text()
    (tmp_path / "a/result.json").write_text(whole[: len(whole) // 2])
    assert names(results.due(TASKS[:1])) == ["a"]


Done = Callable[[str], Row]


def each(monkeypatch: pytest.MonkeyPatch, results: Results, cut: threading.Event, done: Done) -> list[str]:
    """Do what is due, one at a time, each by ``done``; the names of those that were begun."""
    begun = []

    def run(fluid: Any, source: str, task: Task, folder: Path, key: bytes) -> Row:
        begun.append(task.name)
        return done(task.name)

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "AT_ONCE", 1)
    program.each(FLUID, "debian-12", results.due(TASKS), results, b"", cut)
    return begun


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, cut = Results(tmp_path, "code", "image"), threading.Event()

    def interrupted(name: str) -> Row:
        if name == "b":
            cut.set()
        return Row(name, problems=["backend_down: it is gone"] if name == "b" else [])

    assert each(monkeypatch, results, cut, interrupted) == ["a", "b"]
    assert results.row("b").key == "", "how a cut one ended is no result"
    assert each(monkeypatch, results, threading.Event(), Row) == ["b", "c", "d"]
    assert each(monkeypatch, results, threading.Event(), Row) == []


def test_a_task_that_breaks_the_program_costs_no_others_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(tmp_path, "code", "image")

    def broken(name: str) -> Row:
        if name == "b":
            raise KeyError(name)
        return Row(name)

    with pytest.raises(KeyError):
        each(monkeypatch, results, threading.Event(), broken)
    assert names(results.due(TASKS)) == ["b"]
