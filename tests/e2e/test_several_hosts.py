"""One backend, two real hosts: this machine, and one behind an SSH login that is not root there.

What an agent does on the first works on the second; a host that hangs takes its own sandboxes and no others.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import libvirt
import pytest

from backend.client import AsyncFluid, Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import FluidError, NoRoom, SelfApproval, WrongState
from backend.fleet.host import LOOK_TIMEOUT_S
from backend.images import BuiltImage, Images
from backend.models import Approval, ApprovalState, Leftover, Phase, Sandbox
from backend.paths import Paths
from tests.bench.stage import Stage
from tests.bench.terminal import Terminal
from tests.fix_doors import call_as
from tests.fix_hosts import USER, RealHost, real_hosts
from tests.fix_target import NAME as WEB
from tests.fix_target import Login, Target
from tests.leftovers import left_of

FAR = "far-1"
UP_S, LOST_S, FOUND_S = 180.0, 75.0, 75.0
LOOK_S = 0.2
CREATE_S = 40.0  # emulated, beside another guest
CLOCK_S = 3.0
NOISE_MB = 2048  # that others write meanwhile
DECIDED_S = 600.0  # three runs of Ansible, emulated
OPERATOR = "games"  # a user of every machine: whoever asks does not approve
SIZE = {"cpu": 1, "memory_mb": 768, "disk_gb": 12}
SEEN = (
    "nproc; awk '/MemT/ {print $2}' /proc/meminfo; cat /sys/block/vda/size; df -B1 / | awk 'END {print $2}'"
)
ENOUGH_MB, WRITTEN_MB = 250, 8000  # what it may write before the reserve, and what it wants to
PAUSED_S = 180.0
GIB = 1024**3
MARK = b"fetched from outside\n"
NOTE = "before nginx 1.26: ask ops ✓"

FLUID = (sys.executable, "-P", "-m", "backend.cli")
HAND_BACK = b"\x1d"
# Through the proxy that the guest's environment names, which knows the rule.
ASK_OUTSIDE = """from urllib import request
try:
    request.urlopen("http://nobody.invalid/")
except request.HTTPError as refused:
    print(refused.code, refused.read().decode())
"""
FETCH = "from urllib import request; print(request.urlopen('http://{}/').read().decode(), end='')"


class Outside(BaseHTTPRequestHandler):
    """The one service that a sandbox may reach."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(MARK)))
        self.end_headers()
        self.wfile.write(MARK)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def served() -> Iterator[str]:
    """Its ``host:port``, on this machine: an address that no guest takes for itself."""
    with ThreadingHTTPServer(("127.0.0.2", 0), Outside) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.2:{server.server_port}"
        server.shutdown()


@dataclass(frozen=True)
class Two:
    """The backend's operator door, the host behind SSH, and what a sandbox may fetch."""

    stage: Stage
    settings: dict[str, Any]
    far: RealHost
    fluid: Fluid
    image: BuiltImage
    target: Target
    outside: str

    async def until(self, holds: Callable[[], bool], limit_s: float, what: str) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while not await asyncio.to_thread(self._now, holds):
            assert time.monotonic() - began < limit_s, f"{what}: not yet; {self.stage.last_words(9)}"
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - began

    def _now(self, holds: Callable[[], bool]) -> bool:
        try:
            return holds()
        except FluidError:
            return False

    async def create(self, name: str, on: str, **size: int) -> FluidSandbox:
        """A sandbox on that host, because the other one is drained."""
        other = FAR if on == "local" else "local"
        await asyncio.to_thread(self.fluid.drain_host, other)
        try:
            make = partial(self.fluid.create_sandbox, self.source, agent_id="e2e", name=name, **size)
            box = await asyncio.to_thread(make)
        finally:
            await asyncio.to_thread(self.fluid.resume_host, other)
        assert box.noun.host_name == on
        if box.noun.created_by != "stock":
            assert f"not {other}: {other} is draining" in box.noun.placement
        return box

    @property
    def source(self) -> str:
        return self.fluid.sources()[0].name

    def stock(self) -> list[tuple[int, int]]:
        """Of each host: how many are parked, and how many of them lie on the disk."""
        return [(host.stock, host.stock_suspended) for host in self.fluid.hosts()]

    def row(self, id: str) -> Sandbox:
        return next(row for row in self.fluid.fleet().sandboxes if row.id == id)

    def leftovers(self) -> list[Leftover]:
        """All but a template of the size that was asked for here: it ages out by itself."""
        return [one for one in left_of(self.fluid.leftovers()) if one.kind != "template"]

    def volumes(self) -> list[str]:
        """What lies in our pool on the second host."""
        (pool,) = (self.far.folder / "lib" / "images").iterdir()
        return sorted(path.name for path in pool.iterdir())


