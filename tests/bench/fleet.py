"""Machines: how soon root's first command works, by each way and step by step, what a machine costs, and how
soon a backend that was killed agrees with a thousand of them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import socket
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

from backend.client import Fluid
from backend.errors import FluidError
from backend.fleet import guest_image
from backend.guests import CertificateAuthority, Guest, GuestConnections
from backend.hypervisor import Hypervisor, make_identity
from backend.images import BuiltImage, Images
from backend.models import Sandbox, Snapshot
from backend.paths import Paths
from backend.steps import operation, reached
from tests.bench.changes import GROUPS, PLANT, PLANT_S
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage
from tests.processes import memory_mb, qemu_of

COLD, REPEATS, AT_ONCE, ROUNDS, PARKED = 3, 10, 10, 3, 2
WAIT_S = 300.0
LOOK_S = 0.2
READY_S = 120.0
KNOCK_S, KNOCK_LIMIT_S = 0.1, 0.2
LONG_S = (0.2, 0.4)  # waits for an answer that are counted: one knock was missed, and the bar
REFUSED_PORT = 9
SMALL_MB = 512
NAMES, PLANT_FOLDERS = 30_000, 400
PREFIX = "fluid-bench"
SANDBOXES, RESTARTS = 1000, 7
LIMITS = {"sandboxes_per_owner": 50}
SUSPENDED = 5
STOCK, MORE_STOCK = {"per_source": PARKED}, {"per_source": SUSPENDED}
MORE_THAN_THERE_IS_MB = 1 << 30


async def measure() -> list[Figure]:
    cache = Paths.default()
    image = await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache, limits=LIMITS) as stage:
        await stage.start()
        fluid = Fluid(stage.paths.operator_socket)
        await asyncio.to_thread(_until, lambda: any(one.template_ready for one in fluid.sources()))
        virt = "emulated" if fluid.hosts()[0].virt_type == "qemu" else "KVM"
        booted = [await _cold(stage, image, fluid.hosts()[0].virt_type, number) for number in range(COLD)]
        cold = [seconds for seconds, _ in booted]
        how = f"tuned boot → root's first command (steps: {_by_step([steps for _, steps in booted])}); {virt}"
        figures = [figure("create: cold boot", cold, "s", how)]
        figures += await asyncio.to_thread(_forks, stage, image.name, virt, min(cold))
        figures += await asyncio.to_thread(_snapshots, fluid, image.name, virt)
        stage.configure(limits=LIMITS, stock=STOCK)
        await stage.start()
        figures += await asyncio.to_thread(_stock, fluid, image.name, virt, min(cold))
        figures += await _suspended(stage, fluid, image.name, virt)
    async with Stage() as stage:
        empty = await _restarts(stage)
        await stage.fill(SANDBOXES)
        return figures + _reconcile(empty, await _restarts(stage))


async def _cold(
    stage: Stage, image: BuiltImage, virt_type: str, number: int
) -> tuple[float, dict[str, float]]:
    """The same image, booted from its disk on the same network: the seconds that it took, and its steps."""
    host = Hypervisor(
        stage.libvirt, folder=stage.paths.domains / "cold", virt_type=virt_type, prefix=f"{PREFIX}-{number}"
    )
    await host.open()
    authority = CertificateAuthority(stage.paths.secrets)
    connections = GuestConnections(authority)
    name = f"{PREFIX}-{number}-cold"
    try:
        network = Fluid(stage.paths.operator_socket).fleet().hosts[0]
        spec = await asyncio.to_thread(_network_of, stage, network.uri)
        identity = await make_identity(
            name, address=f"{spec[1]}.{250 + number}", prefix=24, ca_public=authority.public_key
        )
        guest = Guest(name=name, address=identity.address, host_key_public=identity.host_key_public)
        began = perf_counter()
        with operation("cold boot") as trail:
            await host.cold_boot(
                guest_image(image), identity, spec[0], cpu=2, memory_mb=1024, metadata={"role": "bench"}
            )
            await connections.ready(guest, timeout_s=READY_S)
            reached("login")
        return perf_counter() - began, trail.steps
    finally:
        await connections.close()
        await host.destroy(name)
        await host.close()


def _network_of(stage: Stage, uri: str) -> tuple[str, str]:
    """The backend's network: its name, and the first three numbers of its addresses."""
    import libvirt

    connection = libvirt.open(uri)
    try:
        (network,) = [one for one in connection.listAllNetworks() if one.name().endswith("-guests")]
    finally:
        connection.close()
    cidr = (stage.paths.state / "networks" / "local").read_text().strip()
    return network.name(), cidr.rpartition(".")[0]


