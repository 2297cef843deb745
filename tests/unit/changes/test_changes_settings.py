"""What changed files mean: each kind of setting, before and after, also when a hostile guest wrote them."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.changes.settings import Teller, find, states
from backend.changes.settings.fact import MAX_FILE_BYTES, MAX_LINES
from backend.disks import Comparison, Content, Entry, Pair, Side
from backend.disks.facts import facts
from backend.models import FileKind

Told = dict[tuple[str, str], tuple[dict[str, str], dict[str, str]]]
TELLER = Teller(b"k" * 32)


def entry(path: str | bytes, mode: int = 0o644, target: str | None = None) -> Entry:
    raw = path if isinstance(path, bytes) else path.encode()
    kind = FileKind.FILE if target is None else FileKind.LINK
    link = None if target is None else target.encode()
    return Entry(raw, kind, mode, 0, 0, 0, 0, 0, 12, 1, link, None, ())


def content(data: str | bytes | None, withheld: str = "", facts: dict[str, str] | None = None) -> Content:
    raw = data.encode() if isinstance(data, str) else data
    return Content(len(raw or b""), "a" * 64, None, raw, withheld, facts)


def pair(path: str | bytes, before: str | bytes | None, after: str | bytes | None, mode: int = 0o644) -> Pair:
    return Pair(
        None if before is None else entry(path, mode),
        None if after is None else entry(path, mode),
        None if before is None else content(before),
        None if after is None else content(after),
    )


def link(path: str, before: str | None, after: str | None) -> Pair:
    sides = [None if target is None else entry(path, 0o777, target) for target in (before, after)]
    return Pair(sides[0], sides[1], None, None)


def told(*pairs: Pair, read: dict[bytes, bytes | None] | None = None, notes: list[str] | None = None) -> Told:
    """Values before and after, by kind and name; several of one name are numbered."""
    found: Told = {}
    for one in find(Comparison(pairs, Side(), Side()), read or {}, [] if notes is None else notes):
        difference = one.difference
        name, number = difference.name, 2
        while (one.kind.value, name) in found:
            name, number = f"{difference.name} #{number}", number + 1
        found[one.kind.value, name] = (TELLER.values(difference.before), TELLER.values(difference.after))
    return found


# --- what runs by itself -----------------------------------------------------------------------------------


def test_a_cron_job_is_its_command_with_its_schedule_and_user():
    assert told(
        pair("/etc/cron.d/backup", "0 1 * * * root /bin/b\n", "MAILTO=ops\n30 2 * * *\troot\t/bin/b a%b\n"),
        pair("/var/spool/cron/crontabs/ann", None, "@reboot  /bin/x --now\n# no\n"),
    ) == {
        ("cron job", "/bin/b"): ({"schedule": "0 1 * * *", "user": "root"}, {}),
        ("cron job", "/bin/b a%b"): ({}, {"schedule": "30 2 * * *", "user": "root", "MAILTO": "ops"}),
        ("cron job", "/bin/x --now"): ({}, {"schedule": "@reboot", "user": "ann"}),
    }


def test_a_cron_job_that_only_moved_to_another_file_is_no_change():
    line = "0 1 * * * root /bin/b\n"
    assert told(pair("/etc/cron.d/a", line, None), pair("/etc/crontab", "", line)) == {}


@pytest.mark.parametrize(
    ("name", "mode", "runs"),
    [
        ("backup", 0o755, "daily"),
        ("backup", 0o644, "never: it is not executable"),
        ("backup.sh", 0o755, "never: run-parts skips such a name"),
    ],
)
def test_a_daily_script_that_cron_never_runs_says_so(name: str, mode: int, runs: str):
    path = f"/etc/cron.daily/{name}"
    assert told(pair(path, None, "#!/bin/sh\n", mode)) == {("cron job", path): ({}, {"runs": runs})}


def test_units_timers_and_drop_ins_tell_what_they_assign():
    assert told(
        pair("/etc/systemd/system/b.timer", "[Timer]\nOnCalendar=daily\n", "[Timer]\nOnCalendar=hourly\n"),
        pair(
            "/etc/systemd/system/nginx.service.d/limits.conf",
            None,
            "[Service]\n# c\nMemoryMax = 1G\nExecStartPre=/a \\\n  b\nExecStartPre=/c\n",
        ),
        pair("/etc/systemd/user/x.service", None, "[Service]\nExecStart=/x --password geheim\n"),
    ) == {
        ("unit", "x.service of users"): (
            {},
            {"Service.ExecStart": f"/x --password ‹{TELLER._print('geheim')}›"},
        ),
        ("timer", "b.timer"): ({"Timer.OnCalendar": "daily"}, {"Timer.OnCalendar": "hourly"}),
        ("drop-in", "nginx.service limits.conf"): (
            {},
            {"Service.MemoryMax": "1G", "Service.ExecStartPre": "/a    b; /c"},
        ),
    }


# --- who may ------------------------------------------------------------------------------------------------


def test_sudo_rules_by_who_may_what():
    assert told(
        pair(
            "/etc/sudoers.d/deploy",
            "deploy ALL=(root) /bin/systemctl\n",
            "deploy ALL=(ALL) \\\n NOPASSWD: ALL\n%ops ALL=(ALL) PASSWD: /bin/x # why\nDefaults env_reset, "
            'editor="a, b"\nCmnd_Alias WEB = /a, \\\n /b\n#1000 ALL=(ALL) ALL\n# a comment\n',
        ),
        pair("/etc/sudoers.d/skipped.conf", None, "ann ALL=(ALL) ALL\n"),
    ) == {
        ("sudo rule", "#1000"): ({}, {"may": "ALL=(ALL) ALL"}),
        ("sudo rule", "%ops"): ({}, {"may": "ALL=(ALL) PASSWD: /bin/x"}),
        ("sudo rule", "Cmnd_Alias WEB"): ({}, {"means": "/a, /b"}),
        ("sudo rule", "Defaults"): ({}, {"sets": "env_reset"}),
        ("sudo rule", "Defaults #2"): ({}, {"sets": 'editor="a, b"'}),
        ("sudo rule", "ann"): ({}, {"may": "ALL=(ALL) ALL", "ignored": "sudo skips a file of such a name"}),
        ("sudo rule", "deploy"): (
            {"may": "ALL=(root) /bin/systemctl"},
            {"may": "ALL=(ALL) NOPASSWD: ALL"},
        ),
    }


def test_rules_that_changed_places_are_a_change_because_the_last_one_counts():
    one, two = "ann ALL=(ALL) NOPASSWD: ALL\n", "ann ALL=(ALL) ALL\n"
    assert told(pair("/etc/sudoers", one + two, two + one)) == {
        ("sudo rule", "ann"): (
            {"order": "ALL=(ALL) NOPASSWD: ALL; ALL=(ALL) ALL"},
            {"order": "ALL=(ALL) ALL; ALL=(ALL) NOPASSWD: ALL"},
        )
    }


MAIN = (
    "Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin yes\nPort 22\n"
    "Match User git\n  X11Forwarding no\n"
)


def test_of_the_ssh_daemon_s_words_the_one_that_counts_is_told():
    notes: list[str] = []
    assert told(
        pair("/etc/ssh/sshd_config.d/20-hard.conf", None, "permitrootlogin no\nPasswordAuthentication no\n"),
        pair("/etc/ssh/sshd_config", MAIN, MAIN.replace("Port 22", "Port 22\nPort 2222")),
        read={b"/etc/ssh/sshd_config.d/10-cloud.conf": b"PasswordAuthentication yes\n"},
        notes=notes,
    ) == {
        ("ssh daemon", "permitrootlogin"): ({"value": "yes"}, {"value": "no"}),
        ("ssh daemon", "port"): ({}, {"value": "2222"}),
    }
    assert any(
        "PasswordAuthentication no has no effect, /etc/ssh/sshd_config.d/10-cloud.conf" in one
        for one in notes
    )


def test_what_the_ssh_daemon_reads_from_elsewhere_is_told_though_it_is_not_read_here():
    after = MAIN.replace("Port 22", 'include "extra.conf" /etc/ssh/sshd_config.d/*.conf\nX11Forwarding no')
    notes: list[str] = []
    assert told(pair("/etc/ssh/sshd_config", MAIN, after), notes=notes) == {
        ("ssh daemon", "include"): ({}, {"value": "/etc/ssh/extra.conf"}),
        ("ssh daemon", "port"): ({"value": "22"}, {}),
        ("ssh daemon", "x11forwarding"): ({}, {"value": "no"}),
    }
    assert not notes


def test_a_tab_parts_words_as_well_as_a_space():
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
    found = told(
        pair("/etc/sudoers.d/ann", None, "Defaults\t!authenticate\nann\tALL=(ALL)\tALL\n"),
        pair("/root/.ssh/authorized_keys", None, f"ssh-ed25519\t{blob}\tann@laptop\n"),
        pair("/etc/modprobe.d/a.conf", None, "install\tusb-storage\t/bin/evil  now\n"),
        pair("/etc/modules", None, "dummy\tnumdummies=2\n"),
    )
    key = "root SHA256:" + next(name for _, name in found if "SHA256" in name).partition(":")[2]
    assert found == {
        ("sudo rule", "Defaults"): ({}, {"sets": "!authenticate"}),
        ("sudo rule", "ann"): ({}, {"may": "ALL=(ALL) ALL"}),
        ("login key", key): ({}, {"type": "ssh-ed25519", "comment": "ann@laptop"}),
        ("kernel module", "install usb-storage"): ({}, {"value": "/bin/evil  now"}),
        ("kernel module", "dummy"): ({}, {"loaded": "at boot", "options": "numdummies=2"}),
    }


def test_login_keys_are_told_by_fingerprint_with_their_options():
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
    found = told(
        pair(
            "/home/ann/.ssh/authorized_keys",
            "",
            f'command="/bin/a b",no-pty ssh-ed25519 {blob} ann@laptop\nnonsense\n',
        )
    )
    ((name, (before, after)), (damaged, _)) = sorted(found.items())
    assert name[0] == "login key"
    assert name[1].startswith("ann SHA256:")
    assert (before, after) == (
        {},
        {"type": "ssh-ed25519", "comment": "ann@laptop", "options": 'command="/bin/a b",no-pty'},
    )
    assert damaged == ("login key", "ann: not a key")


# --- the machine --------------------------------------------------------------------------------------------


def test_of_kernel_parameters_the_last_file_counts():
    notes: list[str] = []
    assert told(
        pair(
            "/etc/sysctl.d/50-x.conf",
            None,
            "net.ipv4.ip_forward=1\nvm.swappiness = 10\n-net/ipv4/conf/a.b/c=1",
        ),
        read={
            b"/etc/sysctl.conf": b"vm.swappiness=1\nkernel.x=1\n",  # stands at 99-sysctl.conf
            b"/etc/sysctl.d/99-zz.conf": b"kernel.x=2\n",
            b"/usr/lib/sysctl.d/50-x.conf": b"kernel.pid_max=1\n",
            b"/usr/lib/sysctl.d/10-x.conf": b"net.ipv4.ip_forward=0\n",
            b"/etc/sysctl.d/99-x.conf": b"vm.swappiness=60\n",
        },
        notes=notes,
    ) == {
        ("kernel parameter", "kernel.pid_max"): ({"value": "1"}, {}),
        ("kernel parameter", "net.ipv4.conf.a/b.c"): ({}, {"value": "1"}),
        ("kernel parameter", "net.ipv4.ip_forward"): ({"value": "0"}, {"value": "1"}),
    }
    assert notes == [
        "/etc/sysctl.d/50-x.conf: vm.swappiness 10 has no effect, /etc/sysctl.d/99-x.conf says 60"
    ]


FSTAB = """UUID=1 /mnt/a\\040b ext4 noatime 0 2
//s/x /y cifs password=geheim,ro 0 0
/swap none swap sw
"""
RESOLV = "nameserver 9.9.9.9\nnameserver 1.1.1.1\nsearch lan\n"


def test_modules_mounts_names_and_locale():
    assert told(
        pair("/etc/modules-load.d/a.conf", None, "br_netfilter\n"),
        pair("/etc/modprobe.d/b.conf", None, "blacklist floppy\noptions kvm nested=1\n"),
        pair("/etc/fstab", "", FSTAB),
        pair("/etc/hostname", "a\n", "b\n"),
        pair("/etc/hosts", "127.0.0.1 localhost\n", "127.0.0.1 localhost\n10.0.0.5 db db.lan # x\n"),
        pair("/etc/resolv.conf", "nameserver 1.1.1.1\n", RESOLV),
        pair("/etc/default/locale", "LANG=C\n", 'LANG="de_DE.UTF-8"\n'),
        pair("/etc/locale.gen", "# de_DE.UTF-8 UTF-8\n", "de_DE.UTF-8 UTF-8\n"),
        pair("/etc/timezone", "Etc/UTC\n", "Europe/Berlin\n"),
        link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Europe/Berlin"),
        link("/etc/alternatives/editor.1.gz", "/usr/share/man/nano.1.gz", "/usr/share/man/vim.1.gz"),
        link("/etc/alternatives/editor", "/bin/nano", "/usr/bin/vim.basic"),
    ) == {
        ("kernel module", "br_netfilter"): ({}, {"loaded": "at boot"}),
        ("kernel module", "blacklist floppy"): ({}, {"value": ""}),
        ("kernel module", "options kvm"): ({}, {"value": "nested=1"}),
        ("mount", "/mnt/a b"): (
            {}, {"device": "UUID=1", "type": "ext4", "options": "noatime", "dump and check": "0 2"}
        ),
        ("mount", "/y"): (
            {},
            {
                "device": "//s/x", "type": "cifs", "dump and check": "0 0",
                "options": f"password=‹{TELLER._print('geheim')}›,ro",
            },
        ),
        ("mount", "/swap"): ({}, {"device": "/swap", "type": "swap", "options": "sw", "dump and check": ""}),
        ("host name", "host name"): ({"value": "a"}, {"value": "b"}),
        ("hosts entry", "10.0.0.5"): ({}, {"names": "db db.lan"}),
        ("resolver", "nameserver"): ({"value": "1.1.1.1"}, {"value": "9.9.9.9, 1.1.1.1"}),
        ("resolver", "search"): ({}, {"value": "lan"}),
        ("alternative", "editor"): ({"program": "/bin/nano"}, {"program": "/usr/bin/vim.basic"}),
        ("locale", "LANG"): ({"value": "C"}, {"value": "de_DE.UTF-8"}),
        ("locale", "locale de_DE.UTF-8 UTF-8"): ({}, {"generated": "yes"}),
        ("time zone", "localtime"): ({"zone": "Etc/UTC"}, {"zone": "Europe/Berlin"}),
        ("time zone", "timezone"): ({"zone": "Etc/UTC"}, {"zone": "Europe/Berlin"}),
    }  # fmt: skip


# --- the firewall -------------------------------------------------------------------------------------------

NFT = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  set admins { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 } }
  chain input {
    type filter hook input priority 0; policy accept;
    tcp dport { 22, 80 } accept comment "web; {ssh}"
    ct state established,related accept
  }
}
"""