@pytest.fixture(scope="module")
async def two() -> AsyncIterator[Two]:
    cache = Paths.default()
    image = await Images(cache.images).build(progress=lambda _: None)
    with real_hosts(FAR) as (far,), served() as outside:
        async with Stage(cache.cache, limits={"sandboxes_per_owner": 50}) as stage:
            local = {"name": "local", "uri": stage.libvirt}
            target = await Target.plan(stage.paths.state / "production")
            settings = {
                "limits": {"sandboxes_per_owner": 50},
                "hosts": [local, far.settings],
                "operators": ["root", OPERATOR],
                "server": {"socket_group_operators": OPERATOR},
                "targets": target.settings,
                "egress": {"allow": [outside]},
                "snapshots": {"at_task": True},
            }
            stage.configure(**settings)
            await stage.start()
            two = Two(stage, settings, far, Fluid(stage.paths.operator_socket), image, target, outside)
            both = {"local", FAR}
            await two.until(
                lambda: {host.name for host in two.fluid.hosts() if host.templates} == both,
                UP_S,
                "both hosts have a template",
            )
            yield two
            for box in two.fluid.fleet().sandboxes:
                two.fluid.destroy(box.id)


async def test_a_sandbox_on_the_second_host_does_what_one_on_the_first_does(two: Two) -> None:
    for host, size in (("local", {}), (FAR, SIZE)):
        began = time.monotonic()
        box = await two.create(f"work-{host}", host, **size)
        print(f"{host}: created by {box.noun.created_by} in {time.monotonic() - began:.1f} s")
        assert box.noun.created_by == "fork"
        if host == FAR:
            await asyncio.to_thread(has_the_size, two, box)
            await asyncio.to_thread(a_task_has_its_points, Fluid(two.stage.paths.agent_socket), box)
        await asyncio.to_thread(live, two, box)
    assert two.leftovers() == []
    assert installed(two.far) == []
    assert [name for name in two.volumes() if not name.startswith("image.") and "template" not in name] == []


def has_the_size(two: Two, box: FluidSandbox) -> None:
    """What was asked for is what the guest sees; of the processors, its host's libvirt."""
    cpus, memory_kb, sectors, root = map(int, box.run(SEEN).stdout.split())
    assert cpus == SIZE["cpu"] and 0.85 * SIZE["memory_mb"] < memory_kb / 1024 <= SIZE["memory_mb"]
    assert sectors * 512 == SIZE["disk_gb"] * GIB and 0.95 * SIZE["disk_gb"] * GIB < root < sectors * 512
    with closing(libvirt.open(two.far.root_uri)) as connection:
        shares = connection.lookupByName(box.noun.domain).schedulerParameters()
    assert shares["cpu_shares"] == 100 * SIZE["cpu"]


def a_task_has_its_points(agent: Fluid, box: FluidSandbox) -> None:
    """Its agent says that it begins and that it is done; what it did between can be taken back."""
    agent.say("working", "turn on TLS")
    box.run("echo half >/root/tls; sync")
    agent.say("done", "TLS is on")
    pre, post = (point for point in box.snapshots() if point.auto)
    assert pre.name.startswith("pre-") and pre.note == "a task begins: turn on TLS"
    assert post.name.startswith("post-") and post.note == "the task is done: TLS is on"
    assert (post.parent, pre.has_memory, post.has_memory) == (pre.name, True, True)
    box.restore(pre.name)
    assert box.run("test -e /root/tls").exit_code == 1


def installed(far: RealHost) -> list[str]:
    """What the login left on that host, and every program below the folders that are the host's own, but for
    those that came with its /etc. What it has in memory is of other tests' hosts too, and their users may
    have its number."""
    places = ("/", "/tmp", "/var/tmp", "/home", "/root")
    found = far.exec(["find", *places, "-xdev", "-user", USER, "-print"], check=False).decode().splitlines()
    files = (path for path in far.folder.rglob("*") if path.is_file() and not path.is_symlink())
    programs = (path for path in files if path.stat().st_mode & 0o111)
    return found + [str(path) for path in programs if not came_with(far.etc, path)]