def _forks(stage: Stage, source: str, virt: str, cold_s: float) -> list[Figure]:
    fluid = Fluid(stage.paths.operator_socket)
    forks, destroys, cost, disk, steps, ways, ids = [], [], [], [], [], [], []
    for number in range(REPEATS):
        took, box = _create(fluid, source, f"fork-{number}")
        forks.append(took)
        ways.append(box.created_by)
        ids.append(box.id)
        steps.append(fluid.sandbox(box.id).steps)
        cost.append(_resident_mb(box))
        disk.append(_disk_mb(stage.paths.domains / "domains" / box.domain))
        destroys.append(_timed(lambda box=box: fluid.destroy(box.id)))
    made_by = ", ".join(f"{ways.count(way)} by {way}" for way in dict.fromkeys(ways))
    how = f"until root's first command worked, {made_by} (steps: {_by_step(steps)}); {virt}"
    return [
        figure("create: fork", forks, "s", how, Bar(p50=2.5)),
        figure("create: fork against cold boot", [cold_s / one for one in forks], "times faster",
               f"against the fastest of {COLD} cold boots in this run; {virt}", Bar(p50=5, least=True)),
        _at_once(fluid, source, virt, statistics.median(forks)),
        figure("destroy", destroys, "s",
               f"nothing is left ({_audited(fluid, 'sandbox.destroy', ids)}); {virt}"),
        figure("memory of a fork", cost, "MB", f"VmRSS of QEMU, 1 GiB guest; {virt}"),
        figure("disk of a fork", disk, "MB", f"blocks of all files of its own once it is ready; {virt}"),
    ]  # fmt: skip


def _at_once(fluid: Fluid, source: str, virt: str, one_s: float) -> Figure:
    """Several rounds; ``one_s``: what a single one takes."""
    took, turns, steps = [], [], []
    for _ in range(ROUNDS):
        began = perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            made = list(pool.map(lambda number: _create(fluid, source, f"many-{number}"), range(AT_ONCE)))
        took.append(perf_counter() - began)
        for _, box in made:
            row = fluid.sandbox(box.id)
            turns.append(row.ready_s or 0.0)
            steps.append(row.steps)
            fluid.destroy(box.id)
    turn = f"each {statistics.median(turns):.2f} s once its turn has come"
    how = f"until the last is ready, {turn} (steps: {_by_step(steps)}); {virt}"
    bound = 1.3 * AT_ONCE / (os.cpu_count() or 1) * one_s
    return figure(f"create: {AT_ONCE} at once", took, "s", how, Bar(p50=bound))


def _by_step(trails: Sequence[dict[str, float]]) -> str:
    """``overlay 0.02, memory 0.71 …``: the median seconds from one step to the next, 5 ms at least."""
    spans: dict[str, list[float]] = {}
    for trail in trails:
        reached = sorted(trail.items(), key=lambda step: step[1])
        for (_, before), (name, at) in itertools.pairwise([("", 0.0), *reached]):
            spans.setdefault(name, []).append(at - before)
    medians = {name: statistics.median(seen) for name, seen in spans.items()}
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items() if seconds >= 0.005)


def _audited(fluid: Fluid, action: str, sandbox_ids: Sequence[str]) -> str:
    """As :func:`_by_step`, from what the audit holds of an operation."""
    rows = [row for id in sandbox_ids for row in fluid.audit(sandbox_id=id, action=action)]
    return _by_step([row.data["steps"] for row in rows if "steps" in row.data])


