"""What a reader is warned of: a sentence with the value, for each thing that gives rights, opens or runs."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from backend.approvals.risks import MAX_CHARS, TOLD_OF_ALIKE, of_playbook, risks
from backend.changes.grants import grants
from backend.models import (
    Changes,
    ChangeVerb,
    FileChange,
    FileKind,
    FileState,
    PackageChange,
    SettingChange,
    SettingKind,
    UnitChange,
    UnitState,
    UserChange,
    now,
)
from backend.playbooks import check
from tests.unit.settings_sample import File, stated

KEY = "ssh-ed25519 " + base64.b64encode(b"key").decode()
PRINT = "SHA256:LHDhK3oGRvkiefQnx7OOczTY5Tic/xZ6HcMOc/gmtoM"
SSHD, SUDO, NFT = "/etc/ssh/sshd_config", "/etc/sudoers.d/x", "/etc/nftables.conf"
FSTAB, LIST = "/etc/fstab", "/etc/apt/sources.list.d/x.list"
UNIT = "/etc/systemd/system/"


def changes(**parts: Any) -> Changes:
    return Changes(
        id="CHG-1", sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b", created_at=now(), **parts
    )


def changed(path: str, mode: int = 0o644, **more: Any) -> FileChange:
    state = FileState(kind=FileKind.FILE, mode=mode, uid=0, gid=0, **more)
    return FileChange(path=path, verb=ChangeVerb.METADATA, after=state)


@pytest.mark.parametrize(
    "path", ["/var/lib/dpkg/info", "/var/lib/apt/lists", "/usr/lib/sysimage/rpm/rpmdb.sqlite"]
)
def test_who_may_write_what_packages_run_as_root_is_a_risk(path: str) -> None:
    found = risks(changes(files=[changed(path, 0o777)]))
    assert found == [f"changes what packages run as root, or who may write it: {path}"]
    assert not risks(changes(files=[changed(f"/srv{path}", 0o777)]))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            (SUDO, None, "d ALL=(ALL:ALL) NOPASSWD: ALL"),
            ["d may become root without a password (ALL=(ALL:ALL) NOPASSWD: ALL)"],
        ),
        (
            (SUDO, None, "%ops ALL=(ALL) ALL"),
            ["group ops may become root with their password (ALL=(ALL) ALL)"],
        ),
        (
            (SUDO, None, "d ALL = NOPASSWD: /bin/systemctl restart nginx, /bin/b"),
            ["d may run as root, without a password: /bin/systemctl restart nginx, /bin/b"],
        ),
        (
            (SUDO, None, "d ALL=(root) NOPASSWD: /bin/bash"),
            ["d may become root without a password (ALL=(root) NOPASSWD: /bin/bash)"],
        ),
        (
            (SUDO, None, "ALL ALL=(www-data) /bin/x"),
            ["everybody may run as www-data, with their password: /bin/x"],
        ),
        ((SUDO, "d ALL=(ALL) ALL", ""), ["d may no longer: ALL=(ALL) ALL"]),
        (
            (SUDO, None, "Defaults !authenticate"),
            ["sudo asks nobody for a password (Defaults !authenticate)"],
        ),
        (("/etc/sudoers.d/a.b", None, "d ALL=(ALL) NOPASSWD: ALL"), []),
        (
            ("/root/.ssh/authorized_keys", None, f"{KEY} ops@laptop"),
            [f"a key may log in as root: {PRINT}, ops@laptop"],
        ),
        (
            ("/home/d/.ssh/authorized_keys", f'restrict,command="x" {KEY}', ""),
            [f'a key may no longer log in as d: {PRINT}, restricted to restrict,command="x"'],
        ),
        (
            (SSHD, "PermitRootLogin no\n", "PermitRootLogin yes\n"),
            ["sshd lets root log in, with a password too (PermitRootLogin yes)"],
        ),
        (
            (SSHD, "", "PermitRootLogin prohibit-password\n"),
            ["sshd lets root log in with a key (PermitRootLogin prohibit-password)"],
        ),
        ((SSHD, "", "PermitRootLogin no\n"), ["sshd lets root log in no more (PermitRootLogin no)"]),
        ((SSHD, "", "PasswordAuthentication yes\n"), ["sshd accepts passwords (PasswordAuthentication yes)"]),
        (
            (SSHD, "", "Match User d\nPasswordAuthentication no\n"),
            ["sshd accepts passwords no more (PasswordAuthentication no, Match User d)"],
        ),
        ((SSHD, "", "Port 2222\n"), ["sshd listens on port: 2222"]),
        ((SSHD, "", "AllowUsers d\n"), ["sshd lets only these users in: d"]),
        ((SSHD, "MaxAuthTries 3\n", ""), ["sshd: MaxAuthTries 3 is gone"]),
        (
            (
                NFT,
                "",
                "table inet f {\nchain in {\ntype filter hook input priority 0; policy drop;\n"
                "tcp dport { 80, 443 } accept\nip saddr 10.0.0.0/8 drop\n}\n}\n",
            ),
            [
                "firewall drops what no rule names (inet f in drop)",
                "firewall lets in, inet f in: tcp dport { 80, 443 } accept",
                "firewall drops, inet f in: ip saddr 10.0.0.0/8 drop",
            ],
        ),
        (
            (
                NFT,
                "table inet f {\nchain in {\ntcp dport 22 accept\n}\n}\n",
                "table inet f {\nchain in {\n}\n}\n",
            ),
            ["firewall, no longer in inet f in: rule tcp dport 22 accept"],
        ),
        (
            (
                "/etc/iptables/rules.v4",
                "",
                "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\n",
            ),
            [
                "firewall drops what no rule names (filter INPUT DROP)",
                "firewall lets in, filter INPUT: -p tcp --dport 22 -j ACCEPT",
            ],
        ),
        (
            ("/etc/ufw/ufw.conf", "ENABLED=no\n", "ENABLED=yes\n"),
            ["switches the firewall on (ufw ENABLED yes)"],
        ),
        (
            ("/etc/ufw/user.rules", "", "### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n"),
            ["firewall lets in, ufw: limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"],
        ),
        (
            (LIST, None, "deb [signed-by=/etc/apt/keyrings/d.gpg] https://d.example/linux stable main\n"),
            ["takes packages from https://d.example/linux stable, signed by /etc/apt/keyrings/d.gpg"],
        ),
        (
            (LIST, None, "deb [trusted=yes] http://d.example x main\n"),
            ["takes packages from http://d.example x, WITHOUT a signature"],
        ),
        *(
            (
                (LIST, None, f"deb [{so}] http://d.example x main\n"),
                [f"takes packages from http://d.example x, {how}"],
            )
            for so, how in (
                ("trusted=true", "WITHOUT a signature"),
                ("trusted=1", "WITHOUT a signature"),
                ("tr%75sted=yes", "WITHOUT a signature"),
                ('trus"te"d=yes', "WITHOUT a signature"),
                ('lang="]" trusted=yes', "WITHOUT a signature"),
                ("allow-insecure=yes", "WITHOUT a signature"),
                ("trusted=no", "signed by any known key"),
            )
        ),
        (
            ("/etc/yum.repos.d/x.repo", None, "[x]\nbaseurl=https://x/\ngpgcheck=False\n"),
            ["takes packages from https://x/, WITHOUT a signature"],
        ),
        (
            ("/etc/yum.repos.d/x.repo", None, "[x]\nbaseurl=https://x/\ngpgcheck=0\nenabled=0\n"),
            ["takes packages from https://x/, WITHOUT a signature (switched off)"],
        ),
        (
            ("/etc/apt/preferences.d/x", None, "Package: *\nPin: origin x\nPin-Priority: 1001\n"),
            ["apt: pin of * is origin x 1001"],
        ),
        (
            ("/etc/apt/apt.conf.d/x", None, 'APT::Periodic::Unattended-Upgrade "1";\nAPT::Color "1";\n'),
            ["upgrades packages by itself (APT::Periodic::Unattended-Upgrade 1)"],
        ),
        (
            ("/etc/apt/apt.conf.d/x", None, 'DPkg::Post-Invoke { "/bin/evil"; };'),
            ["apt runs as root each time: /bin/evil"],
        ),
        (
            ("/etc/cron.d/j", None, "0 2 * * * root /bin/backup\n"),
            ["cron runs as root (0 2 * * *): /bin/backup"],
        ),
        (("/var/spool/cron/crontabs/d", "@daily /bin/x\n", ""), ["cron no longer runs as d: /bin/x"]),
        (("/etc/cron.daily/job", None, "#!/bin/sh\n"), ["cron runs as root (daily): /etc/cron.daily/job"]),
        (
            (UNIT + "a.service", None, "[Service]\nExecStart=/bin/a\nUser=d\n"),
            ["a.service runs as d: /bin/a"],
        ),
        (
            (UNIT + "a.service", "[Service]\nExecStart=/a\n", "[Service]\nExecStart=/a\nExecStartPre=+/b\n"),
            ["a.service runs as root (ExecStartPre): +/b"],
        ),
        (
            ("/etc/sudoers.d/x", None, "Defaults\t!authenticate\n"),
            ["sudo asks nobody for a password (Defaults !authenticate)"],
        ),
        (
            ("/etc/ssh/sshd_config", "", "Include /srv/x.conf\nPermitRootLogin 'yes' # no\n"),
            [
                "sshd lets root log in, with a password too (PermitRootLogin yes)",
                "sshd reads more words, which nobody looked at, from: /srv/x.conf",
            ],
        ),
        (
            (UNIT + "a.timer", None, "[Timer]\nOnCalendar=daily\n"),
            ["a.timer starts by itself: OnCalendar daily"],
        ),
        ((UNIT + "a.service.d/x.conf", None, "[Service]\nUser=root\n"), ["a.service x.conf: User root"]),
        ((FSTAB, "", "nas:/x /srv/x nfs ro 0 0\n"), ["mounts nas:/x at /srv/x (nfs, ro)"]),
        ((FSTAB, "/dev/vdb /x ext4 rw 0 0\n", ""), ["no longer mounts /dev/vdb at /x (ext4, rw)"]),
        ((FSTAB, "", "/swapfile none swap sw 0 0\n"), ["swaps to /swapfile"]),
        (
            ("/etc/modules-load.d/x.conf", None, "br_netfilter\n"),
            ["loads the kernel module br_netfilter at boot"],
        ),
        (
            ("/etc/modprobe.d/x.conf", None, "install usb /bin/true\nblacklist floppy\n"),
            ["keeps the kernel module floppy out", "runs /bin/true in the place of loading usb"],
        ),
        (
            ("/etc/sysctl.d/x.conf", None, "net.ipv4.ip_forward=1\nvm.swappiness=10\n"),
            [
                "passes packets on between networks (net.ipv4.ip_forward 1)",
                "kernel parameter vm.swappiness 10",
            ],
        ),
        (
            ("/etc/sysctl.d/x.conf", None, "kernel.core_pattern=|/bin/x\n"),
            ["the kernel runs as root at each crash: /bin/x"],
        ),
        (
            ("/etc/hosts", "", "10.0.0.5 packages.example.org\n"),
            ["/etc/hosts: 10.0.0.5 is packages.example.org"],
        ),
        (
            ("/etc/resolv.conf", "", "nameserver 9.9.9.9\n"),
            ["names are looked up otherwise: nameserver 9.9.9.9"],
        ),
        (("/etc/hostname", "a\n", "b\n"), ["names the machine b"]),
        (
            ("/etc/localtime", "→ /usr/share/zoneinfo/UTC", "→ /usr/share/zoneinfo/Europe/Berlin"),
            ["sets the time zone to Europe/Berlin"],
        ),
        (("/etc/default/locale", "LANG=C\n", "LANG=de_DE.UTF-8\n"), []),
    ],
)
def test_a_setting_is_told_with_its_value(file: File, said: list[str]) -> None:
    assert risks(changes(settings=stated(file))) == said


@pytest.mark.parametrize(
    ("kind", "name", "after", "said"),
    [
        (
            SettingKind.SOURCE_KEY,
            "AB12",
            {"owner": "Docker <d@d>"},
            ["believes packages signed by AB12 (Docker <d@d>)"],
        ),
        (
            SettingKind.PRIVATE_KEY,
            "/etc/ssl/private/site.key",
            {"key": "rsa 2048", "passphrase": "no"},
            ["a private key lies at /etc/ssl/private/site.key (rsa 2048, no passphrase)"],
        ),
        (
            SettingKind.CERTIFICATE,
            "/usr/local/share/ca-certificates/x.crt",
            {"subject": "CN=x", "until": "2036"},
            ["trusts the authority CN=x until 2036"],
        ),
        (SettingKind.CERTIFICATE, "/etc/nginx/site.crt", {"subject": "CN=x", "until": "2036"}, []),
    ],
)
def test_keys_and_authorities_are_told(
    kind: SettingKind, name: str, after: dict[str, str], said: list[str]
) -> None:
    one = SettingChange(kind=kind, name=name, verb=ChangeVerb.ADDED, after=after)
    assert risks(changes(settings=[one])) == said


def test_what_is_grave_comes_first_and_of_many_alike_the_rest_is_counted() -> None:
    words = "\n".join(f"{word} 1" for word in ("A", "B", "C", "D", "E", "F", "G"))
    found = risks(changes(settings=stated((SSHD, "", f"{words}\nPermitRootLogin yes\n"))))
    assert found[0] == "sshd lets root log in, with a password too (PermitRootLogin yes)"
    assert len(found) == TOLD_OF_ALIKE + 1
    assert found[-1] == "and 3 more, as: sshd: E 1"


def test_a_hostile_value_is_cut() -> None:
    (found,) = risks(changes(settings=stated((SUDO, None, f"d ALL=(root) /bin/{'x' * 900}"))))
    assert len(found) == MAX_CHARS


def test_what_a_package_brings_is_not_told_but_a_sudo_rule_and_a_source_are() -> None:
    found = stated((SUDO, None, "d ALL=(ALL) NOPASSWD: ALL"), ("/etc/cron.d/j", None, "@daily root /bin/x\n"))
    for one in found:
        one.package = "p"
    assert risks(changes(settings=found)) == [
        "d may become root without a password (ALL=(ALL) NOPASSWD: ALL)"
    ]
    for one in found:
        one.hidden = "noise"
    assert risks(changes(settings=found)) == []


def test_a_file_is_told_where_no_setting_says_more() -> None:
    found = stated((SUDO, None, "d ALL=(ALL) ALL"))
    both = changes(settings=found, files=[changed(SUDO, 0o440), changed("/etc/sudoers.d/comment")])
    assert risks(both) == ["d may become root with their password (ALL=(ALL) ALL)", "touches sudoers"]
    assert risks(changes(settings=found, files=[changed(SUDO, 0o440)]))[1:] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("/usr/bin/cut", 0o4755), "more rights than its caller (setuid, capabilities): /usr/bin/cut"),
        (changed("/usr/bin/cut", 0o755, xattrs={"security.capability": "01"}), "more rights than its caller"),
        (changed("/etc/cron.d/job"), "schedules commands"),
        (changed("/root/.ssh/authorized_keys", 0o600), "which keys may log in"),
        (changed("/etc/x.key", 0o644, secret="private key"), "anybody can read a private key: /etc/x.key"),
        (changed("/etc/pam.d/sshd"), "PAM"),
        (changed("/etc/ansible/facts.d/x.fact", 0o755), "runs code at every apply"),
    ],
    ids=["setuid", "capability", "cron", "authorized keys", "bare key", "pam", "facts"],
)
def test_what_gives_root_away_is_named_as_a_risk(change: FileChange, words: str) -> None:
    assert [risk for risk in risks(changes(files=[change])) if words in risk]
    assert risks(changes(files=[changed("/usr/bin/cut", 0o755)])) == []


def test_administrators_services_and_removals_are_named() -> None:
    def user(name: str, **sides: dict[str, str]) -> UserChange:
        return UserChange(name=name, verb=ChangeVerb.MODIFIED, **sides)

    on = UnitState(enabled=True, defined=True)
    found = changes(
        users=[
            user("eve", after={"uid": "1001", "groups": "sudo,users"}),
            user("toor", after={"uid": "0"}),
            user("bin", before={"uid": "2"}, after={"uid": "0"}),
            user(
                "root",
                before={"uid": "0", "shell": "/bin/sh", "password": "locked"},
                after={"uid": "0", "shell": "/bin/bash", "password": "set"},
            ),
            user("ann", before={"groups": "sudo"}, after={"groups": "sudo"}),
        ],
        units=[
            UnitChange(name="a.service", verb=ChangeVerb.ADDED, after=on),
            UnitChange(name="b.service", verb=ChangeVerb.MODIFIED, before=on, after=UnitState(masked=True)),
        ],
        packages=[PackageChange(name="p", verb=ChangeVerb.REMOVED)],
        files=[FileChange(path="/srv/x", verb=ChangeVerb.REMOVED)],
    )
    assert risks(found) == [
        "makes eve an administrator (group sudo)",
        "makes toor an administrator (uid 0)",
        "makes bin an administrator (uid 0)",
        "changes root, an administrator (uid 0): password, shell",
        "removes files: /srv/x",
        "enables a.service",
        "disables b.service",
        "masks b.service",
        "removes packages: p",
    ]


def test_users_and_tags_of_a_sudo_rule_hold_until_others_are_named() -> None:
    found = grants(r"ALL=NOPASSWD: /bin/a x\,y, (www) /bin/b, PASSWD: NOEXEC: /bin/c, (root, db) /bin/d")
    assert [(one.user, one.free, one.commands) for one in found] == [
        ("root", True, (r"/bin/a x\,y",)),
        ("www", True, ("/bin/b",)),
        ("www", False, ("/bin/c",)),
        ("root and db", False, ("/bin/d",)),
    ]
    assert grants("nonsense") == []


def playbook(tasks: str, handlers: str = "") -> list[str]:
    text = f"""---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  vars: {{how: stopped, what: db.service}}
  tasks:
{tasks}
  handlers:
    - name: Restart it
      ansible.builtin.systemd_service: {{name: nginx.service, state: restarted}}
{handlers}"""
    return of_playbook(check(text.encode(), []))


def task(module: str, args: str, name: str = "A task", more: str = "") -> str:
    return f"    - name: {name}\n      ansible.builtin.{module}: {{{args}}}\n{more}"


LOOP = "      loop: [a.service, b.service]\n"
REBOOT = "reboot_timeout: 600"


@pytest.mark.parametrize(
    ("tasks", "handlers", "told"),
    [
        (task("systemd_service", "name: x.service, state: started, enabled: true"), "", []),
        (task("systemd_service", "name: x.service, state: reloaded"), "", []),
        (task("reboot", REBOOT, "Tidy up"), "", ["restarts the machine: Tidy up"]),
        (
            task("file", "path: /srv/a, state: directory"),
            task("reboot", REBOOT, "Later"),
            ["restarts the machine: Later"],
        ),
        (
            task("systemd_service", "name: x.service, state: restarted"),
            "",
            ["restarts x.service while it is applied"],
        ),
        (
            task("systemd_service", 'name: "{{ what }}", state: "{{ how }}"'),
            "",
            ["stops db.service while it is applied"],
        ),
        (
            task("systemd_service", 'name: "{{ item }}", state: stopped', more=LOOP),
            "",
            ["stops a.service while it is applied", "stops b.service while it is applied"],
        ),
        (
            task("file", "path: /srv/a, state: directory"),
            task("systemd_service", "name: x.service, state: stopped", "Later"),
            ["stops x.service while it is applied"],
        ),
        (
            task("systemd_service", "name: x.service, state: stopped") + task("reboot", REBOOT, "Again"),
            "",
            ["restarts the machine: Again", "stops x.service while it is applied"],
        ),
    ],
)
def test_what_an_apply_restarts_or_stops_and_no_disk_tells(
    tasks: str, handlers: str, told: list[str]
) -> None:
    assert playbook(tasks, handlers) == told


def test_of_many_restarts_the_first_are_told_and_none_is_long() -> None:
    many = "".join(task("reboot", REBOOT, f"{index} " + "x" * 240) for index in range(9))
    names = ", ".join(f"unit{index}.service" for index in range(9))
    loop = f"      loop: [{names}]\n"
    stopping = task("systemd_service", 'name: "{{ item }}", state: stopped', more=loop)
    found = playbook(many + stopping)
    assert len(found) == 2 * (TOLD_OF_ALIKE + 1) and max(map(len, found)) <= MAX_CHARS
    assert found[TOLD_OF_ALIKE].startswith("and 4 more, as: restarts the machine: 5 x")
