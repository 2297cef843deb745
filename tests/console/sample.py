"""A fleet with a bit of everything: two hosts, five sandboxes, a request, a question, a diff, three runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from backend.asciicast import MARK, OUTPUT, CastEvent, event_line, header_line
from backend.models import (
    Approval,
    ApprovalState,
    Ask,
    AuditRow,
    Changes,
    ChangeVerb,
    Evidence,
    FileChange,
    FileKind,
    FileState,
    FleetView,
    HostView,
    PackageChange,
    Pane,
    Phase,
    Recording,
    ResidualRow,
    Run,
    RunEvent,
    RunKind,
    RunState,
    Sandbox,
    SettingChange,
    SettingKind,
    TargetEvidence,
    TargetResult,
    UnitChange,
    UnitState,
    UserChange,
    now,
)

HOSTILE = "\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x1b[1;1Hfluid · approved ✓\x9b31m\u202egpj.exe"
DIGEST = "9f3c1de2" * 8
SSHD = "/etc/ssh/sshd_config.d/10-root.conf"
KEYS = "/root/.ssh/authorized_keys"
APPROVAL_ID = "APR-4f2a19c3"
APPLY_RUN = "RUN-00000004"

OLD_CONF = """user www-data;
worker_processes auto;
events {
    worker_connections 768;
}
http {
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    access_log /var/log/nginx/access.log;
    include /etc/nginx/conf.d/*.conf;
}
"""
NEW_CONF = OLD_CONF.replace("worker_connections 768", "worker_connections 4096").replace(
    "    tcp_nopush on;\n", "    tcp_nopush on;\n    server_tokens off;\n    ssl_protocols TLSv1.2 TLSv1.3;\n"
)
SITE = """server {
    listen 443 ssl;
    server_name web-01;
    ssl_certificate /etc/ssl/certs/site.pem;
    ssl_certificate_key /etc/ssl/private/site.key;
    root /srv/www;
}
"""
YAML = """# generated from DIF-0000aaaa
- name: nginx-tls
  hosts: all
  tasks:
    - name: Install nginx
      ansible.builtin.apt:
        name: nginx
        state: present
    - name: Site with TLS
      ansible.builtin.copy:
        src: files/5d41402a
        dest: /etc/nginx/sites-enabled/site
        mode: "0644"
    - name: Enable nginx
      ansible.builtin.systemd_service:
        name: nginx
        enabled: true
        state: started
"""


def _file(text: str, mode: int = 0o644) -> FileState:
    return FileState(
        kind=FileKind.FILE,
        mode=mode,
        uid=0,
        gid=0,
        owner="root",
        group="root",
        size=len(text),
        sha256="5d41402abc4b2a76b9719d911017c592" * 2,
        text=text,
    )


def changes(at: datetime) -> Changes:
    key = _file("", 0o600).model_copy(update={"text": None, "secret": "private key", "size": 1704})
    page = "".join(f"<p>line {number}</p>\n" for number in range(60))
    return Changes(
        id="DIF-0000aaaa",
        sandbox_id="SBX-00000001",
        from_snapshot="before",
        to_snapshot="after",
        created_at=at,
        files=[
            FileChange(
                path="/etc/nginx/nginx.conf",
                verb=ChangeVerb.MODIFIED,
                before=_file(OLD_CONF),
                after=_file(NEW_CONF),
            ),
            FileChange(path="/etc/nginx/sites-enabled/site", verb=ChangeVerb.ADDED, after=_file(SITE)),
            FileChange(path="/etc/ssl/private/site.key", verb=ChangeVerb.ADDED, after=key),
            FileChange(path="/srv/www/index page é.html", verb=ChangeVerb.ADDED, after=_file(page)),
            FileChange(
                path="/var/log/dpkg.log",
                verb=ChangeVerb.MODIFIED,
                before=_file("a"),
                after=_file("b"),
                hidden="logs",
            ),
        ],
        packages=[
            PackageChange(name="nginx", verb=ChangeVerb.ADDED, after_version="1.22.1-9", wanted=True),
            PackageChange(name="nginx-common", verb=ChangeVerb.ADDED, after_version="1.22.1-9"),
        ],
        units=[
            UnitChange(
                name="nginx.service",
                verb=ChangeVerb.ADDED,
                after=UnitState(enabled=True, defined=True),
                package="nginx-common",
            )
        ],
        users=[
            UserChange(
                name="deploy",
                verb=ChangeVerb.ADDED,
                after={"uid": "998", "shell": "/usr/sbin/nologin", "home": "/srv/www"},
            )
        ],
        hidden={"logs": 1},
    )


def access_changes(at: datetime) -> Changes:
    """Who may what: a sudo rule, sshd, a key, a cron job, a file that was renamed; a long value."""

    def setting(kind: SettingKind, name: str, path: str, **sides: dict[str, str]) -> SettingChange:
        verb = ChangeVerb.MODIFIED if len(sides) == 2 else ChangeVerb.ADDED
        verb = ChangeVerb.REMOVED if list(sides) == ["before"] else verb
        return SettingChange(kind=kind, name=name, verb=verb, paths=[path], **sides)

    unit = "/etc/systemd/system/shop.service"
    found = changes(at)
    found.packages, found.units, found.users = [], [], []
    found.settings = [
        setting(
            SettingKind.UNIT,
            "shop.service",
            unit,
            after={"Service.ExecStart": "/srv/shop/run " + "--word " * 30 + "END"},
        ),
        setting(
            SettingKind.CRON, "/bin/job", "/etc/cron.d/job", before={"schedule": "0 1 * * *", "user": "root"}
        ),
        setting(
            SettingKind.SUDO,
            "deploy",
            "/etc/sudoers.d/deploy",
            before={"may": "ALL=(root) /usr/bin/systemctl restart nginx"},
            after={"may": "ALL=(root) NOPASSWD: /usr/bin/systemctl restart nginx"},
        ),
        setting(SettingKind.SSHD, "PermitRootLogin", SSHD, before={"value": "no"}, after={"value": "yes"}),
        setting(
            SettingKind.LOGIN_KEY, "root SHA256:abc", KEYS, after={"type": "ssh-ed25519", "comment": HOSTILE}
        ),
        setting(SettingKind.HOSTS, "127.0.1.1", "/etc/hosts", after={"names": "fork"}).model_copy(
            update={"hidden": "identity"}
        ),
    ]
    site = _file(SITE)
    old, new = "/etc/nginx/sites-available/shop.off", "/etc/nginx/sites-available/shop.conf"
    found.files = [
        FileChange(path=new, verb=ChangeVerb.ADDED, after=_file(SITE, 0o640), renamed_from=old),
        FileChange(path=old, verb=ChangeVerb.REMOVED, before=site, renamed_to=new),
    ]
    found.hidden = {}
    return found


def evidence(at: datetime) -> Evidence:
    return Evidence(
        changes_id="DIF-0000aaaa",
        counts={"files": 4, "packages": 2, "units": 1, "users": 1, "hidden": 1},
        rehearsal_run="RUN-00000001",
        repeat_run="RUN-00000002",
        rehearsal=TargetResult(ok=9, changed=9),
        again=TargetResult(ok=9),
        again_changed=0,
        residual=[
            ResidualRow(
                kind="regenerated", noun="file", name="/etc/ssl/certs/site.pem", reason="new key pair"
            )
        ],
        risk=["restarts nginx.service", "opens port 443"],
        dry_run={
            name: TargetEvidence(
                target=name,
                login=f"deploy@10.20.0.{1 + index}:22",
                run_id="RUN-00000003",
                result=TargetResult(ok=9, changed=8),
                differs=differs,
                at=at,
            )
            for index, (name, differs) in enumerate(
                (
                    ("web-01", ["/etc/nginx/nginx.conf is older there", "user ops exists"]),
                    ("web-02", []),
                )
            )
        },
    )


def _host(name: str, address: str, at: datetime, memory_free_mb: int, **more: Any) -> HostView:
    return HostView(
        name=name,
        address=address,
        status="up",
        since=at - timedelta(days=3),
        cpus=16,
        memory_mb=65_536,
        memory_free_mb=memory_free_mb,
        disk_free_mb=420_000,
        templates=["debian-12"],
        virt_type="kvm",
        fork_way="save image",
        libvirt_version="9.0.0",
        qemu_version="7.2.11",
        **more,
    )


def fleet(at: datetime | None = None) -> FleetView:
    """Two hosts, five sandboxes of which two ask, one is paused and one is broken."""
    at = at or now()

    def sandbox(number: int, name: str, agent: str, host: str, phase: Phase, **more: Any) -> Sandbox:
        return Sandbox(
            id=f"SBX-{number:08x}",
            sandbox_name=name,
            agent_id=agent,
            host_name=host,
            phase=phase,
            base_image="debian-12",
            created_at=at - timedelta(hours=2),
            updated_at=at,
            **more,
        )

    def pane(number: int, sandbox_id: str) -> Pane:
        return Pane(
            pane_id=f"%{number}",
            session=sandbox_id,
            sandbox_id=sandbox_id,
            created_at=at - timedelta(hours=1),
            last_output_at=at - timedelta(seconds=3),
        )

    approval = Approval(
        id=APPROVAL_ID,
        sandbox_id="SBX-00000001",
        sandbox_name="nginx-tls",
        playbook_id="PBK-00000001",
        targets=["web-01", "web-02"],
        groups={"web-01": "web", "web-02": "web"},
        reason="Serve the shop over TLS with nginx; certificate and page are in the change.",
        requester_uid=1001,
        requester_name="agent1",
        agent_id="claude-1",
        state=ApprovalState.PENDING,
        evidence=evidence(at),
        digest=DIGEST,
        created_at=at - timedelta(minutes=3),
        updated_at=at,
        expires_at=at + timedelta(minutes=12, seconds=30),
    )
    ask = Ask(
        request_id="ASK-5b11aa00",
        prompt="Drop the old cluster?",
        action_type="irreversible",
        context="pg_dropcluster 13 main\nThe new one is 15/main and answers.",
        sandbox_id="SBX-00000002",
        requester_name="agent2",
        created_at=at - timedelta(minutes=1),
        expires_at=at + timedelta(minutes=4, seconds=40),
    )
    return FleetView(
        seq=41,
        at=at,
        hosts=[
            _host("kvm-01", "", at, 22_528, busy_percent=34, stock=3, sandboxes=2),
            _host("kvm-02", "192.0.2.12", at, 3_900, busy_percent=8, clock_skew_s=0.04, sandboxes=3),
        ],
        sandboxes=[
            sandbox(
                1,
                "nginx-tls",
                "claude-1",
                "kvm-01",
                Phase.RUNNING,
                expires_at=at + timedelta(minutes=48, seconds=30),
                last_command="systemctl reload nginx",
                last_exit=0,
                last_activity_at=at - timedelta(seconds=25),
                commands=41,
                status="working",
                status_at=at - timedelta(minutes=2),
            ),
            sandbox(
                2,
                "pg-upgrade",
                "claude-2",
                "kvm-02",
                Phase.RUNNING,
                expires_at=at + timedelta(hours=2, minutes=1),
                last_command="pg_lsclusters",
                last_activity_at=at - timedelta(seconds=70),
                commands=12,
            ),
            sandbox(
                3,
                "dns-audit",
                "codex-1",
                "kvm-01",
                Phase.RUNNING,
                expires_at=at + timedelta(minutes=12, seconds=30),
                last_command="dig +short",
                last_activity_at=at - timedelta(seconds=40),
                status="testing",
            ),
            sandbox(
                4,
                "tls-renew",
                "script",
                "kvm-02",
                Phase.PAUSED,
                expires_at=at + timedelta(hours=5, minutes=1),
            ),
            sandbox(5, "kernel-cve", "claude-3", "kvm-02", Phase.ERROR, reason="the guest did not boot"),
        ],
        approvals=[approval],
        asks=[ask],
        panes=[pane(3, "SBX-00000001"), pane(4, "SBX-00000002")],
        audit_rows=812,
    )


def runs(at: datetime) -> dict[str, Run]:
    tasks = ["Install nginx", "Site with TLS", "Enable nginx"]

    def run(id: str, kind: RunKind, status: str, **more: Any) -> Run:
        return Run(
            id=id,
            kind=kind,
            state=RunState.SUCCESSFUL,
            targets=["web-01", "web-02"] if kind is RunKind.APPLY else ["fork"],
            results={"fork": TargetResult(ok=9, changed=9 if status == "changed" else 0)},
            events=[
                RunEvent(at=at, host="fork", task=task, task_index=i, status=status)
                for i, task in enumerate(tasks)
            ],
            started_at=at - timedelta(seconds=31),
            ended_at=at,
            **more,
        )

    made = [
        run("RUN-00000001", RunKind.REHEARSAL, "changed"),
        run("RUN-00000002", RunKind.REPEAT, "ok"),
        run("RUN-00000003", RunKind.DRY_RUN, "changed"),
    ]
    made[2].events[1].diff = "--- before\n+++ after\n-listen 80;\n+listen 443 ssl;\n"
    return {one.id: one for one in made}


def audit_rows(at: datetime) -> list[AuditRow]:
    """Oldest first: a create, a command that fails, one that prints, a snapshot, a request, one under way."""
    one = "SBX-00000001"

    def row(seq: int, action: str, step: str, id: str, **data: Any) -> AuditRow:
        return AuditRow(
            seq=seq,
            at=at - timedelta(seconds=60 - seq),
            actor_uid=1001,
            actor_name="agent1",
            role="agent",
            action=action,
            step=step,
            noun=action.partition(".")[0],
            id=id,
            sandbox_id=one,
            data=data,
            hash=f"{seq:064x}",
        )

    return [
        row(1, "sandbox.create", "intent", one, source="debian-12"),
        row(2, "sandbox.create", "outcome", one, intent=1, ok=True, ready_s=1.4),
        row(3, "command.run", "intent", "CMD-00000002", command="nginx -t"),
        row(4, "command.run", "outcome", "CMD-00000002", intent=3, ok=True, exit_code=1),
        row(5, "command.run", "intent", "CMD-00000003", command=f"echo {HOSTILE}"),
        row(6, "command.run", "outcome", "CMD-00000003", intent=5, ok=True, exit_code=0),
        row(7, "snapshot.create", "intent", "SNP-2", name="after"),
        row(8, "snapshot.create", "outcome", "SNP-2", intent=7, ok=False, error="the pool is full"),
        row(9, "approval.request", "note", APPROVAL_ID, targets=["web-01", "web-02"]),
        row(10, "sandbox.pause", "intent", one).model_copy(update={"at": at}),
    ]


def recordings(at: datetime) -> list[Recording]:
    """Two of the first sandbox, newest first; the older one has lost its middle."""
    return [
        Recording(
            id=id,
            sandbox_id="SBX-00000001",
            sandbox_name="nginx-tls",
            pane_id=pane,
            width=60,
            height=6,
            started_at=at - timedelta(hours=hours),
            ended_at=at if is_cut else None,
            is_cut=is_cut,
        )
        for id, pane, hours, is_cut in (("REC-0000000b", "%3", 1, False), ("REC-0000000a", "%1", 2, True))
    ]


def _cast(*events: tuple[float, str, str]) -> str:
    lines = [header_line(60, 6, 0, "nginx-tls", "screen-256color")]
    return "".join([*lines, *(event_line(CastEvent(*event)) for event in events)])


CASTS = {
    "REC-0000000b": _cast(
        (0.0, OUTPUT, "first words\r\n"),
        (0.2, OUTPUT, f"{HOSTILE}\r\n\x1b[32mgreen words\x1b[0m\r\n"),
        *((300.0 * number, OUTPUT, f"\x1b[5;1Hlater {number}") for number in range(1, 31)),
        (9300.0, OUTPUT, "\x1b[5;1Hlast words"),
        (9300.1, MARK, "not recorded for a moment"),
    ),
    "REC-0000000a": _cast((0.0, OUTPUT, "the older one")),
}