def _snapshots(fluid: Fluid, source: str, virt: str) -> list[Figure]:
    names = [f"p{number}" for number in range(REPEATS)]
    small = fluid.create(source, agent_id="bench", name="small", memory_mb=SMALL_MB)
    _, small_stood = _points(fluid, small, names)
    fluid.destroy(small.id)
    _, box = _create(fluid, source, "points")
    planted, first = _planted(fluid, box)
    taken, stood = _points(fluid, box, names)
    restored = [_timed(lambda name=name: fluid.restore(box.id, name)) for name in names]
    branched, waits, steps = [], list[list[float]](), []
    for number in range(REPEATS):
        with _knocking(box.ip_address or "") as answers:
            began = perf_counter()
            other = fluid.branch(box.id, f"p{number}", vm_name=f"branch-{number}")
            branched.append(perf_counter() - began)
        waits.append([later - earlier for earlier, later in itertools.pairwise(answers)])
        steps.append(fluid.sandbox(other.id).steps)
        fluid.destroy(other.id)
    fluid.destroy(box.id)
    taking, restoring = (_audited(fluid, f"snapshot.{verb}", [box.id]) for verb in ("create", "restore"))
    names_in_all = f"{first.files:,} names, {planted:,} of them files that were made before"
    files = f"memory, disk, manifest of {names_in_all} ({taking}); {virt}"
    parted = f"a new machine from a point, the first goes on ({_by_step(steps)}); {virt}"
    knocked = f"the longest wait of a branch for an answer of the first, asked every 100 ms: {_record(waits)}"
    still = f"{SMALL_MB} MB guest; {virt}"
    return [
        figure("snapshot and manifest", taken, "s", files, Bar(p50=1.5)),
        figure("snapshot: the guest stands still", small_stood, "s", still, Bar(p50=0.5)),
        figure("snapshot: a larger guest stands still", stood, "s", f"1 GiB guest; {virt}"),
        figure("restore", restored, "s", f"until root's command works again ({restoring}); {virt}",
               Bar(p50=5)),
        figure("branch", branched, "s", parted, Bar(p50=5)),
        figure("branch: the first is silent", [max(one) for one in waits], "s", f"{knocked}; {virt}",
               Bar(p50=0.4)),
    ]  # fmt: skip


def _planted(fluid: Fluid, box: Sandbox) -> tuple[int, Snapshot]:
    """Make so many files in a guest that its manifest has :data:`NAMES`: how many those are, and a point
    after them, so that none that is measured has them to read."""
    there = fluid.snapshot(box.id, "fresh").files
    files = NAMES - there - PLANT_FOLDERS - GROUPS
    program = PLANT.format(files=files, folders=PLANT_FOLDERS, groups=GROUPS)
    done = fluid.run(box.id, f"python3 -c '{program}'", timeout=PLANT_S)
    assert done.exit_code == 0, done.stderr
    point = fluid.snapshot(box.id, "planted")
    assert abs(point.files - NAMES) < NAMES // 100, point.files
    return files, point


def _record(waits: Sequence[Sequence[float]]) -> str:
    """``412 answers in all, waits: 3 of more than 0.2 s, 1 of more than 0.4 s``: of all branches, each with
    its waits between its begin, the answers and its end."""
    answers = sum(len(one) - 1 for one in waits)
    counts = [sum(wait > long_s for one in waits for wait in one) for long_s in LONG_S]
    over = ", ".join(f"{count} of more than {long_s} s" for count, long_s in zip(counts, LONG_S, strict=True))
    return f"{answers} answers in all, waits: {over}"


def _points(fluid: Fluid, box: Sandbox, names: list[str]) -> tuple[list[float], list[float]]:
    """Seconds that each snapshot took, and that the guest stood still for it. The host has nothing left to
    write of what was before."""
    os.sync()
    taken = [_timed(lambda name=name: fluid.snapshot(box.id, name)) for name in names]
    points = [point for point in fluid.snapshots(box.id) if point.name in names]
    return taken, [float(json.loads(point.meta_json)["stood_still_s"]) for point in points]


