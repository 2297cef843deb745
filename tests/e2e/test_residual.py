"""The residual names what a playbook leaves out and what it adds: measured on a real twin, both ways."""

from __future__ import annotations

import os
import random
import time

import pytest
import yaml

from backend.client import Fluid
from backend.demo.scenario import draw
from backend.models import Approval, ApprovalState, Playbook, PlaybookTask
from tests.fix_demo import FIXED_SEED

REHEARSAL_TIMEOUT_S = 900
SEED = int(os.environ.get("FLUID_TEST_SEED", "0"))
CRON = """
    - name: Add a cron line nobody asked for
      ansible.builtin.cron:
        name: surprise
        minute: "5"
        user: root
        job: /bin/true
    - name: Add a key nobody asked for
      ansible.builtin.copy:
        dest: /etc/ssh/extra_key
        src: files/{sha256}
        owner: root
        group: root
        mode: "0600"
"""


def tasks_of(text: str) -> list[str]:
    """The playbook's tasks as text, in order."""
    body = text.split("\n  tasks:\n", 1)[1].split("\n  handlers:\n", 1)[0]
    parts: list[str] = []
    for line in body.splitlines(keepends=True):
        if line.startswith("    - name:"):
            parts.append("")
        if parts:
            parts[-1] += line
    return parts


@pytest.fixture(scope="module")
def playbook(operator: Fluid) -> Playbook:
    name = draw(FIXED_SEED).sandbox_name
    approval = next(row for row in operator.approvals() if row.sandbox_name == name)
    return operator.playbook(approval.playbook_id)


def rehearsed(operator: Fluid, playbook: Playbook, text: str) -> Approval:
    """The evidence of an edited playbook, rehearsed for real."""
    edited = operator.update_playbook(playbook.id, text)
    asked = operator.request_approval(
        playbook.sandbox_id, playbook=edited.id, targets=["web-01"], reason="a test of the residual"
    )
    deadline = time.monotonic() + REHEARSAL_TIMEOUT_S
    while asked.state is ApprovalState.REHEARSING and time.monotonic() < deadline:
        asked = operator.approval(asked.id, wait=30)
    return asked


def test_a_task_left_out_is_missing_and_a_cron_line_and_a_key_are_extra(
    operator: Fluid, playbook: Playbook
) -> None:
    tasks = tasks_of(playbook.yaml)
    chosen = random.Random(SEED).randrange(len(tasks))
    gone = described(playbook, tasks[chosen])
    added = CRON.format(sha256=next(iter(playbook.files)))
    kept = "".join(task for task in tasks if task is not tasks[chosen])
    # First, so that they are done though a task may fail for want of the one left out.
    text = playbook.yaml.replace("".join(tasks), added.lstrip("\n") + kept)
    asked = rehearsed(operator, playbook, text)
    missing = {row.name for row in asked.evidence.rows("missing")}
    extra = {row.name for row in asked.evidence.rows("extra")}
    assert missing, f"nothing is missing without {gone.name!r}: {asked.outcome}"
    assert not gone.paths or missing & set(gone.paths), (gone, missing)
    assert "/var/spool/cron/crontabs/root" in extra and "/etc/ssh/extra_key" in extra, extra
    assert asked.digest == ""


def described(playbook: Playbook, text: str) -> PlaybookTask:
    """What the backend says of a task that is given as text."""
    name = yaml.safe_load(text.partition("- name: ")[2].splitlines()[0])
    return next(task for task in playbook.tasks if task.name == name)


@pytest.mark.full
@pytest.mark.parametrize("number", range(40))
def test_each_single_task_left_out_is_missing(operator: Fluid, playbook: Playbook, number: int) -> None:
    tasks = tasks_of(playbook.yaml)
    if number >= len(tasks):
        return
    asked = rehearsed(operator, playbook, playbook.yaml.replace(tasks[number], ""))
    assert asked.evidence.rows("missing"), f"nothing is missing without:\n{tasks[number]}"
