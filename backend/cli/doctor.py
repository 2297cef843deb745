"""``fluid doctor``: small checks, each finding with the command that mends it."""

from __future__ import annotations

import asyncio
import grp
import importlib.util
import os
import platform
import pwd
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from backend import config as settings
from backend.cli.common import door, show_json
from backend.cli.hosts import warnings
from backend.cli.options import AsJson, examples, verb_app
from backend.client import Fluid, calls, operator_calls
from backend.errors import BackendDown, FluidError, RoleDenied, Unavailable
from backend.paths import Paths
from backend.places import Here
from backend.system_users import new_user
from backend.text import visible

app = verb_app()

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1024**2
OK, NOTE, BAD = "ok", "note", "bad"
_GLYPHS = {OK: "✓", NOTE: "·", BAD: "✗"}

QEMU = "qemu-system-arm" if platform.machine() == "aarch64" else "qemu-system-x86"
PROGRAMS = {
    f"qemu-system-{platform.machine()}": QEMU,
    "qemu-img": "qemu-utils",
    "libvirtd": "libvirt-daemon",
    "tmux": "tmux",
    "ssh": "openssh-client",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "lz4": "lz4",
    "zstd": "zstd",
}
"""Program → Debian package."""

MODULES = {
    "libvirt": "libvirt-python",
    "asyncssh": "asyncssh",
    "psycopg": "psycopg",
    "ansible_runner": "ansible-runner",
    "uvicorn": "uvicorn",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is a command or a sentence that mends it."""

    level: str
    name: str
    message: str
    remedy: str = ""


def config_file(paths: Paths) -> Iterator[Finding]:
    try:
        settings.load(paths)
    except FluidError as error:
        yield Finding(BAD, "config", error.message, error.remedy)
    else:
        where = paths.config_file if paths.config_file.exists() else "no file, defaults"
        yield Finding(OK, "config", str(where))


def programs(paths: Paths) -> Iterator[Finding]:
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = {name: package for name, package in PROGRAMS.items() if not shutil.which(name, path=search)}
    for name, package in missing.items():
        yield Finding(BAD, "programs", f"{name} is not installed", f"apt-get install {package}")
    if not missing:
        yield Finding(OK, "programs", f"{len(PROGRAMS)} found")


def modules(paths: Paths) -> Iterator[Finding]:
    missing = [package for name, package in MODULES.items() if importlib.util.find_spec(name) is None]
    if missing:
        remedy = f"cd {CHECKOUT} && pip install '.[server]'"
        yield Finding(BAD, "python", f"missing here: {', '.join(missing)}", remedy)
    else:
        yield Finding(OK, "python", f"{len(MODULES)} server modules found")


def kvm(paths: Paths) -> Iterator[Finding]:
    """Only a guest that executed proves KVM: /dev/kvm opens on machines where guests hang. What libvirt's
    QEMU may open and you may not is told by `hosts`."""
    try:
        from backend.hypervisor.probe import DEVICE, kvm_works

        if DEVICE.exists() and not os.access(DEVICE, os.W_OK):
            return

        cache = paths.cache / "kvm-probe.json" if os.access(paths.cache, os.W_OK) else None
        probe = asyncio.run(kvm_works(cache=cache))
    except (FluidError, ImportError, OSError) as error:
        yield Finding(BAD, "kvm", f"cannot be probed: {error}", f"apt-get install {QEMU}")
        return
    if probe.works:
        yield Finding(OK, "kvm", "a guest booted with it")
    else:
        remedy = "guests are emulated, ten times slower; enable (nested) virtualisation for this machine"
        yield Finding(NOTE, "kvm", f"does not work: {probe.reason}", remedy)


def libvirt(paths: Paths) -> Iterator[Finding]:
    """A backend that is not root needs the machine's libvirtd, and its group. Root's starts one of its own,
    whose sandboxes the machine's does not know when it is started later."""
    try:
        here = [host for host in settings.load(paths).hosts if isinstance(host.place(), Here)]
        from backend.hypervisor.private import DEFAULT_SOCKET, remedy_for_users
    except (FluidError, ImportError):  # told by `config_file` and `modules`
        return
    if not here:
        return
    if os.geteuid() == 0:
        if not DEFAULT_SOCKET.exists() and not any(host.uri for host in here):
            words = "the machine's libvirtd is off: Fluid starts its own, whose guests no AppArmor confines"
            remedy = (
                "systemctl enable --now libvirtd, before the first sandbox: it stays on the one that made it"
            )
            yield Finding(NOTE, "libvirt", words, remedy)
        return
    if remedy := remedy_for_users():
        yield Finding(BAD, "libvirt", f"{DEFAULT_SOCKET} does not let you in", remedy)
    else:
        yield Finding(OK, "libvirt", f"{DEFAULT_SOCKET} lets you in")


def _settings(paths: Paths) -> settings.Config | None:
    """None: they cannot be read, which `config_file` tells."""
    try:
        return settings.load(paths)
    except FluidError:
        return None


def disk_space(paths: Paths) -> Iterator[Finding]:
    """Each disk that holds the state, images or sandboxes, once."""
    config = _settings(paths) or settings.Config()
    paths = paths.placed(images=config.storage.images, domains=config.storage.domains)
    reserve_mb = config.limits.disk_reserve_mb
    disks: dict[int, Path] = {}
    for folder in (paths.state, paths.domains, paths.images):
        while not folder.exists():
            folder = folder.parent
        disks.setdefault(folder.stat().st_dev, folder)
    for folder in disks.values():
        free_mb = shutil.disk_usage(folder).free // MIB
        if free_mb < reserve_mb:
            remedy = "destroy sandboxes or images, or lower limits.disk_reserve_mb"
            yield Finding(
                BAD, "disk", f"{free_mb} MB free under {folder}, {reserve_mb} MB are kept back", remedy
            )
        else:
            yield Finding(OK, "disk", f"{free_mb} MB free under {folder}")


def socket_groups(paths: Paths) -> Iterator[Finding]:
    """Whom the settings name must also be in the group of the door, or the kernel keeps them out."""
    if (config := _settings(paths)) is None:
        return
    own = pwd.getpwuid(_backend_uid(paths))
    for names, role, group in (
        (config.operators, "operators", config.server.socket_group_operators),
        (config.agents, "agents", config.server.socket_group_agents),
    ):
        key = f"server.socket_group_{role}"
        try:
            gid = grp.getgrnam(group).gr_gid if group else own.pw_gid
        except KeyError:
            yield Finding(BAD, "doors", f"{key}: there is no group {group}", f"groupadd --system {group}")
            continue
        if not (outside := [name for name in names if _is_outside(name, gid, {own.pw_name, "root"})]):
            continue
        words = f"{', '.join(outside)} of `{role}` cannot open the door: it is for the group {_group(gid)}"
        theirs = next((name[1:] for name in outside if name.startswith("@")), "GROUP")
        remedy = f"usermod -aG {group} USER" if group else f"set {key}: {theirs} in {paths.config_file}"
        yield Finding(BAD, "doors", words, remedy)


def _is_outside(name: str, gid: int, inside: set[str]) -> bool:
    """Whether a user, or any member of ``@group``, is not in the group ``gid``."""
    try:
        if not name.startswith("@"):
            return name not in inside and gid not in os.getgrouplist(name, pwd.getpwnam(name).pw_gid)
        group = grp.getgrnam(name[1:])
    except KeyError:
        return True
    if group.gr_gid == gid:
        return False
    return not group.gr_mem or any(_is_outside(member, gid, inside) for member in group.gr_mem)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _backend_uid(paths: Paths) -> int:
    """Who runs the backend, or would."""
    return paths.state.stat().st_uid if paths.state.exists() else os.geteuid()


def sockets(paths: Paths) -> Iterator[Finding]:
    for path in (paths.agent_socket, paths.operator_socket):
        if not path.is_socket():
            yield Finding(NOTE, "doors", f"{path} is not there", "fluid serve")
        elif stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
            yield Finding(BAD, "doors", f"{path} is open to everybody", f"chmod o= {path}")
        else:
            yield Finding(OK, "doors", f"{path} {path.owner()}:{path.group()}")


def tcp_door(paths: Paths) -> Iterator[Finding]:
    """The door of ``server.listen``: who answers there may be somebody else."""
    config = _settings(paths)
    if config is None or (listen := config.server.listen) is None:
        return
    try:
        where = settings.listen_address(listen)
        with Fluid(f"http://{where}") as fluid:
            name = fluid.json(calls.whoami())["name"]
    except BackendDown:
        yield Finding(NOTE, "tcp door", f"{where} is not there", "fluid serve")
    except RoleDenied as error:
        yield Finding(OK, "tcp door", f"{where} answers, not for you: {error.message}")
    except FluidError as error:
        yield Finding(BAD, "tcp door", error.message, error.remedy)
    else:
        yield Finding(OK, "tcp door", f"{where} knows you as {name}")


def backend(paths: Paths) -> Iterator[Finding]:
    """What the backend says of libvirt, PostgreSQL, tmux and the rest, when it runs."""
    try:
        parts = door().json(calls.health())["components"]
    except RoleDenied as error:
        yield Finding(OK, "backend", f"it answers, not for you: {error.message}")
        return
    except FluidError as error:
        level = NOTE if not Path(paths.operator_socket).is_socket() else BAD
        yield Finding(level, "backend", error.message, error.remedy)
        return
    if not parts:
        yield Finding(OK, "backend", "it answers; of its parts it tells operators")
    for part in parts:
        level = {"ok": OK, "degraded": NOTE}.get(part["status"], BAD)
        yield Finding(level, part["name"], part["message"] or part["status"], part.get("remedy", ""))


def hosts(paths: Paths) -> Iterator[Finding]:
    """What the backend says of each hypervisor; an agent is told nothing of them."""
    try:
        rows = door().json(operator_calls.hosts())["hosts"]
    except FluidError:  # told by `backend`
        return
    for row in rows:
        name = f"host {row['name']}"
        if row["fork_way"]:
            level = NOTE if row["fork_way"] == "cold boot" else OK
            yield Finding(level, name, f"forks by {row['fork_way']}: {row['fork_reason']}")
            how = "on KVM" if row["virt_type"] == "kvm" else "emulated"
            yield Finding(OK, name, f"guests run {how}: {row['virt_reason'] or 'as it is set'}")
        for message, remedy in warnings(row).items():
            yield Finding(NOTE, name, message, remedy)


def runner(paths: Paths) -> Iterator[Finding]:
    """Ansible needs a user of its own: what it runs must not read the CA, the keys, the database. Only a
    backend of root can give it one."""
    if owner := _backend_uid(paths):
        words = f"Ansible runs as the backend itself (uid {owner}) and may read its CA's and targets' keys"
        yield Finding(NOTE, "runner", words, "run the backend as root, which gives Ansible a user of its own")
        return
    if os.geteuid() != 0:
        return
    try:
        from backend.ansible import DEFAULT_USER, runner_user

        user = runner_user(settings.load(paths).ansible.run_as)
    except FluidError as error:
        yield Finding(BAD, "runner", error.message, error.remedy)
        return
    if user is not None and user.pw_uid:
        yield Finding(OK, "runner", f"Ansible runs as {user.pw_name}")
    else:
        remedy = shlex.join(new_user(DEFAULT_USER))
        yield Finding(BAD, "runner", "Ansible runs as root and may read the keys of this backend", remedy)


def database(paths: Paths) -> Iterator[Finding]:
    """PostgreSQL refuses to run as root: root's private cluster needs a user of its own."""
    config = _settings(paths)
    if os.geteuid() != 0 or config is None or config.database is not None:
        return
    try:
        from backend.store.embedded import find_account

        account = find_account(config.embedded.run_as)
    except ImportError:  # told by `modules`
        return
    except FluidError as error:
        yield Finding(BAD, "database", error.message, error.remedy)
        return
    if account is not None:
        yield Finding(OK, "database", f"PostgreSQL runs as {account.name}")


CHECKS: tuple[Callable[[Paths], Iterator[Finding]], ...] = (
    config_file,
    programs,
    modules,
    kvm,
    libvirt,
    disk_space,
    database,
    socket_groups,
    sockets,
    tcp_door,
    backend,
    hosts,
    runner,
)


@app.command(epilog=examples("fluid doctor", "fluid doctor --json"))
def doctor(as_json: AsJson = False) -> None:
    """Look for what is wrong here. Exit 6 when something must be mended."""
    paths = Paths.default()
    found = [finding for check in CHECKS for finding in check(paths)]
    if as_json:
        show_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            mend = f" — {finding.remedy}" if finding.remedy else ""
            print(visible(f"{_GLYPHS[finding.level]} {finding.name}: {finding.message}{mend}"))
    if bad := sum(finding.level == BAD for finding in found):
        raise Unavailable(f"{bad} to mend", remedy="each line above says how")