def test_nftables_rules_by_table_and_chain():
    after = NFT.replace("policy accept", "policy drop").replace("{ 22, 80 }", "{ 22, 443 }")
    assert told(pair("/etc/nftables.conf", NFT, after)) == {
        ("firewall rule", "inet filter input"): ({"policy": "accept"}, {"policy": "drop"}),
        ("firewall rule", "inet filter input #2"): (
            {"rule": 'tcp dport { 22, 80 } accept comment "web; {ssh}"'},
            {"rule": 'tcp dport { 22, 443 } accept comment "web; {ssh}"'},
        ),
    }


RULES = [
    "ct state { established, related } accept",
    "ct state vmap { established : accept, related : accept, invalid : drop }",
    "ct mark { 1, 2 } accept",
    "meta l4proto { tcp, udp } th dport { 53, 853 } accept",
    "ip saddr . tcp dport { 10.0.0.1 . 22, 10.0.0.2 . 80 } accept",
    "ip saddr @trusted tcp dport @ports counter accept",
    "limit rate over 5/second burst 3 packets drop",
    "counter packets 0 bytes 0 ip saddr { 10.0.0.0/8 } drop",
    "counter name web tcp dport { 80 } accept",
    "set update { ip saddr timeout 5m } @seen",
    "map to { 1 : 2 } accept",
    "quota over 5 mbytes ip daddr { 10.0.0.9 } drop",
    "tcp dport vmap { 22 : jump admin, 80-90 : accept }",
    'iifname { "eth0", "wg{0}" } accept comment "web; {a} # no comment"',
    "jump { ip saddr 10.0.0.1 accept; }",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_set_in_a_rule_of_nftables_is_a_part_of_the_rule(rule: str):
    chain = "table inet filter {{\n chain input {{\n  {} # why {{\n  drop\n }}\n}}\n"
    found = told(pair("/etc/nftables.conf", None, chain.format(rule)))
    assert [(name, after) for (_, name), (_, after) in found.items()] == [
        ("inet filter input", {"rule": rule}),
        ("inet filter input #2", {"rule": "drop"}),
    ]


def test_a_set_over_several_lines_and_an_object_of_a_table_of_nftables():
    text = """
    define ports = { 22,
        80 }
    table ip nat {
        set trusted { type ipv4_addr; flags interval
            elements = { 10.0.0.1, # the gate }
                10.0.0.2 }
        }
        map to { typeof ip saddr : verdict; elements = { 10.0.0.1 : accept } }
        counter web { comment "of {80}" }
        ct timeout slow { protocol tcp; policy = { established: 100, close: 4 } }
        chain pre { type nat hook prerouting priority dstnat; policy drop; ct state {
            established,
            related } \\
            accept; }
    }
    add chain ip nat post { type nat hook postrouting priority 100; policy accept; }
    add rule ip nat post ct state { new } masquerade
    add element ip nat trusted { 10.0.0.3 }
    """
    found = told(pair("/etc/nftables.d/x.nft", None, text))
    assert [(name, after) for (_, name), (_, after) in found.items()] == [
        ("ip nat counter web", {"rule": 'comment "of {80}"'}),
        ("ip nat ct timeout slow", {"rule": "protocol tcp"}),
        ("ip nat ct timeout slow #2", {"rule": "policy = { established: 100, close: 4 }"}),
        ("ip nat map to", {"rule": "typeof ip saddr : verdict"}),
        ("ip nat map to #2", {"rule": "elements = { 10.0.0.1 : accept }"}),
        ("ip nat post", {"hook": "type nat hook postrouting priority 100"}),
        ("ip nat post #2", {"policy": "accept"}),
        ("ip nat pre", {"hook": "type nat hook prerouting priority dstnat"}),
        ("ip nat pre #2", {"policy": "drop"}),
        ("ip nat pre #3", {"rule": "ct state { established, related } accept"}),
        ("ip nat set trusted", {"rule": "type ipv4_addr"}),
        ("ip nat set trusted #2", {"rule": "flags interval"}),
        ("ip nat set trusted #3", {"rule": "elements = { 10.0.0.1, 10.0.0.2 }"}),
        ("nftables", {"rule": "define ports = { 22, 80 }"}),
        ("nftables #2", {"rule": "add rule ip nat post ct state { new } masquerade"}),
        ("nftables #3", {"rule": "add element ip nat trusted { 10.0.0.3 }"}),
    ]


def test_iptables_rules_without_counters_and_ufw_tuples():
    save = "*filter\n:INPUT {} [1:2]\n[3:4] -A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    assert told(
        pair("/etc/iptables/rules.v6", save.format("ACCEPT"), save.format("DROP").replace("[3:4]", "[9:9]")),
        pair(
            "/etc/ufw/user.rules", None, "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n-A x -j y\n"
        ),
        pair("/etc/ufw/ufw.conf", "ENABLED=no\n", "ENABLED=yes\n"),
    ) == {
        ("firewall rule", "ip6 filter INPUT"): ({"policy": "ACCEPT"}, {"policy": "DROP"}),
        ("firewall rule", "ufw"): ({}, {"rule": "allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in"}),
        ("firewall rule", "ufw ENABLED"): ({"value": "no"}, {"value": "yes"}),
    }


