"""Playbooks from a disk diff: the tasks a person would write, in the order that works, and honest notes."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import PlaybookRefused
from backend.models import (
    ChangeVerb,
    Command,
    FileKind,
    GroupChange,
    PackageChange,
    SettingChange,
    SettingKind,
    UnitChange,
    UnitState,
    UserChange,
    now,
)
from backend.playbooks import (
    CheckedPlaybook,
    CheckedTask,
    Draft,
    GuestFacts,
    check,
    digest,
    export,
    generate,
    told,
)
from backend.playbooks.rollback import roll_back
from tests.unit.playbooks_sample import STRANGE, Sample, plain_web_server, turned_round, web_server
from tests.unit.settings_sample import File, stated

BIN = Path(sys.executable).parent
ON = UnitState(enabled=True, defined=True)


def drafted(sample: Sample, **facts: str) -> Draft:
    return generate(sample.changes(), sample.commands, sample.blobs, name="a test", facts=GuestFacts(**facts))


def checked(draft: Draft) -> CheckedPlaybook:
    return check(draft.yaml.encode(), draft.files, secrets=draft.secrets)


def of(draft: Draft, module: str) -> list[CheckedTask]:
    return [task for task in checked(draft).tasks if task.module == f"ansible.builtin.{module}"]


def said(*lines: str) -> list[Command]:
    return [
        Command(id=f"CMD-{n}", sandbox_id="SBX-1", command=line, exit_code=0, started_at=now())
        for n, line in enumerate(lines)
    ]


def sample_with(*lines: str, **parts: Any) -> Sample:
    sample = Sample()
    sample.commands = said(*lines)
    sample.parts |= parts
    return sample


def user(**after: str) -> UserChange:
    values = {"uid": "998", "gid": "998", "home": "/srv/u", "shell": "/bin/sh", "comment": "", "groups": ""}
    return UserChange(name="u", verb=ChangeVerb.ADDED, after={**values, "password": "locked", **after})


def settings_sample(*files: File, commands: tuple[str, ...] = ()) -> Sample:
    """The files as they are after the change, and what they state."""
    sample = sample_with(*commands, settings=stated(*files))
    for path, before, after in files:
        verb = ChangeVerb.ADDED if before is None else ChangeVerb.MODIFIED
        if after is not None and after.startswith("→ "):
            sample.add(path, kind=FileKind.LINK, target=after[2:], verb=verb)
        elif after is not None:
            sample.add(path, after.encode(), verb=verb)
    return sample


# --- the whole ---------------------------------------------------------------------------------------------


def test_a_web_server_becomes_a_short_playbook_in_the_order_that_works() -> None:
    draft = drafted(web_server())
    names = [task.name for task in checked(draft).tasks]
    assert names == [
        "Install nginx-light and openssl",
        "Remove /etc/nginx/sites-enabled/default",
        "Create the group deploy",
        "Create the user deploy",
        "Create 3 directories",
        "Write /etc/nginx/sites-available/site",
        "Write /etc/sysctl.d/60-site.conf",
        "Write /etc/systemd/system/rotate.service",
        "Write /etc/systemd/system/rotate.timer",
        "Write /srv/site/über { { lookup('pipe', 'id') }} page.html",
        "Link /etc/nginx/sites-enabled/site",
        "Make the key and certificate /etc/ssl/site/site.pem",
        "Set owner and mode of /etc/ssl/site/site.key",
        "Enable and start rotate.timer",
    ]
    assert [handler.name for handler in checked(draft).handlers] == [
        "Reload nginx",
        "Apply kernel settings",
        "Reload systemd",
        "Restart rotate.timer",
    ]
    assert draft.notes == []
    assert [task.name for task in draft.tasks][: len(names)] == names


def test_a_web_server_is_about_thirty_lines_of_tasks_whatever_its_packages_bring() -> None:
    """Comments and empty lines not counted, and neither are play and handlers."""
    sample = plain_web_server()
    assert len(sample.files) > 300
    draft = drafted(sample)
    lines = draft.yaml.split("  tasks:\n")[1].split("  handlers:\n")[0].splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert [task.name for task in checked(draft).tasks] == [
        "Install nginx-light",
        "Remove /etc/nginx/sites-enabled/default",
        "Create /var/www/site",
        "Write /etc/nginx/sites-available/site",
        "Write /var/www/site/index.html",
        "Link /etc/nginx/sites-enabled/site",
    ], draft.yaml
    assert len(lines) <= 40, draft.yaml
    assert draft.notes == []


KEY = "ssh-ed25519 " + base64.b64encode(b"key").decode()


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("/etc/sudoers.d/d", "d ALL=(root) NOPASSWD: /usr/bin/systemctl\n", "Let d run systemctl as root"),
        ("/etc/sudoers.d/d", "d ALL=(www) /bin/a x, /bin/b\n", "Let d run a x and b as www"),
        ("/etc/sudoers.d/d", "%ops ALL=(ALL:ALL) ALL\n", "Let group ops become root by sudo"),
        ("/etc/sudoers.d/d", "a ALL=/bin/a\nb ALL=/bin/b\n", "Let a and b run commands by sudo"),
        ("/home/d/.ssh/authorized_keys", f"{KEY} ops@x\n", "Let the key 'ops@x' log in as d"),
        ("/etc/ssh/sshd_config.d/a.conf", "PermitRootLogin no\n", None),
        ("/etc/sysctl.d/a.conf", "vm.swappiness=10\n", "Set vm.swappiness to 10"),
        ("/etc/sysctl.d/a.conf", "a.b=1\nc.d=2\n", "Set a.b and c.d"),
        ("/etc/modules-load.d/a.conf", "br_netfilter\n", "Load br_netfilter at boot"),
        ("/etc/fstab", "/dev/vdb /srv ext4 rw 0 0\n", "Mount /srv at boot"),
        ("/etc/fstab", "/swapfile none swap sw 0 0\n", "Swap to /swapfile"),
        ("/etc/cron.d/j", "0 1 * * * root /bin/j\n", "Run /bin/j by cron as root"),
        ("/etc/systemd/system/a.timer", "[Timer]\nOnCalendar=daily\n", "Define a.timer"),
        ("/etc/systemd/system/a.service.d/x.conf", "[Service]\nUser=a\n", "Change a.service by x.conf"),
        ("/etc/nftables.conf", 'table ip a {\n}\ninclude "x"\n', "Set the firewall in nftables.conf"),
        ("/etc/apt/sources.list.d/x.list", "deb https://x/ s main\n", "Take packages from https://x/ s"),
        ("/etc/localtime", "→ /usr/share/zoneinfo/Europe/Berlin", "Set the time zone to Europe/Berlin"),
        ("/etc/alternatives/editor", "→ /usr/bin/vim.basic", "Let editor be /usr/bin/vim.basic"),
        ("/etc/default/locale", "LANG=C.UTF-8\n", "Set LANG=C.UTF-8"),
        ("/etc/app.conf", "a = b\n", None),
    ],
)
def test_a_task_is_named_for_what_its_file_states(path: str, text: str, name: str | None) -> None:
    draft = drafted(settings_sample((path, None, text)))
    (task,) = checked(draft).tasks
    assert task.name == (name or f"Write {path}")
    assert task.args.get("dest") or task.args.get("path") == path


def test_what_sshd_gets_is_named_and_of_many_words_a_comment_has_the_values() -> None:
    main = ("/etc/ssh/sshd_config", "", "PermitRootLogin no\n")
    assert "name: Set PermitRootLogin no for sshd" in drafted(settings_sample(main)).yaml
    many = ("/etc/sysctl.d/a.conf", None, "".join(f"a.b{n}={n}\n" for n in range(6)))
    text = drafted(settings_sample(many)).yaml
    assert "    # a.b0 0, a.b1 1, a.b2 2, a.b3 3 and 2 more\n    - name: Set 6 kernel parameters\n" in text


def test_two_files_that_say_the_same_have_names_of_their_own() -> None:
    zone = "Europe/Berlin"
    files = [("/etc/localtime", None, f"→ /usr/share/zoneinfo/{zone}"), ("/etc/timezone", None, f"{zone}\n")]
    names = [task.name for task in checked(drafted(settings_sample(*files))).tasks]
    assert sorted(names) == [
        "Set the time zone to Europe/Berlin",
        "Set the time zone to Europe/Berlin (/etc/timezone)",
    ]


def test_a_line_of_the_hosts_file_is_added_changed_and_taken_away_and_no_other_is_touched(
    tmp_path: Path,
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.1.1 twin\n10.0.0.6  a b # x\n10.0.0.7 gone\n")
    before = "127.0.1.1 base\n10.0.0.6 a b\n10.0.0.7 gone\n"
    after = "127.0.1.1 base\n10.0.0.5 db {{ x }}\n10.0.0.5 db db.lan\n10.0.0.6 a c\n"
    sample = sample_with(settings=stated(("/etc/hosts", before, after)))
    sample.add("/etc/hosts", after.encode(), verb=ChangeVerb.MODIFIED, hidden="identity")
    draft = drafted(sample)
    assert [(task.name, task.module.rpartition(".")[2]) for task in checked(draft).tasks] == [
        ("Let db db.lan be 10.0.0.5", "lineinfile"),
        ("Let a c be 10.0.0.6", "lineinfile"),
        ("Let gone no longer be 10.0.0.7", "lineinfile"),
    ]
    assert draft.notes == ["/etc/hosts: the line of 10.0.0.5 cannot be expressed"]
    assert draft.tasks[0].paths == ["/etc/hosts"]
    head, tasks = draft.yaml.replace("/etc/hosts", str(hosts)).split("  tasks:\n")
    play = tmp_path / "playbook.yml"
    play.write_text(f"{head}  tasks:\n{tasks}\n{tasks}".replace("become: true", "become: false"))
    interpreter = f"ansible_python_interpreter={sys.executable}"
    done = ansible(
        "ansible-playbook", "-i", "localhost,", "-c", "local", "-e", interpreter, play.name, folder=tmp_path
    )
    assert "ok=6    changed=3 " in done.stdout, done.stdout + done.stderr  # the second time nothing
    assert hosts.read_text() == "127.0.1.1 twin\n10.0.0.6 a c\n10.0.0.5 db db.lan\n"


def test_a_name_that_the_agent_chose_is_given_to_each_target_and_said() -> None:
    sample = sample_with(settings=stated(("/etc/hostname", "base\n", "web\n")))
    draft = drafted(sample)
    (task,) = checked(draft).tasks
    assert (task.name, task.args) == ("Name the machine web", {"name": "web"})
    assert draft.notes == ["every target gets the host name web"]
    for one in sample.parts["settings"]:
        one.hidden = "identity"
    with pytest.raises(PlaybookRefused):
        drafted(sample)


def test_going_back_takes_away_the_hosts_line_and_brings_the_name_again() -> None:
    found = stated(("/etc/hosts", "", "10.0.0.5 db\n"), ("/etc/hostname", "twin\n", "web\n"))
    sample = sample_with(settings=found)
    draft = roll_back(turned_round(sample.changes()), sample.blobs, name="back")
    assert [task.name for task in checked(draft).tasks] == [
        "Name the machine twin",
        "Let db no longer be 10.0.0.5",
    ]
    assert draft.notes == []


def test_generation_is_deterministic() -> None:
    first, second = drafted(web_server()), drafted(web_server())
    assert first.yaml == second.yaml
    assert digest(first.yaml, first.files) == digest(second.yaml, sorted(second.files))
    assert digest(first.yaml + " ", first.files) != digest(first.yaml, first.files)
    assert digest(first.yaml, {**first.files, "0" * 64: b""}) != digest(first.yaml, first.files)


def test_each_task_names_the_command_it_comes_from() -> None:
    text = drafted(web_server()).yaml
    assert "    # $ ln -s ../sites-available/site /etc/nginx/sites-enabled/site\n    - name: Link" in text


def test_a_command_that_names_the_path_counts_more_than_one_that_ran_meanwhile() -> None:
    sample = sample_with("file.write /srv/a", "file.write /srv/b")
    sample.add("/srv/a", b"x")
    sample.files[0].commands = ["CMD-1", "CMD-0"]
    assert drafted(sample).tasks[0].commands == ["CMD-0"]


def test_a_command_that_only_looked_later_is_no_origin() -> None:
    sample = sample_with("cat >/srv/a <<'EOF'\nx\nEOF", "cat >/srv/b", "check /srv/a")
    sample.add("/srv/a", b"x")
    sample.files[0].commands = ["CMD-0", "CMD-1"]
    assert drafted(sample).tasks[0].commands == ["CMD-0"]


def test_a_command_cannot_break_out_of_its_comment() -> None:
    sample = sample_with("touch /srv/a\n    - name: Evil\n\x1b[0m\u202e /srv/a")
    sample.add("/srv/a", b"x")
    draft = drafted(sample)
    assert [task.name for task in checked(draft).tasks] == ["Write /srv/a"]
    assert "\x1b" not in draft.yaml
    assert "\u202e" not in draft.yaml


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("mkdir -p /srv\ncat >/srv/a <<'EOF'\nsee /srv/a\nEOF\nls /srv", "$ cat >/srv/a <<'EOF' …"),
        ("cat >/etc/b <<-E\n/srv/a\n\tE\necho x >/srv/a", "$ echo … >/srv/a"),
        ("cat <<<'x' >/etc/b\necho x >/srv/a", "$ echo … >/srv/a"),
        ("cat >/srv/a <<EOF\nnever ends", "$ cat >/srv/a <<EOF …"),
        ("for n in 1 2; do echo $n; done >/srv/a", "$ for n in 1 2; do echo …; done >/srv/a"),
        ("mkdir /srv/b && install -m 0644 x /srv/a", "$ install -m 0644 x /srv/a"),
        ("cat >/srv/a <<EOF\npassword: hunter2\nEOF", "$ cat >/srv/a <<EOF …"),
    ],
)
def test_the_comment_is_the_one_line_that_names_the_path(command: str, shown: str) -> None:
    sample = sample_with(command)
    sample.add("/srv/a", b"x")
    lines = [line.strip() for line in drafted(sample).yaml.split("\n")]
    assert [line for line in lines if line.startswith("# $")] == [f"# {shown}"]


def test_a_comment_names_the_account_and_what_wrote_a_file_before_what_set_its_mode() -> None:
    account = user()
    account.name = "ann"
    commands = "groupadd x\nuseradd ann", "cat >/etc/a <<'E'\nx\nE\nchmod 0440 \\\n  /etc/a"
    sample = sample_with(*commands, users=[account])
    sample.add("/etc/a", b"x")
    lines = [line.strip() for line in drafted(sample).yaml.split("\n")]
    assert [one for one in lines if one.startswith("# $")] == ["# $ useradd ann", "# $ cat >/etc/a <<'E' …"]


def test_a_command_that_names_the_path_in_a_text_only_is_shown_where_no_other_does() -> None:
    later = "umask 077\ncat >/srv/b <<'EOF'\nsee /srv/a\nEOF"
    for commands, shown in (((later, "make >/srv/a"), ["$ make >/srv/a"]), ((later,), ["$ umask 077 …"])):
        sample = sample_with(*commands)
        sample.add("/srv/a", b"x")
        lines = [line.strip() for line in drafted(sample).yaml.split("\n")]
        assert [line for line in lines if line.startswith("# $")] == [f"# {one}" for one in shown]


def test_a_secret_in_a_command_stays_out_of_the_comment() -> None:
    sample = sample_with("echo hunter2 | tee /srv/password.txt")
    sample.add("/srv/password.txt", b"x")
    assert "hunter2" not in drafted(sample).yaml


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/srv/a", "dest: /srv/a"),
        ("/srv/Büro (neu) 100%", 'dest: "/srv/Büro (neu) 100%"'),
        ("/srv/{{ x }}", 'dest: !unsafe "/srv/{{ x }}"'),
        ("/srv/{ x", 'dest: !unsafe "/srv/{ x"'),
        ("/srv/#x", 'dest: !unsafe "/srv/#x"'),
        ("/srv/a\u200bb", 'dest: !unsafe "/srv/a\u200bb"'),
    ],
)
def test_only_what_a_template_could_be_made_of_is_marked_unsafe(path: str, written: str) -> None:
    sample = Sample()
    sample.add(path, b"x")
    assert written in drafted(sample).yaml


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(PlaybookRefused):
        drafted(Sample())


@pytest.mark.parametrize("clock", ["right", "late"])
def test_what_only_the_installation_touched_is_left_to_it_whatever_a_late_clock_says(clock: str) -> None:
    sample = sample_with("apt-get install -y bind9", "install -d /etc/bind/zones", packages=[added("bind9")])
    for path, at in (("/etc/bind/zones", 1), ("/etc/bind/named.cache", 0)):
        sample.add(path, kind=FileKind.DIRECTORY, mode=0o755)
        sample.files[-1].commands = [f"CMD-{at if clock == 'right' else 0}"]
    assert [task.name for task in drafted(sample).tasks] == ["Install bind9", "Create /etc/bind/zones"]


# --- packages ----------------------------------------------------------------------------------------------


def added(name: str, wanted: bool = True) -> PackageChange:
    return PackageChange(name=name, verb=ChangeVerb.ADDED, after_version="1.0", wanted=wanted)


def test_only_packages_asked_for_by_name_are_installed() -> None:
    (task,) = of(drafted(sample_with(packages=[added("nginx"), added("libssl3", wanted=False)])), "apt")
    assert task.args["name"] == "nginx"
    assert task.args["cache_valid_time"] == 86400


def test_recommended_packages_follow_the_agents_choice() -> None:
    sample = sample_with(
        "apt-get install -y nginx",
        "apt-get install -y --no-install-recommends curl",
        packages=[added("curl"), added("nginx")],
    )
    full, lean = of(drafted(sample), "apt")
    assert (full.args["name"], "install_recommends" in full.args) == ("nginx", False)
    assert (lean.args["name"], lean.args["install_recommends"]) == ("curl", False)


def test_a_new_package_source_comes_first_and_is_read_anew() -> None:
    sample = sample_with(packages=[added("nginx")])
    sample.add("/etc/apt/sources.list.d/x.sources", b"Types: deb\n")
    tasks = checked(drafted(sample)).tasks
    assert [task.module.rpartition(".")[2] for task in tasks] == ["copy", "apt"]
    assert "cache_valid_time" not in tasks[1].args


def test_settings_of_apt_that_a_packages_script_writes_come_after_the_package() -> None:
    sample = sample_with(packages=[added("uu")])
    for name in ("20auto-upgrades", "52site"):
        sample.add(f"/etc/apt/apt.conf.d/{name}", b'Unattended-Upgrade::Mail "ops";\n')
    sample.add("/var/lib/ucf/cache/:etc:apt:apt.conf.d:20auto-upgrades", b"x", hidden="package scripts")
    tasks = [task.args.get("dest") or task.args["name"] for task in checked(drafted(sample)).tasks]
    assert tasks == ["/etc/apt/apt.conf.d/52site", "uu", "/etc/apt/apt.conf.d/20auto-upgrades"]


def test_removed_packages_are_removed_and_their_files_need_no_task() -> None:
    sample = sample_with(packages=[PackageChange(name="nano", verb=ChangeVerb.REMOVED, before_version="1")])
    sample.add("/usr/bin/nano", b"x", verb=ChangeVerb.REMOVED, package="nano")
    (task,) = checked(drafted(sample)).tasks
    assert task.args == {"name": "nano", "state": "absent"}


def test_a_package_whose_settings_went_too_is_purged() -> None:
    names = ("cron", "nano")
    sample = sample_with(
        packages=[PackageChange(name=name, verb=ChangeVerb.REMOVED, before_version="1") for name in names]
    )
    sample.add("/etc/default/cron", b"x", verb=ChangeVerb.REMOVED, package="cron")
    removed, purged = checked(drafted(sample)).tasks
    assert removed.args == {"name": "nano", "state": "absent"}
    assert purged.args == {"name": "cron", "state": "absent", "purge": True}


def test_a_default_that_a_fresh_package_brings_and_the_agent_removed_is_removed() -> None:
    sample = sample_with(
        "a2dissite 000-default && rm -rf /tmp/x /etc/apache2/conf-enabled/y.conf", packages=[added("apache2")]
    )
    removed = [task.args["path"] for task in of(drafted(sample), "file")]
    assert removed == ["/etc/apache2/conf-enabled/y.conf", "/etc/apache2/sites-enabled/000-default.conf"]


PRESEED = """debconf-set-selections <<'EOF'
postfix postfix/mailname string mail.example {{ x }}
postfix postfix/relayhost string $RELAY
EOF
echo 'postfix postfix/secret password hunter2' | debconf-set-selections
echo 'postfix postfix/admin_pw string hunter2' | debconf-set-selections
echo 'mysql mysql/x string y' | debconf-set-selections
"""


def test_what_a_package_asks_is_answered_before_it_is_installed() -> None:
    draft = drafted(sample_with(PRESEED, packages=[added("postfix")]))
    plain, secret, named, install = checked(draft).tasks
    assert plain.args == {
        "name": "postfix", "question": "postfix/mailname", "vtype": "string", "value": "mail.example {{ x }}"
    }  # fmt: skip
    assert [*secret.secrets, *named.secrets] == draft.secrets
    assert draft.secrets == ["answer_to_postfix_secret", "answer_to_postfix_admin_pw"]
    assert install.module.endswith(".apt") and "hunter2" not in draft.yaml
    assert draft.notes == ["debconf postfix/relayhost: its answer is no plain text in the command log"]


def test_an_answer_that_is_called_like_a_secret_is_none() -> None:
    lines = "debconf-set-selections <<'E'\nx x/a password y\nx x/b string answer_to_x_a\nE"
    secret, plain, _ = checked(drafted(sample_with(lines, packages=[added("x")]))).tasks
    assert (secret.secrets, plain.secrets, plain.args["value"]) == (("answer_to_x_a",), (), "answer_to_x_a")


def upgraded(name: str, wanted: bool = True, arch: str = "amd64") -> PackageChange:
    verb = ChangeVerb.MODIFIED
    return PackageChange(
        name=name, verb=verb, before_version="1", after_version="2", wanted=wanted, arch=arch
    )


def test_an_upgrade_names_what_was_asked_for_and_never_what_was_pulled_in() -> None:
    sample = sample_with(
        "apt-get install -y --only-upgrade openssl",
        packages=[upgraded("libssl3", wanted=False), upgraded("openssl")],
    )
    draft = drafted(sample)
    (task,) = checked(draft).tasks
    assert (task.name, task.module) == ("Upgrade openssl", "ansible.builtin.apt")
    assert task.args == {
        "name": "openssl", "state": "latest", "only_upgrade": True, "update_cache": True
    }  # fmt: skip
    assert "# in the sandbox: libssl3 1 → 2, openssl 1 → 2\n" in draft.yaml and draft.notes == []


@pytest.mark.parametrize(
    ("line", "kind"),
    [("apt-get update && apt-get -y upgrade", "safe"), ("apt-get -y dist-upgrade", "dist")],
)
def test_an_upgrade_of_all_is_one_task_that_marks_nothing(line: str, kind: str) -> None:
    packages = [upgraded(f"p{n}", wanted=n % 2 == 0) for n in range(40)]
    (task,) = checked(drafted(sample_with(line, packages=packages))).tasks
    assert (task.name, task.args) == ("Upgrade all packages", {"upgrade": kind, "update_cache": True})


def test_a_version_that_the_agent_named_is_that_version() -> None:
    sample = sample_with("apt-get install -y bash=2 nano=3", packages=[upgraded("bash"), added("nano")])
    (task,) = checked(drafted(sample)).tasks
    assert (task.args["name"], task.args["allow_downgrade"]) == (["bash=2", "nano"], True)


def test_a_package_is_held_once_it_has_its_version_and_let_go_before() -> None:
    def hold(name: str, held: bool) -> SettingChange:
        sides = ({}, {"held": "yes"}) if held else ({"held": "yes"}, {})
        verb = ChangeVerb.ADDED if held else ChangeVerb.REMOVED
        return SettingChange(
            kind=SettingKind.DPKG, name=f"hold of {name}", verb=verb, before=sides[0], after=sides[1]
        )

    sample = sample_with(
        "apt-mark hold openssl",
        packages=[upgraded("openssl")],
        settings=[hold("bash", False), hold("openssl", True)],
    )
    free, _, held = checked(drafted(sample)).tasks
    assert (free.name, free.args) == (
        "Let bash be upgraded again", {"name": "bash", "selection": "install"}
    )  # fmt: skip
    assert (held.name, held.args) == (
        "Hold openssl at its version", {"name": "openssl", "selection": "hold"}
    )  # fmt: skip


def test_packages_of_rpm_are_asked_of_dnf() -> None:
    fresh, gone = added("nginx"), added("nano")
    fresh.arch = "x86_64"
    gone.verb = ChangeVerb.REMOVED
    sample = sample_with("dnf install -y nginx", packages=[fresh, upgraded("openssl", arch="x86_64"), gone])
    draft = drafted(sample)
    assert [(task.module.rpartition(".")[2], task.args) for task in checked(draft).tasks] == [
        ("dnf", {"name": "openssl", "state": "latest", "update_cache": True, "update_only": True}),
        ("dnf", {"name": "nginx", "state": "present", "update_cache": True}),
        ("dnf", {"name": "nano", "state": "absent"}),
    ]
    sample.commands = said("dnf -y update")
    assert of(drafted(sample), "dnf")[0].args == {
        "name": "*", "state": "latest", "update_cache": True, "update_only": True
    }  # fmt: skip


# --- accounts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "number", "pinned"),
    [
        (("useradd --system u",), "998", False),  # a target may have given 998 to another
        (("groupadd -g 998 u", "useradd -r -u 998 -g u u"), "998", True),
        (("groupadd --gid=998 u", "useradd -ru998 u"), "998", True),
        (("groupadd -r u", "useradd -r -g u u"), "998", False),
        (("useradd -m u",), "1001", True),  # a person's
    ],
)
def test_a_number_is_given_where_somebody_chose_it_or_it_is_a_persons(
    lines: tuple[str, ...], number: str, pinned: bool
) -> None:
    group = GroupChange(name="u", verb=ChangeVerb.ADDED, after={"gid": number, "members": ""})
    draft = drafted(sample_with(*lines, users=[user(uid=number, gid=number)], groups=[group]))
    given = (of(draft, "group")[0].args.get("gid"), of(draft, "user")[0].args.get("uid"))
    assert given == ((int(number),) * 2 if pinned else (None, None))
    assert of(draft, "user")[0].args["group"] == "u"


def test_a_user_that_changes_its_group_or_loses_its_comment_is_told_so() -> None:
    change = UserChange(
        name="u",
        verb=ChangeVerb.MODIFIED,
        before={"gid": "1", "comment": "x", "shell": "/bin/sh"},
        after={"gid": "1500", "comment": "", "shell": ""},
    )
    group = GroupChange(name="ops", verb=ChangeVerb.ADDED, after={"gid": "1500"})
    draft = drafted(sample_with("usermod -g ops -c '' u", users=[change], groups=[group]))
    assert of(draft, "user")[0].args == {"name": "u", "comment": "", "group": "ops"}
    assert draft.notes == ["user u: has no shell any more, which no module of ansible.builtin says"]


def test_a_password_that_was_taken_away_is_a_note() -> None:
    bare = UserChange(
        name="u", verb=ChangeVerb.MODIFIED, before={"password": "set"}, after={"password": "none"}
    )
    sample = sample_with("passwd -d u", users=[bare])
    sample.add("/srv/a", b"x")
    assert [note.partition(",")[0] for note in drafted(sample).notes] == ["user u: has no password"]


def test_users_and_groups_get_what_they_have() -> None:
    group = GroupChange(name="u", verb=ChangeVerb.ADDED, after={"gid": "998", "members": ""})
    draft = drafted(
        sample_with(
            "groupadd -g 998 u", "useradd -u 998 u",
            users=[user(groups="adm,sudo", comment="{{ x }}")], groups=[group],
        )
    )  # fmt: skip
    assert of(draft, "group")[0].args == {"name": "u", "gid": 998, "system": True, "state": "present"}
    args = of(draft, "user")[0].args
    assert (args["uid"], args["group"], args["groups"], args["append"]) == (998, "u", ["adm", "sudo"], True)
    assert (args["comment"], args["create_home"]) == ("{{ x }}", False)


def test_a_home_that_the_agent_made_by_hand_gets_no_skeleton() -> None:
    sample = sample_with("useradd u; install -d /srv/u", users=[user()])
    sample.add("/srv/u", kind=FileKind.DIRECTORY, mode=0o755)
    assert of(drafted(sample), "user")[0].args["create_home"] is False
    sample.add("/srv/u/.profile", b"from /etc/skel\n")
    draft = drafted(sample)
    assert of(draft, "user")[0].args["create_home"] is True
    assert of(draft, "copy") == []


def test_a_password_is_never_copied_and_its_hash_is_a_secret_of_the_operator() -> None:
    draft = drafted(sample_with(users=[user(password="set")]))
    made, password = of(draft, "user")
    assert "password" not in made.args
    assert password.args == {"name": "u", "password": "password_hash_of_u"}
    assert password.secrets == ("password_hash_of_u",)
    assert draft.secrets == ["password_hash_of_u"] and draft.notes == []
    assert draft.yaml.startswith("---\n# needs these variables, as from -e @FILE:\n# password_hash_of_u\n")


def test_how_long_a_password_holds_is_set_where_it_changed() -> None:
    made = user(ageing="at most 90, warned 14, inactive 30")
    draft = drafted(sample_with(users=[made]))
    args = of(draft, "user")[0].args
    assert (args["password_expire_max"], args["password_expire_warn"]) == (90, 14)
    assert "password_expire_min" not in args
    assert draft.notes == ["user u: no module of ansible.builtin sets inactive"]
    back = UserChange(name="u", verb=ChangeVerb.MODIFIED, before={"ageing": "at most 90"}, after={})
    assert of(drafted(sample_with(users=[back])), "user")[0].args["password_expire_max"] == 99_999


def test_a_password_that_was_locked_is_locked() -> None:
    locked = UserChange(
        name="u", verb=ChangeVerb.MODIFIED, before={"password": "set"}, after={"password": "locked"}
    )
    assert of(drafted(sample_with(users=[locked])), "user")[0].args == {"name": "u", "password_lock": True}


def test_an_account_without_a_password_asks_for_none() -> None:
    for state in ("locked", "none", "!"):
        assert drafted(sample_with(users=[user(password=state)])).secrets == []


def test_a_packages_own_account_comes_with_the_package() -> None:
    own = user()
    own.package = "nginx"
    with pytest.raises(PlaybookRefused):
        drafted(sample_with(users=[own]))


def test_membership_is_added_or_set() -> None:
    joined = UserChange(name="w", verb=ChangeVerb.MODIFIED, before={"groups": "a"}, after={"groups": "a,b"})
    assert of(drafted(sample_with(users=[joined])), "user")[0].args == {
        "name": "w",
        "groups": ["b"],
        "append": True,
    }
    left = UserChange(name="w", verb=ChangeVerb.MODIFIED, before={"groups": "a,b"}, after={"groups": "a"})
    assert of(drafted(sample_with(users=[left])), "user")[0].args == {
        "name": "w",
        "groups": ["a"],
        "append": False,
    }


# --- files -------------------------------------------------------------------------------------------------


def test_a_file_keeps_content_owner_group_and_mode() -> None:
    sample = Sample()
    sample.add("/srv/a", b"x", mode=0o4750, uid=33, owner="www-data", gid=4242, group="")
    draft = drafted(sample)
    (task,) = checked(draft).tasks
    sha = hashlib.sha256(b"x").hexdigest()
    assert task.args == {
        "src": f"files/{sha}", "dest": "/srv/a", "owner": "www-data", "group": "4242", "mode": "4750",
    }  # fmt: skip
    assert draft.files == {sha: b"x"}


@pytest.mark.parametrize(
    ("path", "word"),
    [(b"/srv/\xff", "not UTF-8"), (b"/srv/$HOME", "expand or alter"), (b"/srv/a\nb", "expand or alter")],
)
def test_a_name_that_ansible_cannot_say_is_a_note(path: bytes, word: str) -> None:
    sample = Sample()
    sample.add("/srv/good", b"x")
    sample.add(path, b"y")
    draft = drafted(sample)
    assert [task.name for task in draft.tasks] == ["Write /srv/good"]
    assert word in draft.notes[0]


def test_what_has_no_module_is_a_note() -> None:
    sample = Sample()
    sample.add("/srv/fifo", kind=FileKind.FIFO)
    sample.add("/srv/cap", b"x", xattrs={"security.capability": "01"})
    sample.add("/srv/huge", sha256="1" * 64, size=10**9)
    notes = "\n".join(drafted(sample).notes)
    assert "/srv/fifo: a fifo cannot be expressed" in notes
    assert "/srv/cap: security.capability cannot be expressed" in notes
    assert "/srv/huge: its content was not kept" in notes


ACL = (
    "02000000"
    + "01000700ffffffff"
    + "04000700ffffffff"
    + "08000700e9030000"
    + "10000700ffffffff"
    + ("20000000ffffffff")
)
LOW_PORTS = "01000002" + "00040000" + "00000000" * 3


def test_access_lists_and_capabilities_are_given_where_there_are_none() -> None:
    sample = sample_with(
        "setfacl -m g:editors:rwx -m d:g:editors:rwx /srv/texts",
        "setcap cap_net_bind_service=ep /srv/low",
        groups=[GroupChange(name="editors", verb=ChangeVerb.ADDED, after={"gid": "1001"})],
    )
    lists = {"system.posix_acl_access": ACL, "system.posix_acl_default": ACL}
    sample.add("/srv/texts", kind=FileKind.DIRECTORY, mode=0o2770, xattrs=lists)
    sample.add("/srv/low", b"x", mode=0o755, xattrs={"security.capability": LOW_PORTS})
    draft = drafted(sample)
    tasks = of(draft, "command")
    access = "u::rwx,g::rwx,g:editors:rwx,m::rwx,o::---"
    default = ",".join(f"d:{word}" for word in access.split(","))
    assert [(task.args["argv"], task.when) for task in tasks] == [
        (["getcap", "/srv/low"], ()),
        (["setcap", "cap_net_bind_service=ep", "/srv/low"], ("rights_1.stdout == ''",)),
        (["getfacl", "-cps", "/srv/texts"], ()),
        (["setfacl", "--set", f"{access},{default}", "/srv/texts"], ("rights_2.stdout == ''",)),
    ]
    assert [(task.probe, task.opaque) for task in tasks] == [(True, False), (False, True)] * 2
    assert [one.opaque for one in draft.tasks if one.module.endswith("command")] == [False, True] * 2
    assert draft.notes == []


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("true", "security.capability", LOW_PORTS),  # by no program that a target is known to have
        ("setcap x /srv/a", "security.capability", "01"),
        ("setcap x /srv/a", "security.capability", "01000002" + "ffffffff" * 4),
        ("setfacl x /srv/a", "system.posix_acl_access", "03000000"),
        ("setfattr x /srv/a", "user.x", "01"),
    ],
)
def test_an_attribute_that_no_command_can_give_is_a_note(line: str, name: str, value: str) -> None:
    sample = sample_with(line)
    sample.add("/srv/a", b"x", xattrs={name: value})
    draft = drafted(sample)
    assert draft.notes == [f"/srv/a: {name} cannot be expressed by a module of ansible.builtin"]
    assert of(draft, "command") == []


def test_what_chattr_made_immutable_is_made_so_last_and_by_no_command_is_a_note() -> None:
    sample = sample_with("chattr +i /srv/a")
    for path in ("/srv/a", "/srv/b"):
        sample.add(path, b"x", xattrs={"chattr": b"i".hex()})
    draft = drafted(sample)
    (task,) = of(draft, "command")
    assert task.args == {"argv": ["chattr", "+i", "/srv/a"], "removes": "/srv/a"} and task.opaque
    assert task.name == "Make /srv/a immutable" == check(draft.yaml.encode(), draft.files).tasks[-1].name
    assert draft.notes == ["/srv/b: chattr cannot be expressed by a module of ansible.builtin"]


def test_what_no_module_says_of_accounts_is_a_note() -> None:
    before = {"gid": "27", "members": ""}
    group = GroupChange(
        name="ops", verb=ChangeVerb.MODIFIED, before=before, after={**before, "administrators": "eve"}
    )
    sample = Sample()
    sample.parts |= {"groups": [group], "notes": ["/etc/subuid: eve:0:65536"]}
    for path in ("/etc/subuid", "/etc/subgid", "/srv/a"):
        sample.add(path, b"x", verb=ChangeVerb.MODIFIED)
    assert drafted(sample).notes == [
        "/etc/subuid: no module of ansible.builtin gives an account these ids",
        "ops: no module of ansible.builtin sets administrators of a group",
    ]


def test_what_had_an_access_list_of_its_own_is_not_given_another() -> None:
    sample = sample_with("setfacl -m u:0:r /srv/a")
    sample.add("/srv/a", b"x", verb=ChangeVerb.METADATA, xattrs={"system.posix_acl_access": ACL})
    before = sample.files[0].before
    assert before is not None
    before.xattrs = {"system.posix_acl_access": "02000000"}
    assert "posix_acl_access cannot" in drafted(sample).notes[0]


def test_a_packages_content_is_left_out_and_its_changed_configuration_is_not() -> None:
    sample = sample_with(packages=[added("nginx")])
    sample.add("/usr/sbin/nginx", b"x", package="nginx")
    sample.add("/etc/nginx/nginx.conf", b"mine")
    draft = drafted(sample)
    assert [task.args["dest"] for task in of(draft, "copy")] == ["/etc/nginx/nginx.conf"]
    assert of(draft, "copy")[0].notify == ("Reload nginx",)


def unpacked(root: str = "/opt/tool", **owner: Any) -> Sample:
    """A release in a folder of its own, and as many files in a folder that was there."""
    sample = Sample()
    sample.commands = said("tar -C /opt -xf /tmp/tool.tar")
    for path in (root, f"{root}/share"):
        sample.add(path, kind=FileKind.DIRECTORY, mode=0o755, **owner)
    for number in range(6):
        sample.add(f"{root}/share/{{{{ {number} }}}}.msg", f"{number}\n".encode(), **owner)
    sample.add(f"{root}/run", b"#!/bin/sh\n", mode=0o755, **owner)
    return sample


def test_the_files_of_a_new_folder_are_one_task_and_those_of_an_old_one_are_not() -> None:
    sample = unpacked()
    for number in range(6):
        sample.add(f"/etc/profile.d/{number}.sh", b"x\n")
    draft = drafted(sample)
    copies = of(draft, "copy")
    assert [task.name for task in copies if task.loop] == ["Write 6 files in /opt/tool/share"]
    assert [task.name for task in copies if not task.loop] == [
        *(f"Write /etc/profile.d/{number}.sh" for number in range(6)), "Write /opt/tool/run"
    ]  # fmt: skip
    paths = {path for task in draft.tasks for path in task.paths}
    assert paths == {change.path for change in sample.files}
    assert {path for task in told(checked(draft)) for path in task.paths} == paths


def test_what_wakes_a_service_or_is_a_packages_folder_stays_by_itself() -> None:
    sample = unpacked("/etc/nginx/shop")
    sample.add("/etc/tool", kind=FileKind.DIRECTORY, mode=0o755, package="tool")
    for number in range(6):
        sample.add(f"/etc/tool/{number}.conf", b"x\n")
    assert not [task for task in of(drafted(sample), "copy") if task.loop]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FileKind.FILE, FileKind.DIRECTORY),
        (FileKind.DIRECTORY, FileKind.FILE),
        (FileKind.DIRECTORY, FileKind.LINK),
    ],
)
def test_what_became_a_directory_or_is_one_no_more_is_a_note(before: FileKind, after: FileKind) -> None:
    sample = Sample()
    sample.add("/srv/ab", b"x")
    sample.add("/srv/a", b"x", verb=ChangeVerb.MODIFIED, kind=after, target="/srv")
    assert sample.files[1].before is not None
    sample.files[1].before.kind = before
    sample.add("/srv/a/b", b"x")
    draft = drafted(sample)
    assert [task.name for task in checked(draft).tasks] == ["Write /srv/ab"]
    assert draft.notes == [f"/srv/a: a {before.value} became a {after.value}: remove it there first"]


def test_a_link_whose_place_a_directory_took_goes_where_it_is_still_that_link() -> None:
    sample = Sample()
    sample.add("/srv/a", kind=FileKind.DIRECTORY, mode=0o755, verb=ChangeVerb.MODIFIED)
    before = sample.files[0].before
    assert before is not None
    before.kind, before.target = FileKind.LINK, "../opt/a"
    look, remove, folder = checked(drafted(sample)).tasks
    assert (look.args["argv"], look.probe) == (["readlink", "-f", "/srv/a"], True)
    assert (remove.args, remove.when) == (
        {"argv": ["rm", "/srv/a"], "removes": "/srv/a"}, ("link_1.stdout == '/opt/a'",)
    )  # fmt: skip
    assert (folder.args["path"], folder.args["state"]) == ("/srv/a", "directory")


def test_removing_a_folder_is_one_task() -> None:
    sample = Sample()
    sample.add("/srv/old", kind=FileKind.DIRECTORY, verb=ChangeVerb.REMOVED)
    sample.add("/srv/old/a", b"x", verb=ChangeVerb.REMOVED)
    assert [task.args["path"] for task in checked(drafted(sample)).tasks] == ["/srv/old"]


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/etc/php/8.2/fpm/pool.d/www.conf", "Reload php8.2-fpm"),
        ("/etc/postgresql/15/main/pg_hba.conf", "Reload postgresql"),
        ("/etc/postgresql/15/main/conf.d/site.conf", "Restart postgresql"),
        ("/etc/wireguard/wg0.conf", None),
        ("/etc/exports.d/data.exports", "Reload nfs-server"),
        ("/etc/sysctl.d/60-site.conf", "Apply kernel settings"),
        ("/etc/nftables.conf", "Reload nftables"),
        ("/etc/ufw/user.rules", "Restart ufw"),
        ("/etc/firewalld/zones/public.xml", "Reload firewalld"),
        ("/etc/iptables/rules.v4", "Restart netfilter-persistent"),
        ("/etc/ssh/sshd_config.d/10-a.conf", "Reload ssh"),
        ("/etc/fstab", "Reload systemd"),
        ("/etc/sudoers.d/d", None),
        ("/etc/logrotate.d/site", None),
        ("/etc/motd", None),
    ],
)
def test_a_file_wakes_the_service_that_reads_it_and_no_other(path: str, handler: str | None) -> None:
    sample = Sample()
    sample.add(path, b"x\n")
    assert [one.name for one in checked(drafted(sample)).handlers] == ([handler] if handler else [])


@pytest.mark.parametrize(
    ("started", "line", "handlers", "told"),
    [
        (["nftables.service"], "true", ["Reload nftables"], False),
        (["cron.service"], "true", [], True),  # there, and off
        (["cron.service"], "systemctl restart nftables", [], True),
        ([], "true", [], True),  # nothing is known
        ([], "systemctl reload nftables", ["Reload nftables"], False),
    ],
)
def test_a_handler_starts_no_service_that_is_off(
    started: list[str], line: str, handlers: list[str], told: bool
) -> None:
    sample = sample_with(line, started=started)
    sample.add("/etc/nftables.conf", b"flush ruleset\n")
    draft = drafted(sample)
    assert [one.name for one in checked(draft).handlers] == handlers
    assert ["`systemctl reload nftables`" in note for note in draft.notes] == ([True] if told else [])


def test_a_service_is_called_what_this_machine_calls_it() -> None:
    sample = sample_with(started=["sshd.service"])
    sample.add("/etc/ssh/sshd_config.d/a.conf", b"PermitRootLogin no\n")
    (handler,) = checked(drafted(sample)).handlers
    assert (handler.name, handler.args["name"]) == ("Reload sshd", "sshd.service")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_tunnel_is_restarted_only_where_it_was_started(enabled: bool) -> None:
    unit = UnitChange(name="wg-quick@wg0.service", verb=ChangeVerb.ADDED, after=ON)
    sample = sample_with(units=[unit] if enabled else [])
    sample.commands = [] if enabled else said("systemctl start wg-quick@wg0")
    sample.add("/etc/wireguard/wg0.conf", b"x\n")
    assert [one.name for one in checked(drafted(sample)).handlers] == ["Restart wg-quick@wg0"]


def test_a_service_that_is_switched_off_is_not_woken_by_a_change_of_its_files() -> None:
    off = unit("nginx.service", before=ON, after=UnitState(defined=True), package="nginx")
    sample = sample_with("systemctl disable --now nginx", units=[off])
    sample.add("/etc/nginx/sites-enabled/a", b"x", verb=ChangeVerb.REMOVED)
    draft = drafted(sample)
    assert checked(draft).handlers == []
    assert of(draft, "systemd_service")[0].args["state"] == "stopped"


def test_a_service_that_nothing_can_start_is_not_woken() -> None:
    sample = sample_with("systemctl restart x", masked=["systemd-modules-load.service", "x.service"])
    sample.add("/etc/modules-load.d/a.conf", b"overlay\n")
    sample.add("/etc/systemd/system/x.service.d/a.conf", b"[Service]\nNice=5\n")
    assert [one.name for one in checked(drafted(sample)).handlers] == ["Reload systemd"]


def test_a_service_that_gets_a_drop_in_is_restarted_and_needs_no_task_of_its_own() -> None:
    sample = sample_with(units=[unit("cron.service", before=ON)])
    sample.add("/etc/systemd/system/cron.service.d/a.conf", b"[Service]\nNice=5\n")
    playbook = checked(drafted(sample))
    assert [task.module for task in playbook.tasks] == ["ansible.builtin.copy"]
    assert [one.name for one in playbook.handlers] == ["Restart cron"]


def test_an_own_service_is_restarted_when_its_program_or_settings_change() -> None:
    sample = sample_with("systemctl enable --now app", units=[unit("app.service"), unit("once.service")])
    sample.add("/etc/systemd/system/app.service", b"[Service]\nExecStart=/srv/app.py --conf /srv/app.ini\n")
    sample.add("/etc/systemd/system/once.service", b"[Service]\nType=oneshot\nExecStart=/srv/once.sh\n")
    for path in ("/srv/app.py", "/srv/app.ini", "/srv/app", "/srv/once.sh"):
        sample.add(path, b"x")
    notify = {task.args["dest"]: task.notify for task in of(drafted(sample), "copy")}
    assert notify["/srv/app.py"] == notify["/srv/app.ini"] == ("Restart app",)
    assert notify["/srv/app"] == notify["/srv/once.sh"] == ()
    (handler,) = [one for one in checked(drafted(sample)).handlers if one.name == "Restart app"]
    assert handler.args == {"name": "app.service", "state": "restarted", "daemon_reload": True}


def test_a_service_that_the_agent_restarted_after_its_settings_is_restarted() -> None:
    sample = sample_with("systemctl restart docker", "ls")
    sample.add("/etc/docker/daemon.json", b"{}")
    sample.add("/etc/systemd/system/docker.service.d/a.conf", b"[Service]\n")
    sample.add("/etc/other/daemon.json", b"{}")
    notify = {task.args["dest"]: task.notify for task in of(drafted(sample), "copy")}
    assert notify["/etc/docker/daemon.json"] == ("Restart docker",)
    assert notify["/etc/systemd/system/docker.service.d/a.conf"] == ("Restart docker",)
    assert notify["/etc/other/daemon.json"] == ()


def test_a_service_that_the_agent_only_reloaded_is_reloaded() -> None:
    sample = sample_with("systemctl reload ssh")
    sample.add("/etc/ssh/banner", b"x")
    assert [one.name for one in checked(drafted(sample)).handlers] == ["Reload ssh"]


def test_a_restart_takes_the_place_of_a_reload() -> None:
    sample = Sample()
    sample.add("/etc/apache2/sites-available/a.conf", b"x")
    sample.add(
        "/etc/apache2/mods-enabled/ssl.load",
        kind=FileKind.LINK,
        mode=0o777,
        target="../mods-available/ssl.load",
    )
    draft = drafted(sample)
    assert [handler.args["state"] for handler in checked(draft).handlers] == ["restarted"]
    assert {task.notify for task in checked(draft).tasks} == {("Restart apache2",)}


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/etc/sudoers", "/usr/sbin/visudo -cf %s"),
        ("/etc/sudoers.d/x", "/usr/sbin/visudo -cf %s"),
        ("/etc/ssh/sshd_config", "/usr/sbin/sshd -t -f %s"),
        ("/etc/ssh/sshd_config.d/90-hard.conf", "/usr/sbin/sshd -t -f %s"),
        ("/etc/nginx/nginx.conf", "/usr/sbin/nginx -t -c %s"),
        ("/etc/nginx/sites-available/a", None),
        ("/etc/haproxy/haproxy.cfg", "/usr/sbin/haproxy -c -f %s"),
        ("/etc/nftables.conf", "/usr/sbin/nft -c -f %s"),
        ("/etc/bind/named.conf.local", "/usr/bin/named-checkconf %s"),
        ("/etc/chrony/chrony.conf", "/usr/sbin/chronyd -p -f %s"),
        ("/etc/dnsmasq.conf", "/usr/sbin/dnsmasq --test -C %s"),
        ("/etc/sudoers2", None),
    ],
)
def test_a_configuration_that_can_be_tried_alone_is_tried_first(path: str, command: str | None) -> None:
    sample = Sample()
    sample.add(path, b"x\n", mode=0o440)
    assert checked(drafted(sample)).tasks[0].args.get("validate") == command


def test_what_names_a_key_that_comes_later_is_not_tried() -> None:
    sample = with_key("openssl genrsa -out /etc/k/a.key 2048")
    sample.add("/etc/nginx/nginx.conf", b"ssl_certificate_key /etc/k/a.key;\n")
    (task,) = of(drafted(sample), "copy")
    assert "validate" not in task.args


def test_the_check_refuses_a_configuration_that_would_lock_everybody_out(tmp_path: Path) -> None:
    """The command of the table, as Ansible runs it: %s is the new file."""
    command = str(of(drafted(sshd_config(b"PermitRootLogin no\n")), "copy")[0].args["validate"]).split()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for text, accepted in (("PermitRootLogin no", True), ("PermitRootLogin nope", False)):
        (tmp_path / "new").write_text(f"HostKey {tmp_path}/key\n{text}\n")
        argv = [word.replace("%s", str(tmp_path / "new")) for word in command]
        assert (subprocess.run(argv, capture_output=True, check=False).returncode == 0) is accepted


def sshd_config(text: bytes) -> Sample:
    sample = Sample()
    sample.add("/etc/ssh/sshd_config", text)
    return sample


def test_a_file_that_looks_like_a_vault_is_copied_as_it_is() -> None:
    sample = Sample()
    sample.add("/srv/v", b"$ANSIBLE_VAULT;1.1;AES256\n00\n")
    assert checked(drafted(sample)).tasks[0].args["decrypt"] is False


def test_a_file_of_credentials_is_a_secret_with_its_owner_and_mode() -> None:
    sample = Sample()
    for path in ("/root/.pgpass", "/root/_pgpass"):
        sample.add(path, mode=0o600, secret="credentials", sha256="0" * 64)
    draft = drafted(sample)
    assert draft.secrets == ["content_of_root_pgpass", "content_of_root_pgpass_2"]
    assert draft.files == {}
    assert of(draft, "copy")[0].args == {
        "content": "content_of_root_pgpass", "dest": "/root/.pgpass",
        "owner": "root", "group": "root", "mode": "0600",
    }  # fmt: skip


# --- keys --------------------------------------------------------------------------------------------------


def with_key(*lines: str) -> Sample:
    sample = sample_with(*lines)
    sample.add("/etc/k/a.key", mode=0o600, secret="private key", sha256="0" * 64)
    return sample


@pytest.mark.parametrize(
    "line",
    [
        "openssl genrsa -out /etc/k/a.key 2048",
        "mkdir -p /etc/k && cd /etc/k && openssl genrsa -out a.key 2048 2>/dev/null",
        "set -e\nopenssl genpkey -algorithm ed25519 \\\n  -out /etc/k/a.key",
        "ssh-keygen -q -t ed25519 -N '' -f /etc/k/a.key",
    ],
)
def test_a_key_is_made_anew_by_the_agents_own_command(line: str) -> None:
    draft = drafted(with_key(line))
    (task,) = of(draft, "command")
    assert (task.args["creates"], task.opaque) == ("/etc/k/a.key", True)
    assert (draft.tasks[0].opaque, draft.tasks[0].paths) == (True, ["/etc/k/a.key"])
    (again,) = told(checked(draft), draft.tasks)
    assert set(draft.tasks[0].paths) <= set(again.paths)
    assert (again.name, again.opaque, again.commands) == (task.name, True, ["CMD-0"])


@pytest.mark.parametrize(
    ("line", "second", "facts", "name"),
    [
        ("ssh-keygen -q -f /k", "/k.pub", {"public_key": "x"}, "Make the key pair /k"),
        ("openssl req -keyout /k -out /c", "/c", {"request": "yes"}, "Make the key and request /c"),
        ("openssl req -x509 -keyout /k -out /c", "/c", {"subject": "x"}, "Make the key and certificate /c"),
    ],
)
def test_what_a_command_makes_beside_a_key_is_called_what_it_is(
    line: str, second: str, facts: dict[str, str], name: str
) -> None:
    sample = sample_with(line)
    sample.add("/k", mode=0o600, secret="private key", sha256="0" * 64)
    sample.add(second, b"x", certificate=facts)
    assert [task.name for task in of(drafted(sample), "command")] == [name]


@pytest.mark.parametrize(
    "line",
    [
        "openssl genrsa 2048 > /etc/k/a.key",
        "openssl genrsa -out $DIR/a.key 2048",
        "openssl genrsa -aes256 -passout pass:hunter2 -out /etc/k/a.key 2048",
        "openssl genrsa --passout pass:hunter2 -aes256 -out /etc/k/a.key 2048",
        "ssh-keygen -q -t ed25519 -N hunter2 -f /etc/k/a.key",
        "ssh-keygen -q -t ed25519 -qNhunter2 -f /etc/k/a.key",
        "openssl genrsa -out a.key 2048",
        "openssl req -new -x509 -config /tmp/c.cnf -keyout /etc/k/a.key -out /etc/k/a.crt",
        "make-key /etc/k/a.key",
    ],
)
def test_a_key_that_no_plain_command_made_is_a_note_and_never_copied(line: str) -> None:
    sample = with_key(line)
    sample.add("/srv/a", b"x")
    draft = drafted(sample)
    assert of(draft, "command") == []
    assert [note for note in draft.notes if note.startswith("/etc/k/a.key: holds a secret")]
    assert "hunter2" not in draft.yaml


def test_a_key_that_a_packages_script_makes_comes_with_the_package() -> None:
    sample = sample_with("apt-get install -y ssl-cert", packages=[added("ssl-cert")])
    sample.add(
        "/etc/ssl/private/a.key", mode=0o640, secret="private key", sha256="0" * 64, package="ssl-cert"
    )
    assert drafted(sample).notes == []


def test_a_failed_command_made_nothing() -> None:
    sample = with_key("openssl genrsa -out /etc/k/a.key 2048")
    sample.commands[0].exit_code = 1
    sample.add("/srv/a", b"x")
    assert of(drafted(sample), "command") == []


def test_the_sandboxes_own_name_is_no_value_for_a_target() -> None:
    sample = with_key(
        "openssl req -x509 -nodes -keyout /etc/k/a.key -out /etc/k/a.crt -subj /CN=sbx-1 -extra sbx-1"
    )
    sample.add("/etc/k/a.crt", b"-----BEGIN CERTIFICATE-----\n")
    draft = drafted(sample, hostname="sbx-1")
    assert draft.variables == {"machine_hostname": "ansible_facts['hostname']"}
    assert of(draft, "command")[0].args["argv"][-1] == "machine_hostname"  # type: ignore[index]
    assert "names the sandbox itself (sbx-1)" in draft.notes[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("listen 10.231.0.5:80;", "address 10.231.0.5"),
        ("listen 10.231.0.50; listen 110.231.0.5;", ""),
        ("server_name sbx-1;", "host name sbx-1"),
        ("server_name sbx-1.lab my-sbx-1;", ""),
        ("iif enp1s0 accept", "network interface enp1s0"),
        ("table enp1s0x", ""),
    ],
)
def test_what_belongs_to_the_sandbox_alone_is_told_where_a_file_holds_it(text: str, told: str) -> None:
    sample = Sample()
    sample.add("/srv/a", text.encode())
    draft = drafted(sample, address="10.231.0.5", hostname="sbx-1")
    notes = [f"this sandbox's own {told} stands in /srv/a: every target gets it as it is"] if told else []
    assert draft.notes == notes
    assert (f"    # holds this sandbox's own {told}\n    - name: Write /srv/a" in draft.yaml) is bool(told)


def test_a_machine_that_is_called_by_a_plain_word_is_not_found_in_every_text() -> None:
    sample = Sample()
    sample.add("/srv/a", b"the web")
    assert drafted(sample, hostname="web").notes == []


def test_a_package_and_an_account_of_the_sandboxes_name_are_no_host_name() -> None:
    sample = sample_with("apt-get install -y mpd-0", packages=[added("mpd-0")], users=[user()])
    sample.parts["users"][0].name = "mpd-0"
    sample.add("/srv/a", b"on mpd-0")
    draft = drafted(sample, hostname="mpd-0")
    assert draft.notes == [
        "this sandbox's own host name mpd-0 stands in /srv/a: every target gets it as it is"
    ]
    assert draft.yaml.count("# holds this sandbox's own host name") == 1


def test_each_handler_left_out_is_refused_by_its_name() -> None:
    draft = drafted(web_server())
    handlers = checked(draft).handlers
    assert len(handlers) > 1
    for handler in handlers:
        head, _, rest = draft.yaml.partition("\n  handlers:\n")
        parts = rest.split("    - name: ")
        left = [part for part in parts if not part.startswith(f"{handler.name}\n")]
        assert len(left) == len(parts) - 1
        text = head + "\n  handlers:\n" + "    - name: ".join(left)
        with pytest.raises(
            PlaybookRefused, match=re.escape(f"there is no handler {handler.name!r}")
        ) as refused:
            check(text.encode(), set(draft.files), secrets=draft.secrets)
        assert refused.value.details["rule"] == "P3"


def test_an_answer_that_is_the_sandboxes_name_is_the_targets_own() -> None:
    line = "echo 'postfix postfix/mailname string sbx-1' | debconf-set-selections"
    draft = drafted(sample_with(line, packages=[added("postfix")]), hostname="sbx-1")
    assert of(draft, "debconf")[0].args["value"] == "machine_hostname"
    assert draft.variables == {"machine_hostname": "ansible_facts['hostname']"} and draft.notes == []


def test_a_copy_of_what_is_made_anew_is_a_note_and_not_the_sandboxes_own() -> None:
    sample = with_key("openssl req -x509 -nodes -keyout /etc/k/a.key -out /etc/k/a.crt")
    for path in ("/etc/k/a.crt", "/srv/copy.crt"):
        sample.add(path, b"-----BEGIN CERTIFICATE-----\n")
    draft = drafted(sample)
    assert of(draft, "copy") == []
    assert draft.notes == ["/srv/copy.crt: a copy of /etc/k/a.crt, which each machine makes anew"]


# --- what programs make ------------------------------------------------------------------------------------


def venv(line: str, *later: str) -> Sample:
    sample = sample_with(line, *later)
    for path in ("/opt/a/venv", "/opt/a/venv/bin"):
        sample.add(path, kind=FileKind.DIRECTORY, mode=0o755)
    for path in ("/opt/a/venv/pyvenv.cfg", "/opt/a/venv/bin/activate", "/opt/a/app.py"):
        sample.add(path, b"x")
    for change in sample.files:
        change.commands = ["CMD-0"]
    return sample


@pytest.mark.parametrize(
    "line",
    [
        "python3 -m venv --prompt a /opt/a/venv",
        "mkdir -p /opt/a && cd /opt/a && python3 -m venv --prompt a venv",
    ],
)
def test_a_virtual_environment_is_made_by_the_agents_own_command(line: str) -> None:
    draft = drafted(venv(line))
    (task,) = of(draft, "command")
    assert (task.args["creates"], task.opaque) == ("/opt/a/venv/pyvenv.cfg", True)
    assert [one.args["dest"] for one in of(draft, "copy")] == ["/opt/a/app.py"]
    assert draft.tasks[0].paths == told(checked(draft))[0].paths == ["/opt/a/venv"]


def test_what_a_later_command_put_into_a_virtual_environment_is_written() -> None:
    sample = venv("python3 -m venv /opt/a/venv", "echo x >/opt/a/venv/bin/activate")
    changed = next(one for one in sample.files if one.path == "/opt/a/venv/bin/activate")
    changed.commands = ["CMD-1"]
    names = [one.args["dest"] for one in of(drafted(sample), "copy")]
    assert names == ["/opt/a/app.py", "/opt/a/venv/bin/activate"]


def test_a_virtual_environment_that_was_given_away_has_its_owner() -> None:
    sample = venv("python3 -m venv /opt/a/venv", "chown -R app: /opt/a")
    for one in sample.files:
        one.commands = ["CMD-1"]
        assert one.after is not None
        one.after.uid, one.after.owner = 990, "app"
    (task,) = [one for one in of(drafted(sample), "file") if one.args.get("recurse")]
    assert (task.args["path"], task.args["owner"], task.args["group"]) == ("/opt/a/venv", "app", "root")


@pytest.mark.parametrize(
    "line", ["python3 -m venv $HOME/venv", "python3 -m venv /a /b", "virtualenv /opt/a/venv"]
)
def test_a_virtual_environment_of_another_command_is_written_file_by_file(line: str) -> None:
    draft = drafted(venv(line))
    assert of(draft, "command") == [] and len(of(draft, "copy")) == 3


@pytest.mark.parametrize(
    ("source", "result", "program"),
    [
        ("/etc/locale.gen", "/usr/lib/locale/locale-archive", "locale-gen"),
        ("/etc/aliases", "/etc/aliases.db", "newaliases"),
        (
            "/usr/local/share/ca-certificates/a.crt",
            "/etc/ssl/certs/ca-certificates.crt",
            "update-ca-certificates",
        ),
    ],
)
def test_what_a_program_makes_of_settings_is_made_by_a_handler(
    source: str, result: str, program: str
) -> None:
    sample = Sample()
    sample.add(source, b"x\n")
    sample.add(result, b"y\n")
    if program == "update-ca-certificates":
        sample.add("/etc/ssl/certs/a.pem", kind=FileKind.LINK, mode=0o777, target=source)
    draft = drafted(sample)
    (task,), (handler,) = checked(draft).tasks, checked(draft).handlers
    assert (task.args["dest"], task.notify) == (source, (handler.name,))
    assert (handler.args["argv"], handler.opaque) == ([program], True)


def test_what_stands_there_without_its_source_is_written() -> None:
    sample = Sample()
    sample.add("/etc/aliases.db", b"y\n")
    draft = drafted(sample)
    assert checked(draft).tasks[0].args["dest"] == "/etc/aliases.db" and checked(draft).handlers == []


@pytest.mark.parametrize(
    ("line", "keeper"),
    [
        ("su - postgres -c 'createuser app'", "postgresql (roles)"),
        ("psql -c 'alter role app login'", "postgresql (roles)"),
        ("sudo -u postgres psql -tAc 'create database app owner app'", "postgresql (databases)"),
        ("su - postgres -c \"psql app -c 'insert into t values (1)'\"", "postgresql (contents)"),
        ("su - postgres -c 'createdb app'", "postgresql (databases)"),
        ("zcat dump.gz | runuser -u postgres -- psql app", "postgresql"),
        ("su - postgres -c psql", "postgresql"),
        ("psql <<EOF\ncreate table t ();\nEOF", "postgresql (contents)"),
        ("psql <<EOF\nselect 1;\nEOF", ""),
        ("echo 'select 1' | psql", ""),
        ("psql -c 'SHOW shared_buffers'", ""),
        ('psql -c "$(cat roles.sql)"', "postgresql"),
        ("psql --version && sudo -u mysql true", ""),
        ("mariadb <schema.sql", "mariadb"),
        ('mysql -uroot -e "grant all on *.* to u@localhost"', "mariadb (roles)"),
        ("mysqladmin create app", "mariadb"),
        ("mysql -e 'show databases'; mysqladmin status", ""),
        ("apt-get install -y mariadb-server && update-rc.d mariadb enable", ""),
        ("sudo -E apt-get install -y redis-cli mysql", ""),
        ("systemctl restart mariadb && sed -i s/a/create/ /srv/a", ""),
        ("(echo x; echo x) | smbpasswd -s -a anna", "samba"),
        ("pdbedit -a -u anna", "samba"),
        ("pdbedit -Lv", ""),
        ("ldapadd -x -D cn=admin -f /root/base.ldif", "ldap"),
        ("ldapmodify -Y EXTERNAL -H ldapi:/// <<EOF\ndn: cn=config\nEOF", "ldap"),
        ("ldapsearch -x", ""),
        ("rabbitmqctl -n a add_user anna x", "rabbitmq"),
        ("rabbitmqctl list_users", ""),
        ("redis-cli -n 1 SET a b", "redis"),
        ("redis-cli <<EOF\nHSET a b c\nEOF", "redis"),
        ("redis-cli get a; redis-cli ping", ""),
        ("mongosh app --eval 'db.createUser({})'", "mongodb"),
        ("docker exec db mongosh /root/seed.js", "mongodb"),
        ("mongo --quiet --eval 'db.users.find()'", ""),
    ],
)
def test_what_a_service_keeps_is_noted_for_no_diff_shows_it(line: str, keeper: str) -> None:
    sample = sample_with(line)
    sample.add("/srv/a", b"x")
    notes = drafted(sample).notes
    assert [note.partition(":")[0] for note in notes] == ([f"data of {keeper}"] if keeper else [])


@pytest.mark.parametrize(
    "line", ["bash -x setup.sh", "cd /srv && ./setup.sh", "sudo -u postgres /srv/setup.sh"]
)
def test_what_a_script_of_the_diff_asks_a_database_for_is_noted(line: str) -> None:
    sample = sample_with(line)
    sample.commands[0].metadata = {"user": "root", "work_dir": "/srv"}
    sample.add("/srv/setup.sh", b"#!/bin/sh\nif true; then\n  psql -c 'create role app'\nfi\n", mode=0o755)
    assert drafted(sample).notes == [
        "data of postgresql (roles): 1 command changed it, which no generated task does again"
    ]


def test_a_command_that_failed_may_have_changed_a_database_and_one_that_never_began_did_not() -> None:
    sample = sample_with("createuser app", "createuser app", "dropuser app", "createdb app")
    sample.add("/srv/a", b"x")
    for command, code in zip(sample.commands, (127, 1, 0, 127), strict=True):
        command.exit_code = code
    assert drafted(sample).notes == [
        "data of postgresql (roles): 2 commands changed it, or may have: 1 of them failed, which no generated"
        " task does again"
    ]


@pytest.mark.parametrize(
    ("hidden", "noted"), [("", False), ("service state", True), ("temporary files", False), (None, False)]
)
def test_a_file_of_sqlite_is_noted_only_where_the_diff_hides_it(hidden: str | None, noted: bool) -> None:
    sample = sample_with(
        "cd /var/lib/app && sqlite3 app.db 'insert into t values (1)'", "sqlite3 app.db .dump"
    )
    sample.add("/srv/a", b"x")
    if hidden is not None:
        sample.add("/var/lib/app/app.db", b"x", hidden=hidden)
    told = [note.partition(": ")[0] for note in drafted(sample).notes]
    assert told == (["data of sqlite (/var/lib/app/app.db)"] if noted else [])


def test_a_swap_file_is_made_and_formatted_and_used_on_each_machine() -> None:
    sample = sample_with("fallocate -l 1M /swap", "mkswap -L x /swap && swapon /swap")
    sample.add("/swap", mode=0o600, sha256="0" * 64, size=1 << 20)
    draft = drafted(sample)
    room, owner = checked(draft).tasks
    assert room.args == {"argv": ["fallocate", "-l", str(1 << 20), "/swap"], "creates": "/swap"}
    assert (owner.args["path"], owner.args["mode"]) == ("/swap", "0600")
    assert [one.args["argv"] for one in checked(draft).handlers] == [["mkswap", "/swap"], ["swapon", "/swap"]]
    assert room.notify == tuple(one.name for one in checked(draft).handlers)
    assert draft.files == {} and draft.notes == []


# --- units -------------------------------------------------------------------------------------------------


def unit(name: str, before: UnitState | None = None, after: UnitState = ON, package: str = "") -> UnitChange:
    verb = ChangeVerb.ADDED if before is None else ChangeVerb.MODIFIED
    return UnitChange(name=name, verb=verb, before=before or UnitState(), after=after, package=package)


def test_a_service_as_its_package_left_it_needs_no_task() -> None:
    with pytest.raises(PlaybookRefused):
        drafted(sample_with(units=[unit("nginx.service", package="nginx")]))


def test_a_service_that_the_agent_switched_off_is_switched_off() -> None:
    off = unit("nginx.service", after=UnitState(defined=True), package="nginx")
    (task,) = checked(
        drafted(sample_with("systemctl disable --now nginx; systemctl stop nginx", units=[off]))
    ).tasks
    assert task.args == {"name": "nginx.service", "enabled": False, "state": "stopped"}


def test_a_masked_unit_is_masked_and_its_link_explained() -> None:
    masked = unit("cron.service", before=ON, after=UnitState(defined=True, masked=True))
    sample = sample_with("systemctl mask --now cron", units=[masked])
    sample.add("/etc/systemd/system/cron.service", kind=FileKind.LINK, mode=0o777, target="/dev/null")
    off, mask = checked(drafted(sample)).tasks
    assert off.args == {"name": "cron.service", "enabled": False, "state": "stopped"}
    assert (mask.args["masked"], mask.args["state"]) == (True, "stopped")


def test_a_name_that_nothing_bears_is_masked_and_not_stopped() -> None:
    masked = UnitChange(name="x.service", verb=ChangeVerb.MODIFIED, after=UnitState(masked=True))
    (task,) = checked(drafted(sample_with("systemctl mask x", units=[masked]))).tasks
    assert task.args == {"name": "x.service", "masked": True}


def test_a_oneshot_is_enabled_and_not_started() -> None:
    sample = sample_with("systemctl enable once", units=[unit("once.service")])
    sample.add("/etc/systemd/system/once.service", b"[Service]\nType=oneshot\n")
    assert "state" not in of(drafted(sample), "systemd_service")[0].args


def test_folders_and_links_that_enabling_makes_are_explained() -> None:
    sample = sample_with("systemctl enable a.timer", units=[unit("a.timer")])
    wants = "/etc/systemd/system/new.target.wants"
    sample.add(wants, kind=FileKind.DIRECTORY, mode=0o755)
    sample.add(f"{wants}/a.timer", kind=FileKind.LINK, mode=0o777, target="/etc/systemd/system/a.timer")
    assert [task.name for task in checked(drafted(sample)).tasks] == ["Enable and start a.timer"]


def test_links_of_run_levels_follow_the_unit_that_is_switched_and_no_other() -> None:
    off = unit("cron.service", before=ON, after=UnitState(defined=True))
    sample = sample_with("systemctl disable cron", units=[off])
    for path in ("/etc/rc2.d/K01cron", "/etc/rc2.d/K01other"):
        sample.add(path, kind=FileKind.LINK, mode=0o777, target=f"../init.d/{path[15:]}")
    names = [task.name for task in checked(drafted(sample)).tasks]
    assert names == ["Link /etc/rc2.d/K01other", "Disable and stop cron.service"]


def test_a_service_that_the_agent_removed_is_stopped_before_its_file_goes() -> None:
    gone = UnitChange(name="old.service", verb=ChangeVerb.REMOVED, before=ON)
    sample = sample_with("systemctl disable --now old; rm /etc/systemd/system/old.service", units=[gone])
    sample.add("/etc/systemd/system/old.service", b"x", verb=ChangeVerb.REMOVED)
    stop, remove = checked(drafted(sample)).tasks
    assert (stop.args["removes"], stop.opaque) == ("/etc/systemd/system/old.service", True)
    assert remove.name == "Remove /etc/systemd/system/old.service"


def test_a_removed_user_is_gone_before_its_group() -> None:
    groups = [GroupChange(name="u", verb=ChangeVerb.REMOVED, before={"gid": "998"})]
    users = [UserChange(name="u", verb=ChangeVerb.REMOVED, before={"uid": "998"})]
    names = [
        task.name for task in checked(drafted(sample_with("userdel -r u", users=users, groups=groups))).tasks
    ]
    assert names == ["Remove the user u", "Remove the group u"]


# --- against Ansible itself --------------------------------------------------------------------------------


def ansible(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(folder / "home"),
        "HOME": str(folder),
    }
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("playbook")
    web = web_server()
    back = roll_back(turned_round(web.changes()), web.blobs, name="back")
    for name, draft in (("web", drafted(web)), ("rest", drafted(the_rest())), ("back", back)):
        export(draft.yaml, draft.files, folder / name)
    return folder


def the_rest() -> Sample:
    """What the web server has not: secrets, checks of configuration, removals, masks, drop-ins."""
    gone = UnitChange(name="old.service", verb=ChangeVerb.REMOVED, before=ON)
    masked = unit("cron.service", before=ON, after=UnitState(defined=True, masked=True))
    sample = sample_with(
        "systemctl mask --now cron; systemctl restart docker; setcap cap_chown=ep /srv/caps",
        packages=[
            PackageChange(name="nano", verb=ChangeVerb.REMOVED, before_version="1"),
            upgraded("openssl"),
        ],
        users=[user(password="set", groups="adm")],
        units=[gone, masked],
    )
    sample.add("/etc/systemd/system/old.service", b"x", verb=ChangeVerb.REMOVED)
    sample.add("/etc/systemd/system/docker.service.d/a.conf", b"[Service]\n")
    sample.add("/root/.pgpass", mode=0o600, secret="credentials", sha256="0" * 64)
    sample.add("/etc/sudoers.d/u", b"u ALL=(ALL) ALL\n", mode=0o440)
    sample.add("/etc/cron.d/job", b"0 3 * * * root /bin/true\n")
    sample.add("/srv/tool", mode=0o755, verb=ChangeVerb.METADATA)
    sample.add("/srv/caps", b"x", mode=0o755, xattrs={"security.capability": LOW_PORTS})
    return sample


def test_ansible_reads_what_was_generated(exported: Path) -> None:
    names = [f"{name}/playbook.yml" for name in ("web", "rest", "back")]
    done = ansible("ansible-playbook", "--syntax-check", "-i", "localhost,", *names, folder=exported)
    assert done.returncode == 0, done.stderr


def test_it_is_clean_under_the_production_profile(exported: Path) -> None:
    done = ansible(
        "ansible-lint", "--offline", "--profile", "production", "--nocolor", "--strict",
        *(f"{name}/playbook.yml" for name in ("web", "rest", "back")), folder=exported,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_ansible_writes_a_strange_name_as_it_is(tmp_path: Path) -> None:
    owner: dict[str, Any] = {"uid": os.geteuid(), "gid": os.getegid(), "owner": "", "group": ""}
    sample = unpacked(str(tmp_path / "tool"), **owner)
    name = str(tmp_path) + STRANGE.removeprefix("/srv/site")
    sample.add(name, b"{{ 7 * 7 }}\n", **owner)
    draft = drafted(sample)
    export(draft.yaml.replace("become: true", "become: false"), draft.files, tmp_path / "play")
    done = ansible(
        "ansible-playbook",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        "playbook.yml",
        folder=tmp_path / "play",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(name).read_bytes() == b"{{ 7 * 7 }}\n"
    assert (tmp_path / "tool/share/{{ 3 }}.msg").read_bytes() == b"3\n"


PATHS = st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=5, unique=True), st.text(max_size=60), st.text(max_size=30))
def test_whatever_the_guest_holds_the_playbook_passes_the_grammar(
    names: list[str], line: str, comment: str
) -> None:
    sample = sample_with(
        line.replace("\x00", ""), users=[user(comment="".join(c for c in comment if c.isprintable()))]
    )
    for name in names:
        if name not in (".", ".."):
            sample.add(f"/srv/{name}", b"x")
            sample.add(f"/opt/{name}", kind=FileKind.LINK, mode=0o777, target="x")
    draft = drafted(sample)
    told = {task.args["dest"] for task in of(draft, "copy")}
    for name in names:
        noted = any(note.startswith("/srv/") for note in draft.notes)
        assert f"/srv/{name}" in told or noted or name in (".", "..")
