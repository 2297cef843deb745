"""Files that many share are edited by lines: what a target has of its own in them stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.models import ChangeVerb, FileKind, FileState, UserChange
from backend.playbooks import CheckedTask, Draft, check, generate
from backend.playbooks.builders.lines import edits
from tests.unit.playbooks_sample import Sample
from tests.unit.settings_sample import stated

BIN = Path(sys.executable).parent
FSTAB = "UUID=1 / ext4 defaults 0 1\nUUID=2 /boot ext4 defaults 0 2\n"


def modified(path: str, before: str, after: str, **state: object) -> Sample:
    sample = Sample()
    sample.parts["settings"] = stated((path, before, after))
    sample.add(path, after.encode(), verb=ChangeVerb.MODIFIED, **state)
    one = sample.files[0]
    assert one.after is not None
    one.before = FileState(
        kind=FileKind.FILE, mode=0o644, uid=0, gid=0, owner="root", group="root", text=before, sha256="1" * 64
    )
    return sample


def drafted(sample: Sample) -> Draft:
    return generate(sample.changes(), sample.commands, sample.blobs, name="a test")


def tasks_of(draft: Draft) -> list[CheckedTask]:
    return check(draft.yaml.encode(), draft.files, secrets=draft.secrets).tasks


def played(draft: Draft, path: str, texts: list[str], folder: Path) -> list[str]:
    """What real Ansible makes of files that hold ``texts``, each run twice."""
    yaml = draft.yaml.replace("become: true", "become: false").split("\n  handlers:")[0]
    yaml = "\n".join(line for line in yaml.split("\n") if "notify:" not in line and "validate:" not in line)
    yaml = yaml.replace("owner: root", f"owner: {os.getuid()}")
    yaml = re.sub("group: (root|crontab)", f"group: {os.getgid()}", yaml)
    head, tasks = yaml.split("  tasks:\n")
    targets = [folder / f"target{n}" for n in range(len(texts))]
    for target, text in zip(targets, texts, strict=True):
        target.write_text(text)
        head += "  tasks:\n" * (target == targets[0])
        head += f"{tasks}\n{tasks}\n".replace(path, str(target))
    (folder / "playbook.yml").write_text(head)
    (folder / "files").mkdir(exist_ok=True)
    for name, content in draft.files.items():
        (folder / "files" / name).write_bytes(content)
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_HOME": str(folder / "home")}
    argv = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e",
            f"ansible_python_interpreter={sys.executable}", "playbook.yml"]  # fmt: skip
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [target.read_text() for target in targets]


def test_a_mount_is_a_line_and_the_targets_own_mounts_stay(tmp_path: Path) -> None:
    draft = drafted(modified("/etc/fstab", FSTAB, FSTAB + "/swapfile none swap sw,nofail 0 0\n"))
    (task,) = tasks_of(draft)
    assert (task.name, task.args, task.notify) == (
        "Swap to /swapfile",
        {"path": "/etc/fstab", "regexp": r"^\s*/swapfile\s", "line": "/swapfile none swap sw,nofail 0 0"},
        ("Reload systemd",),
    )
    assert draft.files == {} and draft.notes == []
    own = "LABEL=prod / xfs rw 0 1\n"
    texts = [FSTAB, own, f"{own}/swapfile none swap sw 0 0\n"]
    swap = "/swapfile none swap sw,nofail 0 0\n"
    assert played(draft, "/etc/fstab", texts, tmp_path) == [FSTAB + swap, own + swap, own + swap]


def test_a_mount_that_changed_is_found_by_its_place_and_one_that_went_by_itself() -> None:
    before = f"{FSTAB}/dev/vdb /srv ext4 rw 0 0\n/dev/vdc /old ext4 rw 0 0\n"
    after = f"{FSTAB}/dev/vdb /srv ext4 ro 0 0\n"
    changed, gone = tasks_of(drafted(modified("/etc/fstab", before, after)))
    assert changed.args["regexp"] == r"^\s*[^#\s]\S*\s+/srv\s"
    assert changed.args["line"] == "/dev/vdb /srv ext4 ro 0 0"
    assert (gone.args["line"], gone.args["state"]) == ("/dev/vdc /old ext4 rw 0 0", "absent")
    assert gone.name == "Remove '/dev/vdc /old ext4 rw 0 0' from /etc/fstab"


SSHD = """#Port 22
#PermitEmptyPasswords no
UsePAM yes