def test_a_zone_of_firewalld_and_one_that_would_blow_up():
    rich = '<rule family="ipv4"><source address="10.0.0.0/8"/><accept/></rule>'
    zone = f'<?xml version="1.0"?><zone target="DROP"><short>x</short><service name="http"/>{rich}</zone>'
    bomb = '<!DOCTYPE z [<!ENTITY a "aaaa">]><zone><service name="&a;"/></zone>'
    assert told(
        pair("/etc/firewalld/zones/public.xml", None, zone), pair("/etc/firewalld/zones/evil.xml", None, bomb)
    ) == {
        ("firewall rule", "zone evil.xml"): ({}, {"unreadable": "it declares entities"}),
        ("firewall rule", "zone public"): ({}, {"target": "DROP"}),
        ("firewall rule", "zone public #2"): ({}, {"service": "name=http"}),
        ("firewall rule", "zone public #3"): (
            {}, {"rule": "family=ipv4 source address=10.0.0.0/8 accept"}
        ),
    }  # fmt: skip


# --- packages' sources --------------------------------------------------------------------------------------


def test_package_sources_in_both_forms_are_one_thing():
    old = "deb [signed-by=/k.gpg] http://packages.example.org/debian bookworm main # x\n"
    new = (
        "Types: deb\nURIs: http://packages.example.org/debian\nSuites: bookworm\n"
        "Components: main contrib\nSigned-By: /k.gpg\n"
    )
    assert told(
        pair("/etc/apt/sources.list", old, ""), pair("/etc/apt/sources.list.d/d.sources", None, new)
    ) == {
        ("package source", "http://packages.example.org/debian bookworm"): (
            {"type": "deb", "components": "main", "signed-by": "/k.gpg"},
            {"types": "deb", "components": "main contrib", "signed-by": "/k.gpg"},
        )
    }


