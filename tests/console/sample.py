"""A fleet with a bit of everything, and a backend that answers from it and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from backend.errors import BackendDown, FluidError
from backend.models import (
    Approval,
    ApprovalState,
    Ask,
    AskState,
    Changes,
    ChangeVerb,
    Command,
    Decision,
    Event,
    Evidence,
    FileChange,
    FileKind,
    FileState,
    FleetView,
    HostView,
    Identity,
    PackageChange,
    Pane,
    Phase,
    Playbook,
    PlaybookTask,
    ResidualRow,
    Run,
    RunEvent,
    RunKind,
    RunState,
    Sandbox,
    Snapshot,
    TargetEvidence,
    TargetResult,
    UnitChange,
    UnitState,
    UserChange,
    now,
)

HOSTILE = "\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x1b[1;1Hfluid · approved ✓\x9b31m\u202egpj.exe"
DIGEST = "9f3c1de2" * 8
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
                run_id="RUN-00000003",
                result=TargetResult(ok=9, changed=8),
                differs=differs,
                at=at,
            )
            for name, differs in (
                (
                    "web-01",
                    ["/etc/nginx/nginx.conf is older there", "user ops exists"],
                ),
                ("web-02", []),
            )
        },
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
        hosts=[HostView(name="kvm-01", status="up"), HostView(name="kvm-02", status="up")],
        sandboxes=[
            sandbox(
                1,
                "nginx-tls",
                "claude-1",
                "kvm-01",
                Phase.RUNNING,
                expires_at=at + timedelta(minutes=48, seconds=30),
                last_command="systemctl reload nginx",
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


class FakeBackend:
    """Answers from the sample; ``asked`` holds every call that changes something."""

    def __init__(self, view: FleetView | None = None) -> None:
        self.at = now()
        self.view = view or fleet(self.at)
        self.asked: list[tuple[Any, ...]] = []
        self.down = False
        self.stream: asyncio.Queue[Event] = asyncio.Queue()
        self.panes: dict[str, list[str]] = {
            "%3": [
                "root@nginx-tls:~# nginx -t",
                "nginx: the configuration file /etc/nginx/nginx.conf syntax is \x1b[32mok\x1b[0m",
                "root@nginx-tls:~# systemctl reload nginx",
                HOSTILE,
                "root@nginx-tls:~# ",
            ],
            "%4": ["root@pg-upgrade:~# pg_lsclusters", "13  main 5432 down", "15  main 5433 online"],
        }
        self.painted = asyncio.Event()
        self._runs = runs(self.at)

    def _here(self) -> None:
        if self.down:
            raise BackendDown("no backend listens at operator.sock", remedy="start it: fluid serve")

    async def tell(self, kind: str, id: str, **data: Any) -> None:
        self.view.seq += 1
        await self.stream.put(
            Event(seq=self.view.seq, at=now(), kind=kind, noun=kind.partition(".")[0], id=id, data=data)
        )

    def approve_state(self, state: ApprovalState, **more: Any) -> Approval:
        self.view.approvals[0] = self.view.approvals[0].model_copy(update={"state": state, **more})
        return self.view.approvals[0]

    async def fleet(self) -> FleetView:
        self._here()
        return self.view.model_copy(deep=True)

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        self.asked.append(("events", after))
        while True:
            yield await self.stream.get()

    async def whoami(self) -> Identity:
        self._here()
        return Identity(uid=1000, name="ops")

    async def approval(self, id: str) -> Approval:
        self._here()
        return self.view.approvals[0].model_copy(deep=True)

    async def dry_run(self, approval_id: str) -> Approval:
        self.asked.append(("dry_run", approval_id))
        return await self.approval(approval_id)

    async def approve(self, approval_id: str, digest: str, comment: str = "") -> Approval:
        self.asked.append(("approve", approval_id, digest))
        at = now()
        self._runs[APPLY_RUN] = Run(
            id=APPLY_RUN,
            kind=RunKind.APPLY,
            state=RunState.RUNNING,
            targets=["web-01", "web-02"],
            events=[RunEvent(at=at, host="web-01", task="Install nginx", task_index=0, status="changed")],
            started_at=at,
        )
        decision = Decision(verb="approve", uid=1000, name="ops", at=at, digest=digest)
        approval = self.approve_state(
            ApprovalState.APPLYING, apply_run=APPLY_RUN, decisions=[decision], progress="task 1 of 3"
        )
        await self.tell("approval.changed", approval_id, state="applying")
        return approval

    async def reject(self, approval_id: str, reason: str, changes_requested: bool = False) -> Approval:
        self.asked.append(("reject", approval_id, reason, changes_requested))
        approval = self.approve_state(ApprovalState.REJECTED, outcome=reason)
        await self.tell("approval.changed", approval_id, state="rejected")
        return approval

    async def answer(self, request_id: str, approved: bool, comment: str = "") -> Ask:
        self.asked.append(("answer", request_id, approved, comment))
        status = AskState.APPROVED if approved else AskState.REJECTED
        self.view.asks[0] = self.view.asks[0].model_copy(update={"status": status, "comment": comment})
        return self.view.asks[0]

    async def run_of(self, id: str) -> Run:
        self._here()
        return self._runs[id].model_copy(deep=True)

    async def finish_apply(self) -> None:
        """The apply ends well on both targets."""
        run = self._runs[APPLY_RUN]
        run.state, run.ended_at = RunState.SUCCESSFUL, now()
        run.results = {name: TargetResult(ok=9, changed=8) for name in run.targets}
        self.approve_state(
            ApprovalState.APPLIED, verified_changed=0, progress="", outcome="applied to 2 targets"
        )
        await self.tell("approval.changed", APPROVAL_ID, state="applied")

    async def cancel_run(self, id: str) -> Run:
        self.asked.append(("cancel_run", id))
        return self._runs[id]

    async def changes(self, id: str) -> Changes:
        self._here()
        return changes(self.at)

    async def diff(self, id: str, from_: str, to: str = "now") -> Changes:
        self.asked.append(("diff", id, from_, to))
        return changes(self.at).model_copy(update={"from_snapshot": from_, "to_snapshot": to})

    async def playbook(self, id: str) -> Playbook:
        self._here()
        names = [("Install nginx", "apt"), ("Site with TLS", "copy"), ("Enable nginx", "systemd_service")]
        return Playbook(
            id=id,
            name="nginx-tls",
            sandbox_id="SBX-00000001",
            yaml=YAML,
            tasks=[PlaybookTask(name=name, module=f"ansible.builtin.{module}") for name, module in names],
            notes=["/var/log is not managed"],
            digest="aa" * 32,
            created_at=self.at,
        )

    async def commands(self, id: str) -> list[Command]:
        def command(number: int, words: str, exit_code: int, stdout: str = "", stderr: str = "") -> Command:
            return Command(
                id=f"CMD-{number:08x}",
                sandbox_id=id,
                command=words,
                exit_code=exit_code,
                stdout=stdout,
                stderr=stderr,
                started_at=self.at,
                duration_ms=420,
            )

        return [
            command(1, "apt-get install -y nginx", 0, "Setting up nginx (1.22.1-9) ...\n"),
            command(2, "nginx -t", 1, stderr="nginx: [emerg] unknown directive\n"),
            command(3, f"echo {HOSTILE}", 0, HOSTILE),
        ]

    async def snapshots(self, id: str) -> list[Snapshot]:
        return [
            Snapshot(id=f"SNP-{i}", sandbox_id=id, name=name, created_at=self.at + timedelta(seconds=i))
            for i, name in enumerate(("clean", "before", "after"))
        ]

    async def pane_stream(self, pane_id: str) -> AsyncIterator[list[str]]:
        self.asked.append(("pane_stream", pane_id))
        while True:
            yield list(self.panes[pane_id])
            self.painted.clear()
            await self.painted.wait()

    async def read_pane(self, pane_id: str, last_n_lines: int = 0) -> list[str]:
        return [f"history line {number}" for number in range(200)] + self.panes[pane_id]

    async def _sandbox(self, verb: str, id: str, *more: Any) -> Sandbox:
        self.asked.append((verb, id, *more))
        found = next((one for one in self.view.sandboxes if one.id == id), None)
        if found is None:
            raise FluidError(f"no sandbox {id}")
        return found

    async def pause(self, id: str) -> Sandbox:
        return await self._sandbox("pause", id)

    async def resume(self, id: str) -> Sandbox:
        return await self._sandbox("resume", id)

    async def stop(self, id: str) -> Sandbox:
        return await self._sandbox("stop", id)

    async def destroy(self, id: str) -> None:
        await self._sandbox("destroy", id)

    async def extend(self, id: str, seconds: int) -> Sandbox:
        return await self._sandbox("extend", id, seconds)

    async def snapshot(self, id: str, name: str) -> Snapshot:
        await self._sandbox("snapshot", id, name)
        return Snapshot(id="SNP-9", sandbox_id=id, name=name, created_at=now())