def came_with(etc: Path, path: Path) -> bool:
    return path.is_relative_to(etc) and (Path("/etc") / path.relative_to(etc)).exists()


def live(two: Two, box: FluidSandbox) -> None:
    """Commands, files, a terminal that a person types into, the way out, snapshots, a diff, a branch, off and
    on, and the end."""
    fluid = two.fluid
    assert box.run("hostname; cat /etc/machine-id").stdout.split() == [
        box.noun.sandbox_name,
        box.noun.machine_id,
    ]
    box.write_file("/root/mark", b"one\n")
    pid = box.run("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").stdout.strip()
    outside = box.run(f"python3 -c {shlex.quote(ASK_OUTSIDE)}").stdout
    assert outside.startswith("403 ") and "rule egress." in outside
    fetched = box.run(f"python3 -c {shlex.quote(FETCH.format(two.outside))}")
    assert fetched.stdout.encode() == MARK, fetched.stderr
    fluid.snapshot(box.id, "one", note=NOTE)
    box.write_file("/root/mark", b"two\n")
    box.run("useradd -m ada; sync")
    changes = box.diff("one", "now")
    assert changes.read_from == "disk" and changes.quiesced
    assert "/root/mark" in {change.path for change in changes.shown()}
    assert "ada" in {user.name for user in changes.users}
    box.snapshot("two")
    box.restore("one")
    assert box.read_file("/root/mark") == b"one\n"
    assert box.run(f"kill -0 {pid}").exit_code == 0
    notes = {point.name: point.note for point in box.snapshots() if not point.auto}
    assert notes == {"one": NOTE, "two": ""}
    branch = FluidSandbox(fluid, fluid.branch(box.id, "two", vm_name=f"{box.noun.sandbox_name}-b"))
    assert branch.noun.host_name == box.noun.host_name
    assert branch.read_file("/root/mark") == b"two\n"
    pane = box.open_pane()
    fluid.send_keys(pane.pane_id, text="echo pane-$((40+2))")
    fluid.send_keys(pane.pane_id, key="Enter")
    deadline = time.monotonic() + CREATE_S
    while not any("pane-42" in row for row in fluid.read_pane(pane.pane_id)):
        assert time.monotonic() < deadline
        time.sleep(LOOK_S)
    with Terminal(
        [*FLUID, "sandboxes", "attach", box.noun.sandbox_name], two.stage.environment, 100, 30
    ) as typed:
        typed.until(b"its agent waits", CREATE_S)
        typed.press(b"echo by-hand-$((40+2))\r")
        typed.until(b"by-hand-42", CREATE_S)
        typed.press(HAND_BACK)
        typed.until(b"its agent's again", CREATE_S)
    box.pause()
    box.resume()
    box.delete_snapshot("two")
    box.stop()
    box.start()
    assert box.read_file("/root/mark") == b"one\n"
    box.destroy()
    assert branch.read_file("/root/mark") == b"two\n"
    branch.destroy()


FILES = {
    "/srv/far/release notes.txt": "Release 3.1\n",
    "/srv/far/prüfung-✓.txt": "Grüße aus dem Rechenzentrum\n",
    "/srv/far/{{ price }}.txt": "{{ 7 * 7 }} is not a number here\n",
    "/etc/sysctl.d/60-far.conf": "vm.swappiness = 17\n",
    "/etc/systemd/system/far.service": "[Service]\nType=oneshot\nUser=ada\nExecStart=/bin/du -s /srv/far\n",
    "/etc/systemd/system/far.timer": "[Timer]\nOnCalendar=*:17\n\n[Install]\nWantedBy=timers.target\n",
}
WORK = (
    "useradd --create-home --shell /bin/bash ada && install -d -o ada /srv/far",
    "sysctl -q -p /etc/sysctl.d/60-far.conf && systemctl daemon-reload && systemctl enable --now far.timer",
)


@dataclass
class Steps:
    """How long each step took, printed at the end."""

    began: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.took[step], self.began = round(now - self.began, 1), now