def test_repositories_pins_and_apt_s_settings():
    assert told(
        pair("/etc/yum.repos.d/x.repo", None, "[x]\nbaseurl=https://u:geheim@h/x\ngpgcheck=0\n"),
        pair("/etc/apt/preferences.d/p", None, "Package: nginx\nPin: release a=b\nPin-Priority: 900\n"),
        pair(
            "/etc/apt/apt.conf.d/20auto",
            'APT::Periodic::Unattended-Upgrade "0";\n',
            'APT { Periodic { Unattended-Upgrade "1"; }; };\n// no\n'
            'Unattended-Upgrade::Allowed-Origins { "a:b"; };',
        ),
    ) == {
        ("package source", "x"): (
            {}, {"baseurl": f"https://u:‹{TELLER._print('geheim')}›@h/x", "gpgcheck": "0"}
        ),
        ("package source", "pin of nginx"): ({}, {"pin": "release a=b", "priority": "900"}),
        ("apt setting", "APT::Periodic::Unattended-Upgrade"): ({"value": "0"}, {"value": "1"}),
        ("apt setting", "Unattended-Upgrade::Allowed-Origins"): ({}, {"value": "a:b"}),
    }  # fmt: skip


def test_what_dpkg_is_told_to_do_otherwise():
    assert told(
        pair("/var/lib/dpkg/statoverride", "", "root adm 0640 /etc/a b\n"),
        pair("/var/lib/dpkg/diversions", "", "/bin/a\n/bin/a.real\n:\n/bin/b\n/bin/b.x\ndash\n/cut\n"),
    ) == {
        ("dpkg override", "mode of /etc/a b"): ({}, {"owner": "root:adm", "mode": "0640"}),
        ("dpkg override", "diversion of /bin/a"): ({}, {"to": "/bin/a.real", "for": "a person"}),
        ("dpkg override", "diversion of /bin/b"): ({}, {"to": "/bin/b.x", "for": "dash"}),
    }


