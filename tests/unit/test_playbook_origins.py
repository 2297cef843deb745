"""The comments of a playbook: which command a task comes from, and never a secret of it."""

from __future__ import annotations

import pytest

from backend.models import ChangeVerb, Command, UserChange, now
from backend.playbooks import generate
from backend.playbooks._origins import WITHHELD
from tests.unit.playbooks_sample import Sample

FILE = "/etc/app.conf"
SECRET = "Tr0ub4dor3"


def comments(command: str, path: str = FILE, users: list[UserChange] | None = None) -> list[str]:
    """The comments of a playbook that writes a file."""
    sample = Sample()
    sample.commands = [
        Command(id="CMD-1", sandbox_id="SBX-1", command=command, exit_code=0, started_at=now())
    ]
    sample.parts["users"] = users or []
    sample.add(path, b"x\n")
    sample.files[0].commands = ["CMD-1"]
    text = generate(sample.changes(), sample.commands, sample.blobs, name="a test").yaml
    return [line.strip() for line in text.split("\n") if line.lstrip().startswith("#")]


@pytest.mark.parametrize(
    "command",
    [
        "useradd -m -p '$6$salt$0123456789' u && touch /etc/app.conf",
        f"useradd -mp {SECRET} u >/etc/app.conf",
        f"printf 'pw={SECRET}\\n' >/etc/app.conf",
        f"echo {SECRET} >/etc/app.conf",
        f"echo 'a\n{SECRET} of /etc/app.conf\n' >/etc/app.conf",
        f"cat <<<'{SECRET}' >/etc/app.conf",
        f"cat >/etc/app.conf <<\\EOF\nthe word of /etc/app.conf is {SECRET}\nEOF",
        f"cat >/etc/app.conf <<'E-O-F'\nthe word of /etc/app.conf is {SECRET}\nE-O-F",
        f"echo u:{SECRET} | chpasswd # /etc/app.conf",
        f"echo {SECRET} | passwd --stdin u # /etc/app.conf",
        f"psql -c \"ALTER ROLE u PASSWORD '{SECRET}'\" -o /etc/app.conf",
        f"curl -su u:{SECRET} -o /etc/app.conf http://x/",
        f"curl http://u:{SECRET}@x/ -o /etc/app.conf",
        f"mysql -u root -p{SECRET} </etc/app.conf",
        f"mysql -e \"CREATE USER u IDENTIFIED BY '{SECRET}'\" </etc/app.conf",
        f"DB_PASS={SECRET} make /etc/app.conf",
        f"APP_KEY={SECRET} make /etc/app.conf",
        f"redis-cli -a {SECRET} get x >/etc/app.conf",
        f"ldapsearch -D x -w {SECRET} >/etc/app.conf",
        f"sshpass -p {SECRET} scp x:/a /etc/app.conf",
        f"sed -i 's/^requirepass .*/requirepass {SECRET}/' /etc/app.conf",
        f"sed -i 's/^bindpw .*/pw = {SECRET}/' /etc/app.conf",
        f"make --with {SECRET}0aB9cD8eF7gH6 /etc/app.conf",
        f"make {SECRET}0aB9cD8eF7/H6+x= /etc/app.conf",
        f"sh -c 'echo {SECRET} >/etc/app.conf'",
        f'su -c "printf %s {SECRET} >/etc/app.conf"',
        f"ssh-keygen -q -N {SECRET} -f /etc/app.conf",
    ],
)
def test_a_secret_of_a_command_is_in_no_comment(command: str) -> None:
    shown = "\n".join(comments(command))
    assert SECRET not in shown and "$6$" not in shown


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("install -m 0644 x /etc/app.conf", "$ install -m 0644 x /etc/app.conf"),
        ("echo 'a b' \"c $d\" >/etc/app.conf", "$ echo … >/etc/app.conf"),
        ("( crontab -l; echo '1 2 * * * x' ) | tee /etc/app.conf", "$ tee /etc/app.conf"),
        ("sed -i '/^# TYPE/i host all' /etc/app.conf", "$ sed -i '/^# TYPE/i host all' /etc/app.conf"),
        ("# don't\nmake /etc/app.conf", "$ make /etc/app.conf"),
        ("cp linux-image-6.1.0-18-cloud-amd64 /etc/app.conf", "$ cp linux-image-6.1.0-18-cloud-amd64"
         " /etc/app.conf"),
        ("cp /usr/lib/libapache2-mod /etc/app.conf", "$ cp /usr/lib/libapache2-mod /etc/app.conf"),
    ],
)  # fmt: skip
def test_a_plain_command_is_shown(command: str, shown: str) -> None:
    assert comments(command) == [f"# {shown}"]


def test_a_task_that_holds_a_secret_shows_no_command() -> None:
    account = UserChange(
        name="u", verb=ChangeVerb.MODIFIED, before={"password": "locked"}, after={"password": "set"}
    )
    told = comments(f"usermod u --some {SECRET}\nmake /etc/app.conf", users=[account])
    assert told[2:] == [f"# {WITHHELD}", "# $ make /etc/app.conf"]


def test_a_long_line_is_not_looked_into_and_not_shown() -> None:
    assert comments("make /etc/app.conf" + " a" * 3000) == [f"# {WITHHELD}"]