@pytest.mark.full
async def test_a_change_made_on_the_second_host_is_rehearsed_there_and_reaches_production(two: Two) -> None:
    steps = Steps()
    async with two.target.running(two.stage.libvirt, two.image) as production:
        steps.done("boot the target")
        box = await two.create("changes", FAR)
        steps.done("create")
        await asyncio.to_thread(two.fluid.drain_host, "local")  # so that the twin is made on the second host
        try:
            asked = await asyncio.to_thread(work_and_ask, two, box.noun, steps)
        finally:
            await asyncio.to_thread(two.fluid.resume_host, "local")
        async with two.stage.store() as store:
            (twin,), _ = await store.sandboxes.list({"purpose": "rehearsal"}, limit=2)
        assert (twin.host_name, twin.phase) == (FAR, Phase.DESTROYED)
        await asyncio.to_thread(decide, two, asked, steps)
        await must_have_arrived(production)
    await asyncio.to_thread(box.destroy)
    assert two.leftovers() == []
    print(steps.took)


def work_and_ask(two: Two, sandbox: Sandbox, steps: Steps) -> Approval:
    """As an agent: work, diff, playbook, request; the request when its rehearsal has ended."""
    agent = Fluid(two.stage.paths.agent_socket)
    box = FluidSandbox(agent, sandbox)
    box.snapshot("before")
    steps.done("snapshot")
    assert box.run(WORK[0]).exit_code == 0
    for path, content in FILES.items():
        box.write_file(path, content.encode())
    assert box.run(WORK[1]).exit_code == 0
    steps.done("work")
    box.snapshot("after")
    changes = box.diff("before", "after")
    assert changes.read_from == "disk" and changes.quiesced
    assert set(FILES) <= {change.path for change in changes.shown()}
    assert "ada" in {user.name for user in changes.users} and "far.timer" in {
        unit.name for unit in changes.units
    }
    steps.done("snapshot and diff")
    playbook = agent.generate_playbook(box.id, "before", "after")
    assert playbook.notes == []
    steps.done("generate")
    asked = agent.request_approval(
        box.id,
        playbook=playbook.id,
        targets=[WEB],
        reason="an hourly report",
        from_snapshot="before",
        to_snapshot="after",
    )
    asked = until_not(two, asked.id, ApprovalState.REHEARSING)
    assert asked.state is ApprovalState.PENDING, asked.outcome
    evidence = asked.evidence
    assert evidence.residual == [] and evidence.again_changed == 0 and not evidence.unrehearsed
    steps.done("rehearse twice")
    return asked


def decide(two: Two, asked: Approval, steps: Steps) -> None:
    """As another person: a dry run, and yes to just what it showed."""
    assert asked.digest == "", "nothing can be approved before the dry run"
    assert as_another(two, asked.id, "dry-run")[0] < 300
    deadline = time.monotonic() + DECIDED_S
    while WEB not in (asked := two.fluid.approval(asked.id, wait=LOOK_S)).evidence.dry_run:
        assert time.monotonic() < deadline, asked.progress
    assert asked.digest, asked.evidence.dry_run[WEB]
    steps.done("dry run")
    status, told = as_another(two, asked.id, "approve", {"digest": "0" * 64})
    assert (status, told["error_code"]) == (409, "stale_digest")
    with pytest.raises(SelfApproval):
        two.fluid.approve(asked.id, asked.digest)
    assert as_another(two, asked.id, "approve", {"digest": asked.digest})[0] == 200
    asked = two.fluid.wait_approval(asked.id, timeout=DECIDED_S)
    assert asked.state is ApprovalState.APPLIED, asked.outcome
    assert asked.verified_changed == 0
    steps.done("dry run again, apply, verify")


def until_not(two: Two, approval_id: str, state: ApprovalState) -> Approval:
    deadline = time.monotonic() + DECIDED_S
    while (asked := two.fluid.approval(approval_id, wait=10)).state is state:
        assert time.monotonic() < deadline, asked.progress
    return asked