def test_a_certificate_and_its_key_declare_the_same_public_half():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start + timedelta(days=90))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert facts(pem)["public"] == facts(private)["public"]
    assert facts(pem)["not_after"].startswith("2026-04-01")


def test_certificates_and_keys_by_what_they_declare():
    declared = {
        "subject": "CN=web", "issuer": "CN=web", "not_after": "2027-01-01T00:00:00+00:00", "key": "rsa 2048",
        "self_signed": "yes", "certificates": "1", "public": "ab",
    }  # fmt: skip
    path = "/etc/ssl/web.pem"
    certificate = Pair(None, entry(path), None, content("-----BEGIN", facts=declared))
    key = {"private_key": "yes", "key": "rsa 2048", "public": "ab"}
    secret = Pair(None, entry("/etc/ssl/web.key"), None, content(None, "private key", key))
    other = Pair(None, entry("/x.key"), None, content(None, "private key", {**key, "public": "cd"}))
    found = told(certificate, secret, other)
    assert found["certificate", path][1]["private key"] == "/etc/ssl/web.key"
    assert told(certificate, other)["certificate", path][1]["private key"] == "none among the changes"
    assert found["certificate", path][1]["until"] == "2027-01-01T00:00:00+00:00"
    assert found["private key", "/etc/ssl/web.key"] == (
        {},
        {"key": "rsa 2048", "passphrase": "no", "public key": "ab"},
    )


KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawXakxYJKwYBBAHaRw8BAQdAUDNBTCiOkHXM1K+Z55suHWOHhylWAafYNY2Z
hAM3EBa0FFRlc3QgPHRAZXhhbXBsZS5vcmc+iJAEExYIADgWIQRV2pXnw+SGfDyD
hk+9+OyAVTjNGAUCawXakwIbAwULCQgHAgYVCgkICwIEFgIDAQIeAQIXgAAKCRC9
+OyAVTjNGM8uAQCp62JVGpwu0GVm/hiNyCRuQyNgh8Ybv5LMUnqvQBEdeQEAh4iR
TFwtFdZCV2YlhfYPFqZC3+10KaO7xecg3UxJYg8=
=0GKM
-----END PGP PUBLIC KEY BLOCK-----
"""


def test_keys_of_package_sources_by_fingerprint_armoured_or_not():
    body = KEY.split("\n\n")[1].split("-----")[0].split("=")[0]
    raw = base64.b64decode(body + "=" * (-len(body.replace("\n", "")) % 4))
    value = (
        "55DA95E7C3E4867C3C83864FBDF8EC805538CD18",
        {"owner": "Test <t@example.org>", "algorithm": "eddsa", "made": "2026-11-24"},
    )
    stanza = "Types: deb\nURIs: http://a/\nSuites: s\nSigned-By:\n" + "".join(
        f" {line or '.'}\n" for line in KEY.splitlines()
    )
    for data in (KEY, raw):
        assert told(pair("/etc/apt/keyrings/t.gpg", None, data)) == {
            ("package key", value[0]): ({}, value[1])
        }
    assert told(pair("/etc/apt/sources.list.d/t.sources", None, stanza)) == {
        ("package source", "http://a/ s"): ({}, {"types": "deb", "signed-by": f"key {value[0]}"})
    }


# --- hostile ------------------------------------------------------------------------------------------------

PATHS = (
    "/etc/crontab", "/var/spool/cron/crontabs/x", "/etc/cron.daily/a", "/etc/anacrontab", "/etc/sudoers",
    "/etc/systemd/system/a.timer", "/etc/ssh/sshd_config", "/root/.ssh/authorized_keys", "/etc/sysctl.conf",
    "/etc/modules", "/etc/modprobe.d/a.conf", "/etc/fstab", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf",
    "/etc/nsswitch.conf", "/etc/systemd/resolved.conf", "/etc/nftables.conf", "/etc/iptables/rules.v4",
    "/etc/ufw/user.rules", "/etc/ufw/ufw.conf", "/etc/firewalld/zones/a.xml", "/etc/firewalld/firewalld.conf",
    "/etc/apt/sources.list", "/etc/apt/sources.list.d/a.sources", "/etc/apt/preferences",
    "/etc/yum.repos.d/a.repo", "/etc/apt/apt.conf", "/etc/apt/trusted.gpg", "/etc/default/locale",
    "/etc/locale.gen", "/etc/timezone",
)  # fmt: skip
BITS = st.sampled_from([
    b"\n", b"\\\n", b"{", b"}", b";", b"[", b"]", b"=", b'"', b"#", b"\0", b"\xff", b" ", b"deb ", b"Match ",
    b"Include ", b"@reboot ", b"Package: ", b"URIs: ", b"Suites: ", b"<a ", b"</a>", b"*f\n", b"-A x",
    b"\x99\x01", b"ssh-rsa ", b"5", "\u202e".encode(), b"password=", b"table ", b"chain ", b"Defaults",
])  # fmt: skip
WRITTEN = st.lists(st.one_of(BITS, st.binary(max_size=6)), max_size=30).map(b"".join)


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_read_by_somebody(path: str):
    assert states(path.encode())


@given(WRITTEN, WRITTEN)
@settings(max_examples=25, deadline=None)
def test_parsers_never_fail_on_what_a_guest_wrote(one: bytes, two: bytes):
    for path in PATHS:
        notes: list[str] = []
        told(pair(path, one, two), pair(path, None, one), notes=notes)
        assert told(pair(path, one, one)) == {}


@pytest.mark.parametrize(
    "unit", [b"a", b"1_", b'"a",', b"{ ", b"a b=\\\n", b"password=", b"-- ", b"\xff", b"a::"]
)
def test_a_line_as_long_as_a_file_may_be_costs_little_and_its_end_still_counts(unit: bytes):
    long = unit * (MAX_FILE_BYTES // len(unit) - 10)
    started = time.process_time()
    for path in ("/etc/sudoers", "/etc/nftables.conf", "/etc/crontab", "/etc/apt/apt.conf", "/etc/hosts"):
        told(pair(path, long + b"x\n", long + b"y\n"))
    assert time.process_time() - started < 2


def test_what_is_too_large_or_withheld_is_named_and_half_of_it_is_not_told():
    notes: list[str] = []
    withheld = Pair(
        entry("/etc/crontab"),
        entry("/etc/crontab"),
        content("* * * * * root a\n"),
        content(None, "credentials"),
    )
    many = pair("/etc/hosts", "10.0.0.1 a\n", "\n" * (MAX_LINES + 1))
    facts = pair("/etc/locale.gen", "a\n", "".join(f"x{n}\n" for n in range(6_000)))
    assert told(withheld, many, facts, notes=notes) == {}
    assert notes == [
        "/etc/crontab: what it states is not told (credentials)",
        f"/etc/hosts: what it states is not told (over {MAX_LINES} lines)",
        "/etc/locale.gen: states more than 5000 things, none is told",
    ]


def test_a_link_that_gives_rights_is_said_not_to_be_read():
    notes: list[str] = []
    paths = (
        "/etc/sudoers.d/x",
        "/root/.ssh/authorized_keys",
        "/etc/ssh/sshd_config.d/x.conf",
        "/etc/cron.d/x",
    )
    quiet = ("/etc/systemd/system/dbus-x.service", "/etc/cron.daily/x", "/etc/sysctl.d/99-sysctl.conf")
    told(*(link(path, None, "/srv/y") for path in (*paths, *quiet)), notes=notes)
    assert sorted(notes) == sorted(f"{path}: is a link, what /srv/y states is not told" for path in paths)


def test_bytes_that_are_no_text_stay_apart_and_become_storable():
    found = told(
        pair(b"/etc/cron.daily/a\n\xff", None, b""),
        pair("/etc/hosts", b"10.0.0.1 \xff\0\n", b"10.0.0.1 \xfe\0\n"),
    )
    assert found["hosts entry", "10.0.0.1"] == ({"names": "\\xff\\x00"}, {"names": "\\xfe\\x00"})
    assert str(found).encode("utf-8")


def test_a_password_in_quotes_is_a_fingerprint_though_the_value_is_cut_before_the_second_one():
    told = TELLER.tell('/bin/a --password="' + "two words " * 300 + '"')
    assert "two words" not in told and told.startswith("/bin/a --password=‹")
