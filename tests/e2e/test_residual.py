"""The residual names what a playbook leaves out and what it adds: measured on a real twin, both ways."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
import yaml

from backend.client import Fluid
from backend.demo.scenario import draw
from backend.errors import PlaybookRefused
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


WORK = """set -e
useradd --system --shell /bin/bash deploy
echo 'deploy ALL=(root) NOPASSWD: /usr/bin/systemctl restart tidy' >/etc/sudoers.d/deploy
chmod 0440 /etc/sudoers.d/deploy
mkdir /srv/tidy
echo 'keep: 14 days' >/srv/tidy/settings.yaml
ln -s /srv/tidy/settings.yaml /etc/tidy.yaml
printf '%s\\n' '[Unit]' 'Description=Tidy' '[Service]' 'ExecStart=/bin/sleep infinity' \\
    '[Install]' 'WantedBy=multi-user.target' >/etc/systemd/system/tidy.service
systemctl daemon-reload
systemctl enable --now tidy
echo 'vm.swappiness = 10' >/etc/sysctl.d/60-tidy.conf
sysctl -p /etc/sysctl.d/60-tidy.conf
echo '5 4 * * * root /bin/true' >/etc/cron.d/tidy
rm /etc/motd
"""
"""Of many kinds and without packages, which take their time: the demo's playbook has those."""


class Loader(yaml.SafeLoader):
    """Takes the values that Ansible must not template as the text that they are."""


Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))  # type: ignore[no-untyped-call]


def tasks_of(text: str) -> list[str]:
    """The playbook's tasks as text, in order."""
    return parts_of(text.partition("\n  tasks:\n")[2].partition("\n  handlers:\n")[0])


def handlers_of(text: str) -> list[str]:
    """Its handlers."""
    return parts_of(text.partition("\n  handlers:\n")[2])


def parts_of(body: str) -> list[str]:
    """Each from its name to the next one's. What stands above the first name belongs to none."""
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


@pytest.fixture
def varied(operator: Fluid, playbook: Playbook) -> Iterator[Playbook]:
    """A playbook of many kinds of tasks."""
    source = operator.sandbox(playbook.sandbox_id).base_image
    box = operator.create(source, agent_id="residual", name="many-kinds")
    operator.snapshot(box.id, "before")
    done = operator.run(box.id, WORK)
    assert done.exit_code == 0, done.stderr
    yield operator.generate_playbook(box.id, "before")
    operator.destroy(box.id)


def rehearsed(operator: Fluid, playbook: Playbook, text: str) -> Approval:
    """The evidence of an edited playbook, rehearsed for real; the request is withdrawn then."""
    edited = operator.update_playbook(playbook.id, text)
    asked = operator.request_approval(
        playbook.sandbox_id, playbook=edited.id, targets=["web-01"], reason="a test of the residual"
    )
    deadline = time.monotonic() + REHEARSAL_TIMEOUT_S
    while asked.state is ApprovalState.REHEARSING and time.monotonic() < deadline:
        asked = operator.approval(asked.id, wait=30)
    operator.withdraw_approval(asked.id)
    return asked


@pytest.mark.full
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


def rows_of(task: PlaybookTask, text: str) -> tuple[str, set[str]]:
    """The kind of its rows, and the names that they can have: its paths, and the packages, units or accounts
    that it is about. What it takes away was never in the sandbox's change where a package of the change
    brings it: then it is extra."""
    args = yaml.load(text, Loader)[0][task.module]  # noqa: S506 - a safe loader, and one tag
    kind = "extra" if isinstance(args, dict) and args.get("state") == "absent" else "missing"
    named = args.get("name", []) if isinstance(args, dict) else []
    names = [named] if isinstance(named, str) else named
    return kind, {*task.paths, *(name.partition("=")[0] for name in names)}


@pytest.mark.full
def test_each_single_task_left_out_is_missing_by_name(operator: Fluid, varied: Playbook) -> None:
    """All are tried, and all that went wrong are told. A probe whose result a later task asks for cannot be
    left out alone: that is refused."""
    playbook, wrong = varied, []
    tasks = tasks_of(playbook.yaml)
    assert len(tasks) > 8, playbook.yaml
    for text in tasks:
        gone = described(playbook, text)
        kind, names = rows_of(gone, text)
        assert names, f"nothing says what {gone.name!r} is about"
        try:
            asked = rehearsed(operator, playbook, playbook.yaml.replace(text, ""))
        except PlaybookRefused as refused:
            if "\n      register: " not in text:
                wrong.append(f"{gone.name}: refused: {refused.message}")
            continue
        rows = {row.name for row in (*asked.evidence.rows("missing"), *asked.evidence.rows(kind))}
        if not rows & names:
            wrong.append(f"{gone.name}: none of {sorted(names)} is {kind}, but {sorted(rows)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.full
def test_a_handler_left_out_is_refused_by_its_name(operator: Fluid, playbook: Playbook) -> None:
    """Without it a service would go on as it was, and the disk would show nothing of that."""
    handlers = handlers_of(playbook.yaml)
    assert handlers, "the demo's playbook has no handlers"
    for text in handlers:
        left = playbook.yaml.replace(text, "")
        left = left if handlers_of(left) else left.partition("\n  handlers:\n")[0] + "\n"
        with pytest.raises(PlaybookRefused) as refused:
            operator.update_playbook(playbook.id, left)
        assert f"there is no handler {described(playbook, text).name!r}" in refused.value.message
