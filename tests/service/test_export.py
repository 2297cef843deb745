"""The exported folder with plain ansible-playbook, for real: on this machine under an overlay of its own.

No systemd runs in there, so units are not part of it; users, groups, files, links and keys are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.models import ChangeVerb, FileKind, GroupChange, UserChange
from backend.playbooks import Draft, GuestFacts, export, generate
from backend.playbooks.rollback import roll_back
from tests.unit.playbooks_sample import STRANGE, Sample, turned_round

RUN_S = 600
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
# An overlay on a tmpfs, in a mount namespace that ends with the last command: nothing of it stays.
ENTER = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
mount --rbind /proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs none "$1/root/tmp"
cp -r "$2" "$1/root/tmp/plays"
exec chroot "$1/root" sh
"""
LOOK = r"""
{ find /etc /srv -printf '%p %y %m %u %g %l\n'; find /etc /srv -type f -exec sha256sum {} +; } |
grep -vE ' ?/etc/(passwd|group|shadow|gshadow|subuid|subgid)-( |$)|/etc/\.pwd\.lock|^/(etc|srv) ' |
LC_ALL=C sort
"""


def change() -> Sample:
    """Users, a strange name, a link, a key, a file that was there and one that goes."""
    sample = Sample()
    sample.commands = [sample.commands[0].model_copy(update={"id": "CMD-9", "command": KEY})]
    sample.parts["groups"] = [GroupChange(name="fluidt", verb=ChangeVerb.ADDED, after={"gid": "943"})]
    after = {"uid": "943", "gid": "943", "home": "/srv/t", "shell": "/bin/sh", "groups": "", "password": "!"}
    sample.parts["users"] = [UserChange(name="fluidt", verb=ChangeVerb.ADDED, after=after)]
    for path in ("/srv/t", "/srv/site", "/srv/keys"):
        sample.add(path, kind=FileKind.DIRECTORY, mode=0o750)
    sample.add(STRANGE, b"<h1>{{ not a template }}</h1>\n", owner="fluidt", group="fluidt", uid=943, gid=943)
    sample.add("/srv/site/latest", kind=FileKind.LINK, mode=0o777, target="../t")
    sample.add("/srv/keys/a.key", mode=0o600, secret="private key", sha256="0" * 64)
    sample.add("/etc/issue", b"Changed.\n", verb=ChangeVerb.MODIFIED)
    sample.add("/etc/issue.net", verb=ChangeVerb.REMOVED)
    for path in ("/etc/issue", "/etc/issue.net"):
        one = next(one for one in sample.files if one.path == path)
        assert one.before is not None
        one.before.text, one.before.blob = Path(path).read_text(), False
    return sample


KEY = "openssl genrsa -out /srv/keys/a.key 2048"


@pytest.fixture
def plays(tmp_path: Path) -> Iterator[Path]:
    sample = change()
    changes = sample.changes()
    there = generate(changes, sample.commands, sample.blobs, name="there", facts=GuestFacts())
    back = roll_back(turned_round(changes), sample.blobs, name="back")
    for name, draft in (("there", there), ("back", back)):
        _export(draft, tmp_path / "plays" / name)
    yield tmp_path / "plays"


def _export(draft: Draft, folder: Path) -> None:
    assert draft.notes == [] and draft.secrets == []
    export(draft.yaml, draft.files, folder)


@pytest.mark.full
def test_the_folder_runs_anywhere_twice_and_its_way_back_leaves_the_machine_as_it_was(
    plays: Path, tmp_path: Path
) -> None:
    run = f"{PLAYBOOK} -i web, -c local -e ansible_python_interpreter=/usr/bin/python3 playbook.yml"
    script = ["cd /tmp/plays", f"echo == start; {LOOK}"]
    for name in ("there", "there", "back", "back"):
        script.append(f"cd /tmp/plays/{name}; echo == {name}; {run}")
        script.append(f"echo == look; {LOOK}")
    (tmp_path / "overlay").mkdir()
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "sh",
            tmp_path / "overlay",
            plays,
        ],
        input="\n".join(script).encode(),
        env={"PATH": os.environ["PATH"], "HOME": "/tmp", "LC_ALL": "C.UTF-8", "ANSIBLE_HOME": "/tmp/ansible"},
        capture_output=True,
        timeout=RUN_S,
        check=False,
    )
    text = done.stdout.decode("utf-8", "replace")
    parts = re.split(r"^== (\w+)\n", text, flags=re.MULTILINE)[1:]
    told = list(zip(parts[::2], parts[1::2], strict=True))
    looks = [part for name, part in told if name in ("start", "look")]
    recaps = [recap(part) for name, part in told if name in ("there", "back")]
    assert [row["failed"] for row in recaps] == [0, 0, 0, 0], text + done.stderr.decode()
    start, made, again, back, back_again = looks
    assert recaps[0]["changed"] >= 8 and recaps[1]["changed"] == 0, text
    assert recaps[2]["changed"] >= 6 and recaps[3]["changed"] == 0, text
    assert made == again and "/srv/site/über {{ lookup('pipe', 'id') }} page.html f 644 fluidt fluidt" in made
    assert made != start and set(made.splitlines()) - set(start.splitlines())
    assert back == back_again
    assert "".join(sorted(set(back.splitlines()) ^ set(start.splitlines()))) == ""


def recap(text: str) -> dict[str, int]:
    """Ansible's own counts of the one host."""
    line = text.rpartition("PLAY RECAP")[2]
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}