@contextmanager
def _knocking(address: str) -> Iterator[list[float]]:
    """Knock every 100 ms at a port where nothing listens: a refusal is its answer. When each came, the
    block's begin and end among them: silence up to there counts."""
    answers, over = [perf_counter()], threading.Event()

    def knock() -> None:
        while not over.wait(KNOCK_S):
            with socket.socket() as tcp:
                tcp.settimeout(KNOCK_LIMIT_S)
                if tcp.connect_ex((address, REFUSED_PORT)) == errno.ECONNREFUSED:
                    answers.append(perf_counter())

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
        answers.append(perf_counter())


def _stock(fluid: Fluid, source: str, virt: str, cold_s: float) -> list[Figure]:
    took, steps = [], []
    for number in range(REPEATS):
        _until(lambda: fluid.hosts()[0].stock >= PARKED)
        seconds, box = _create(fluid, source, f"stock-{number}")
        assert box.created_by == "stock", box.created_by
        took.append(seconds)
        steps.append(fluid.sandbox(box.id).steps)
        fluid.destroy(box.id)
    how = f"a fork parked in memory, its login kept open ({_by_step(steps)}); {virt}"
    return [
        figure("create: from stock", took, "s", how, Bar(p50=0.7)),
        figure("create: stock against cold boot", [cold_s / one for one in took], "times faster",
               f"against the fastest of {COLD} cold boots in this run; {virt}", Bar(p50=15, least=True)),
    ]  # fmt: skip


async def _suspended(stage: Stage, fluid: Fluid, source: str, virt: str) -> list[Figure]:
    """Memory falls short: what is parked goes to the disk, and is handed out from there."""
    for stock in (MORE_STOCK, MORE_STOCK | {"memory_reserve_mb": MORE_THAN_THERE_IS_MB}):
        stage.configure(limits=LIMITS, stock=stock)
        await stage.start()
        await asyncio.to_thread(_until, lambda: fluid.hosts()[0].stock == SUSPENDED)
    await asyncio.to_thread(_until, lambda: fluid.hosts()[0].stock_suspended == SUSPENDED)
    took, steps = [], []
    for number in range(SUSPENDED):
        seconds, box = await asyncio.to_thread(_create, fluid, source, f"suspended-{number}")
        assert box.created_by == "stock", box.created_by
        took.append(seconds)
        steps.append(fluid.sandbox(box.id).steps)
        await asyncio.to_thread(fluid.destroy, box.id)
    how = f"a fork whose memory lies on the disk, logged in to anew ({_by_step(steps)}); {virt}"
    return [figure("create: from stock on the disk", took, "s", how)]


def _create(fluid: Fluid, source: str, name: str) -> tuple[float, Sandbox]:
    began = perf_counter()
    box = fluid.create(source, agent_id="bench", name=name)
    return perf_counter() - began, box


def _timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def _until(seen: Callable[[], bool]) -> None:
    deadline = perf_counter() + WAIT_S
    while True:
        try:
            if seen():
                return
        except FluidError:
            pass
        assert perf_counter() < deadline, "it did not come about in five minutes"
        sleep(LOOK_S)


def _disk_mb(folder: Path) -> float:
    """What its files occupy; layers that it shares with others are not among them."""
    return sum(file.stat().st_blocks for file in folder.iterdir()) * 512 / (1 << 20)


def _resident_mb(box: Sandbox) -> float:
    """What the sandbox's QEMU holds in memory now."""
    (pid,) = qemu_of(box.domain)
    return memory_mb(pid)


async def _restarts(stage: Stage) -> list[float]:
    """Seconds from the start of a backend to open doors, its predecessor killed. The last one stays."""
    return [await stage.start() for _ in range(RESTARTS + 1)][1:]


def _reconcile(empty: list[float], full: list[float]) -> list[Figure]:
    idle = statistics.median(empty)
    how = (
        f"start after kill -9 until the doors are open, {SANDBOXES:,} rows that agree with as many domains in"
        f" libvirt, less the median of a start with none ({idle:.2f} s)"
    )
    whole = f"start after kill -9 until the doors are open, Python's start included, {SANDBOXES:,} sandboxes"
    return [
        figure("reconcile after kill -9", [one - idle for one in full], "s", how, Bar(p50=2.0)),
        figure("backend: kill -9 to open doors", full, "s", whole),
    ]