# Example
#Match User anoncvs
#\tPermitEmptyPasswords no
"""


def test_an_option_of_sshd_takes_the_place_of_the_targets_own(tmp_path: Path) -> None:
    path = "/etc/ssh/sshd_config"
    after = SSHD.replace("#PermitEmptyPasswords no\nUse", "PermitEmptyPasswords no\nUse")
    draft = drafted(modified(path, SSHD, after))
    assert [task.args["line"] for task in tasks_of(draft)] == ["PermitEmptyPasswords no"]
    own = "Port 2222\nPermitEmptyPasswords yes\nAllowUsers ops\n"
    assert played(draft, path, [SSHD, own], tmp_path) == [after, own.replace("yes", "no")]


def test_a_block_at_the_end_keeps_its_order_and_the_line_above_free(tmp_path: Path) -> None:
    path = "/etc/ssh/sshd_config"
    after = SSHD + "\nMatch User a\n\tX11Forwarding no\n\tPermitTTY no\n"
    draft = drafted(modified(path, SSHD, after))
    assert all(task.args["validate"] for task in tasks_of(draft) if task.module.endswith("lineinfile"))
    block = after.removeprefix(SSHD)
    assert played(draft, path, [SSHD, "Port 2222\n"], tmp_path) == [after, f"Port 2222\n{block}"]


HEADER = """# DO NOT EDIT THIS FILE - edit the master and reinstall.
# (- installed on Mon Nov 30 2026)
# (Cron v)
"""
JOBS = "15 3 * * * /usr/local/bin/clean-tmp\n@daily x % y\n"
SPOOL = "/var/spool/cron/crontabs/root"


def test_a_crontab_that_a_target_has_already_gets_the_jobs_and_keeps_its_own(tmp_path: Path) -> None:
    sample = Sample()
    sample.parts["settings"] = stated((SPOOL, None, HEADER + JOBS))
    sample.add(SPOOL, (HEADER + JOBS).encode(), mode=0o600, group="crontab", gid=104)
    draft = drafted(sample)
    begin, jobs = tasks_of(draft)
    assert (begin.args["force"], begin.args["mode"]) == (False, "0600")
    assert jobs.args["create"] is True and list(jobs.loop) == JOBS.splitlines()
    assert jobs.name == f"Add 2 lines to {SPOOL}"
    own = "# (- installed on Sun Nov 1 2026)\n1 1 * * * backup\n"
    assert played(draft, SPOOL, [own], tmp_path) == [own + JOBS]
    assert "installed on" not in draft.yaml
    assert [content.decode() for content in draft.files.values()] == [HEADER]


def test_a_crontab_is_changed_job_by_job(tmp_path: Path) -> None:
    after = (
        HEADER.replace("Nov 30", "Dec  1")
        + "15 4 * * * /usr/local/bin/clean-tmp\n@daily x % y\n0 0 * * * z\n"
    )
    draft = drafted(modified(SPOOL, HEADER + JOBS, after))
    assert [task.args["line"] for task in tasks_of(draft)] == [
        "# (- installed on Mon Dec  1 2026)", "15 4 * * * /usr/local/bin/clean-tmp", "0 0 * * * z",
    ]  # fmt: skip
    own = HEADER.replace("Nov 30", "Oct 10") + "1 1 * * * backup\n"
    jobs = "15 4 * * * /usr/local/bin/clean-tmp\n0 0 * * * z\n"
    kept = HEADER.replace("Nov 30", "Dec  1") + "1 1 * * * backup\n"
    assert played(draft, SPOOL, [HEADER + JOBS, own], tmp_path) == [after, kept + jobs]


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk2yL0vXhKp9v1QOa3lq1Yv0l6QF3sS8mS7cQ0b2m3K ada@laptop\n"


@pytest.mark.parametrize("made_here", [True, False])
def test_a_login_key_is_added_to_those_of_an_account_that_was_there(made_here: bool) -> None:
    sample = Sample()
    path = "/home/ada/.ssh/authorized_keys"
    sample.parts["settings"] = stated((path, None, KEY))
    sample.add(path, KEY.encode(), mode=0o600)
    if made_here:
        after = {"uid": "1601", "gid": "1601", "home": "/home/ada", "shell": "/bin/sh", "password": "!"}
        sample.parts["users"] = [UserChange(name="ada", verb=ChangeVerb.ADDED, after=after)]
    task = tasks_of(drafted(sample))[-1]
    assert task.name == "Let the key 'ada@laptop' log in as ada"
    assert task.module.endswith("copy" if made_here else "lineinfile")
    assert made_here or (task.args["line"], task.args["create"], task.args["mode"]) == (
        KEY[:-1],
        True,
        "0600",
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\n}\n", "a\n}\nb\n}\n"),  # lineinfile adds no line twice
        ("a\n", "a\nb"),
        ("".join(f"{n}\n" for n in range(40)), "".join(f"{n}x\n" for n in range(40))),
        ("a\nb\n", "a\x01\nb\n"),
    ],
)
def test_what_lines_cannot_say_is_written_whole_and_told(before: str, after: str) -> None:
    draft = drafted(modified("/etc/sysctl.conf", before, after))
    (task,) = tasks_of(draft)
    assert task.module.endswith("copy")
    assert draft.notes == ["/etc/sysctl.conf: is written whole; what a target has of its own in it goes"]


def test_a_crontab_that_goes_is_told() -> None:
    sample = Sample()
    sample.add(SPOOL, b"x\n", verb=ChangeVerb.REMOVED)
    assert drafted(sample).notes == [f"{SPOOL}: is removed whole; what a target has of its own in it goes"]


def test_an_owner_that_changed_too_is_set() -> None:
    draft = drafted(modified("/etc/aliases", "a: b\n", "a: b\nroot: ops\n", mode=0o600))
    line, owner = tasks_of(draft)
    assert line.args["regexp"] == r"^root\s*:" and line.notify == ("Make the table of mail aliases",)
    assert owner.args == {"path": "/etc/aliases", "mode": "0600"}


LINES = st.lists(
    st.sampled_from(["", "a", "b", "# c", "d e", "{{ f }}", "\tg", "h = 1", "h = 2"]), max_size=8
)


@settings(max_examples=300, deadline=None)
@given(LINES, LINES)
def test_what_is_said_by_lines_gives_the_text(old: list[str], new: list[str]) -> None:
    """Real Ansible is asked above; here the module's own rules are played by :func:`edits`, or it says no."""
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    found = edits("/etc/sysctl.conf", before, after)
    assert found is None or found or before == after