def as_another(two: Two, approval_id: str, verb: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
    """A call at the operator door by somebody who did not ask."""
    account = pwd.getpwnam(OPERATOR)
    path = f"/v1/approvals/{quote(approval_id)}/{verb}"
    door = two.stage.paths.operator_socket
    return call_as(account.pw_uid, door, "POST", path, [account.pw_gid], body)


async def must_have_arrived(production: Login) -> None:
    """Each change as production itself shows it."""
    for path, content in FILES.items():
        assert await production.run(f"cat {shlex.quote(path)}") == content, path
    assert (await production.run("cat /proc/sys/vm/swappiness")).strip() == "17"
    timer = await production.run("systemctl is-enabled far.timer; systemctl is-active far.timer")
    assert timer.split() == ["enabled", "active"]
    assert "/home/ada:/bin/bash" in await production.run("getent passwd ada")
    assert (await production.run("stat -c %U /srv/far")).strip() == "ada"


@pytest.mark.full
@pytest.mark.parametrize("host", ["local", FAR])
async def test_each_host_has_stock_of_its_own_also_on_the_disk_where_memory_is_short(
    two: Two, host: str
) -> None:
    try:
        for stock in ({"per_source": 1}, {"per_source": 1, "memory_reserve_mb": 1 << 30}):
            two.stage.configure(**two.settings, stock={"per_source": 1})
            await two.stage.start()  # a host that is drained keeps no stock
            await two.until(lambda: two.stock() == [(1, 0), (1, 0)], UP_S, "both have stock")
            if "memory_reserve_mb" in stock:
                two.stage.configure(**two.settings, stock=stock)
                await two.stage.start()
                await two.until(lambda: two.stock() == [(1, 1), (1, 1)], UP_S, "it is suspended")
            began = time.monotonic()
            box = await two.create(f"at-once-{host}", host)
            print(f"{host}, {stock}: handed out in {time.monotonic() - began:.2f} s")
            assert box.noun.created_by == "stock"
            name, seconds = (await asyncio.to_thread(box.run, "hostname; date +%s")).stdout.split()
            assert name == f"at-once-{host}" and abs(int(seconds) - time.time()) < CLOCK_S
            await asyncio.to_thread(box.destroy)
    finally:
        two.stage.configure(**two.settings)
        await two.stage.start()
    await two.until(lambda: two.stock() == [(0, 0), (0, 0)], UP_S, "its stock goes again")
    assert two.leftovers() == []


async def test_the_first_hosts_files_do_not_exist_on_the_second(two: Two) -> None:
    near, far = await two.create("near", "local"), await two.create("far", FAR)
    folder = two.stage.paths.domains / "domains" / near.noun.domain
    assert (folder / "disk-0.qcow2").exists()
    assert two.far.exec(["sh", "-c", f"ls {folder} 2>/dev/null | wc -l"]).strip() == b"0"
    assert not (two.stage.paths.domains / "domains" / far.noun.domain).exists()
    assert any(name.startswith(far.noun.domain) for name in two.volumes())
    assert not any(name.startswith(near.noun.domain) for name in two.volumes())
    for box in (near, far):
        await asyncio.to_thread(box.destroy)


async def test_what_only_root_may_fill_of_the_second_hosts_disk_is_not_shown_as_free(two: Two) -> None:
    told = os.statvfs(two.far.folder)
    root_s = (told.f_bfree - told.f_bavail) * told.f_frsize >> 20
    free_mb = {host.name: host.disk_free_mb for host in two.fluid.hosts()}[FAR]
    assert abs(free_mb - (told.f_bavail * told.f_frsize >> 20)) < NOISE_MB, f"root's own are {root_s} MB"


@pytest.mark.full
async def test_who_fills_the_second_hosts_disk_is_paused_there(two: Two) -> None:
    """Its disk is this machine's, too: others write and remove meanwhile."""
    quiet, greedy = await two.create("quiet", FAR), await two.create("greedy", FAR, disk_gb=SIZE["disk_gb"])
    free_mb = {host.name: host.disk_free_mb for host in two.fluid.hosts()}[FAR]
    reserve_mb = free_mb - ENOUGH_MB
    try:
        limits = {**two.settings["limits"], "disk_reserve_mb": reserve_mb}
        two.stage.configure(**{**two.settings, "limits": limits})
        await two.stage.start()
        await two.until(lambda: all(host.status == "up" for host in two.fluid.hosts()), UP_S, "both are up")
        seq = two.fluid.fleet().seq
        write = f"dd if=/dev/zero of=/root/big bs=1M count={WRITTEN_MB}"
        await asyncio.to_thread(greedy.run, f"setsid sh -c '{write}' </dev/null >/dev/null 2>&1 &")
        reason = await paused(two, greedy.id, seq)
        print(reason)
        assert reason.startswith(f"{FAR} has ") and f"{reserve_mb} are kept back" in reason
        assert (two.row(greedy.id).phase, two.row(greedy.id).reason) == (Phase.PAUSED, reason)
        with closing(libvirt.open(two.far.root_uri)) as connection:
            state, _ = connection.lookupByName(greedy.noun.domain).state()
        assert state == libvirt.VIR_DOMAIN_PAUSED
        assert (await asyncio.to_thread(quiet.run, "echo alive")).stdout == "alive\n"
    finally:
        two.stage.configure(**two.settings)
        await two.stage.start()
    await two.until(lambda: all(host.status == "up" for host in two.fluid.hosts()), UP_S, "both are up")
    await asyncio.to_thread(greedy.resume)
    assert (await asyncio.to_thread(greedy.run, "pgrep -c dd || test -s /root/big")).exit_code == 0
    for box in (quiet, greedy):
        await asyncio.to_thread(box.destroy)
    assert two.leftovers() == []


async def paused(two: Two, id: str, after: int) -> str:
    """Why the guard paused it, as its event tells."""
    async with asyncio.timeout(PAUSED_S), AsyncFluid(two.stage.paths.operator_socket) as fluid:
        async for event in fluid.events(after):
            if (event.kind, event.id) == ("sandbox.paused", id):
                return str(event.data["reason"])
    raise AssertionError("the events ended")


@pytest.mark.full
async def test_a_host_that_hangs_takes_its_own_sandboxes_and_no_others(two: Two) -> None:
    far, asked = await two.create("goes", FAR), time.monotonic()
    near = await two.create("stays", "local")
    usual_s = time.monotonic() - asked
    two.far.freeze()
    try:
        began = time.monotonic()
        assert (await asyncio.to_thread(near.run, "true")).exit_code == 0
        extra = await asyncio.to_thread(
            two.fluid.create_sandbox, two.source, agent_id="e2e", name="beside-a-hanging-host"
        )
        took_s = time.monotonic() - began
        assert took_s < LOOK_TIMEOUT_S + 3 * usual_s, f"a create takes {usual_s:.1f} s otherwise"
        assert extra.noun.host_name == "local"
        lost_s = await two.until(lambda: two.row(far.id).phase is Phase.LOST, LOST_S, "its sandbox is lost")
        assert (
            f"{FAR} is silent since" in two.row(far.id).reason and "it was running" in two.row(far.id).reason
        )
        assert two.row(near.id).phase is Phase.RUNNING
        with pytest.raises(WrongState, match="is lost"):
            await asyncio.to_thread(far.run, "true")
        await asyncio.to_thread(two.fluid.drain_host, "local")
        with pytest.raises(NoRoom, match="local is draining"):
            await asyncio.to_thread(two.fluid.create, two.source, agent_id="e2e", name="nowhere")
        await asyncio.to_thread(two.fluid.resume_host, "local")
    finally:
        two.far.thaw()
    found_s = await two.until(lambda: two.row(far.id).phase is Phase.RUNNING, FOUND_S, "it is found again")
    print(f"lost after {lost_s:.1f} s, found {found_s:.1f} s after the host went on")
    assert (await asyncio.to_thread(far.run, "hostname")).stdout.strip() == "goes"
    for box in (near, far, extra):
        await asyncio.to_thread(box.destroy)


@pytest.mark.full
async def test_a_second_host_that_comes_back_without_its_network_has_it_again(two: Two) -> None:
    """As a reboot leaves it: the network is defined there, and off."""

    def comes_back() -> None:
        with closing(libvirt.open(two.far.root_uri)) as connection:
            for network in connection.listAllNetworks():
                network.destroy()
        two.far.stop_libvirtd()
        two.far.start_libvirtd()

    def stands() -> bool:
        with closing(libvirt.open(two.far.root_uri)) as connection:
            return all(network.isActive() for network in connection.listAllNetworks())

    await asyncio.to_thread(comes_back)
    await two.until(stands, UP_S, "the network of its guests is on")
    box = await two.create("after-a-reboot", FAR)
    assert (await asyncio.to_thread(box.run, "hostname")).stdout.strip() == "after-a-reboot"
    await asyncio.to_thread(box.destroy)


@pytest.mark.full
async def test_a_backend_that_dies_finds_both_hosts_again(two: Two) -> None:
    far = await two.create("outlives", FAR)
    await two.stage.start()
    await two.until(lambda: two.row(far.id).phase is Phase.RUNNING, UP_S, "it runs as before")
    await two.until(lambda: all(host.status == "up" for host in two.fluid.hosts()), UP_S, "both are up")
    assert (await asyncio.to_thread(far.run, "hostname")).stdout.strip() == "outlives"
    await asyncio.to_thread(far.destroy)
    assert Path(two.stage.paths.links / f"{FAR}.sock").is_socket()
