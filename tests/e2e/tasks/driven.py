"""One task through the product, as an agent drives it: a sandbox, the script, the diff beside the guest's own
word, the playbook, the rehearsal on a twin. Nothing is mocked; the target that a request must name is never
reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import FluidError
from backend.models import Approval, ApprovalState, Changes, Playbook
from backend.playbooks import export
from tests.e2e.tasks import second_opinion
from tests.e2e.tasks.corpus import Task
from tests.e2e.tasks.judged import Row, judge

TARGET = "nowhere"
STEP_S = 1200
REHEARSAL_S = 1800
LONG_POLL_S = 30
LINT_S = 120
FRESH = "find /var/lib/apt/lists -name '*Packages*' -mtime -1 | grep -q . || apt-get -q update"
TAIL_CHARS = 600


def run(fluid: Fluid, source: str, task: Task, folder: Path, key: bytes) -> Row:
    """The task's row. ``folder`` keeps the playbook and what it was judged by; ``key`` is the one of the
    installation's fingerprints."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row, began = Row(task.name), time.monotonic()
    box: FluidSandbox | None = None
    try:
        box = fluid.create_sandbox(source, agent_id="tasks", name=task.name)
        if wrong := _work(box, task):
            row.problems.append(wrong)
        else:
            _reproduce(fluid, box, task, folder, row, key)
    except FluidError as error:
        row.problems.append(f"{error.code}: {error.message}")
    finally:
        if box is not None:
            fluid.destroy(box.id)
    row.seconds = round(time.monotonic() - began, 1)
    return row


def _work(box: FluidSandbox, task: Task) -> str:
    """Do the script; what went wrong in it."""
    box.run(FRESH, timeout=STEP_S)
    box.snapshot("before")
    for step in task.steps:
        done = box.run(step, timeout=STEP_S)
        if done.exit_code != 0:
            said = (done.stdout + done.stderr)[-TAIL_CHARS:].strip()
            return f"{step.splitlines()[0]!r} ended with {done.exit_code}: {said}"
    box.snapshot("after")
    return ""


def _reproduce(fluid: Fluid, box: FluidSandbox, task: Task, folder: Path, row: Row, key: bytes) -> None:
    changes = fluid.diff(box.id, "before", "after")
    row.problems += second_opinion.differences(changes, second_opinion.ask(box, changes), key)
    (folder / "changes.json").write_text(changes.model_dump_json(indent=1))
    commands = [command.model_dump(mode="json") for command in fluid.commands(box.id)]
    (folder / "commands.json").write_text(json.dumps(commands, indent=1))
    row.files, row.packages = len(changes.shown()), len(changes.packages)
    playbook = fluid.generate_playbook(box.id, "before", "after")
    row.tasks, row.notes = len(playbook.tasks), playbook.notes
    row.opaque = sum(one.opaque for one in playbook.tasks)
    contents = {name: fluid.playbook_file(playbook.id, name) for name in playbook.files}
    export(playbook.yaml, contents, folder / "playbook")
    if wrong := lint(folder / "playbook"):
        row.problems.append(f"ansible-lint: {wrong}")
    approval = _rehearsed(fluid, box, playbook)
    (folder / "evidence.json").write_text(approval.evidence.model_dump_json(indent=1))
    judge(row, task, changes, approval.evidence, approval.state)
    _keep_failed_run(fluid, approval, changes, folder)


def _rehearsed(fluid: Fluid, box: FluidSandbox, playbook: Playbook) -> Approval:
    """The request as it stood when the rehearsal was over or had no more time; it is withdrawn."""
    asked = fluid.request_approval(
        box.id, playbook=playbook.id, targets=[TARGET], reason="a task of the corpus"
    )
    deadline = time.monotonic() + REHEARSAL_S
    while asked.state is ApprovalState.REHEARSING and time.monotonic() < deadline:
        asked = fluid.approval(asked.id, wait=LONG_POLL_S)
    if asked.state in (ApprovalState.REHEARSING, ApprovalState.PENDING, ApprovalState.DRAFTING):
        fluid.withdraw_approval(asked.id)
    return asked


def _keep_failed_run(fluid: Fluid, approval: Approval, changes: Changes, folder: Path) -> None:
    if approval.evidence.failure and approval.evidence.rehearsal_run:
        run = fluid.run_of(approval.evidence.repeat_run or approval.evidence.rehearsal_run)
        (folder / "run.json").write_text(json.dumps(run.model_dump(mode="json"), indent=1))


def lint(folder: Path) -> str:
    """What ansible-lint's production profile has to say of an exported playbook."""
    program = Path(sys.executable).parent / "ansible-lint"
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [program, "--offline", "--profile", "production", "--nocolor", "--strict", "playbook.yml"],
            cwd=folder,
            env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": home},
            capture_output=True,
            text=True,
            timeout=LINT_S,
            check=False,
        )
    return (done.stdout + done.stderr)[-TAIL_CHARS:].strip() if done.returncode else ""
