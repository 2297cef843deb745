"""What an apply may touch on a target: what the rehearsal changed, and what the tasks name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle

from backend.changes import LIMITS
from backend.changes.dpkg import LOG
from backend.disks.links import leads_to
from backend.models import Changes, FileKind, guest_path
from backend.playbooks._scope import ITEM, Reference, is_item, turns
from backend.playbooks.builders import is_account_database
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask
from backend.playbooks.secrets import WRITERS
from backend.playbooks.tasks import paths_of, values_of
from backend.targets import Wanted

_PREFIX = "ansible.builtin."
_PACKAGES = b"/var/lib/dpkg/info/"
_SETTINGS = b"/etc/"
_CRONTABS = b"/var/spool/cron/"
_SETTERS = tuple(f"{_PREFIX}{name}" for name in ("file", "known_hosts", "pip"))
_GUARDS = ("creates", "removes")


@dataclass(frozen=True)
class Touched:
    """``wanted`` is to be kept of each target. ``made`` are folders that commands fill; ``named`` are the
    names of packages, units, users and groups, by the noun; ``written`` is as of :func:`written`."""

    wanted: Wanted
    made: frozenset[bytes]
    named: dict[str, set[str]] = field(default_factory=dict)
    written: frozenset[bytes] = frozenset()


def touched(done: Changes, playbook: CheckedPlaybook) -> Touched:
    """``done``: what the rehearsal of ``playbook`` changed."""
    tasks = (*playbook.tasks, *playbook.handlers)
    names = set(LIMITS.whole) - {LOG}
    sums, trees, made, managed = set[bytes](), set[bytes](), set[bytes](), set[bytes]()
    for change in done.files:
        path = guest_path(change.path)
        if not change.hidden or path.startswith(_PACKAGES):
            names.add(path)
        if change.package and not path.startswith(_SETTINGS):
            sums.add(path)
    for task in tasks:
        paths = {_path(path) for path in paths_of(task, playbook)}
        managed |= paths
        if task.opaque:
            made |= paths
            managed |= {_path(path) for key in _GUARDS for path in _literals(task, key)}
        whole = task.args.get("state") == "absent" or task.args.get("recurse")
        if task.module == f"{_PREFIX}file" and whole:
            trees |= paths
    wanted = Wanted(
        frozenset(names | managed),
        frozenset(trees),
        frozenset(sums - managed),  # what a task writes itself counts by its content, whoever brings it too
        frozenset(LIMITS.listed),
    )
    return Touched(wanted, frozenset(made), _named(done, tasks), written(playbook))


def written(playbook: CheckedPlaybook) -> frozenset[bytes]:
    """Where tasks put a content or a link, set whose a file is, or remove what is there; with a final slash
    where a link that stands there is followed, with ``/**`` where all below becomes somebody's. A file that
    is copied to a folder keeps its own name there. What lies behind links of the playbook itself, which it
    may remove again, is told too."""
    found = set[str]()
    for task in (*playbook.tasks, *playbook.handlers):
        if task.module == f"{_PREFIX}file" and task.args.get("state") in ("link", "absent"):
            found.update(paths_of(task, playbook))
        elif task.module in (*WRITERS, *_SETTERS):
            found |= {f"{path}/" for path in paths_of(task, playbook)}
            found |= {f"{path}/" for path in values_of(task, "virtualenv", playbook)}
        if task.args.get("recurse"):
            found |= {f"{path}/**" for path in paths_of(task, playbook)}
        if task.module == f"{_PREFIX}copy":
            sources = {name.rpartition("/")[2] for name in _sources(task)}
            found |= {f"{path}/{name}" for path in paths_of(task, playbook) for name in sources}
    paths, links = frozenset(map(_path, found)), dict(_links(playbook))
    behind = {_behind(path, links) for path in paths}
    return paths | {path for path in behind if not paths & {path, path + b"/"}}


def _behind(path: bytes, links: Mapping[bytes, bytes]) -> bytes:
    name = path.removesuffix(b"**")
    return leads_to(name, links.get) + (b"/**" if name != path else b"")


def _links(playbook: CheckedPlaybook) -> Iterator[tuple[bytes, bytes]]:
    """The links that tasks make, and what each says."""
    for task in (*playbook.tasks, *playbook.handlers):
        if task.module == f"{_PREFIX}file" and task.args.get("state") == "link":
            paths, targets = paths_of(task, playbook), values_of(task, "src", playbook)
            yield from zip(map(_path, paths), cycle(map(_path, targets)), strict=False)


def _sources(task: CheckedTask) -> Iterator[str]:
    """The files of the playbook that a task copies."""
    source = task.args.get("src")
    if isinstance(source, Reference):
        yield from map(str, turns(source, task.loop) if is_item(source) else ())
    elif source:
        yield str(source)


@dataclass(frozen=True)
class Overwritten:
    """Where an apply writes over what a dry run does not show, or shows without secrets: ``paths`` of files,
    and ``accounts`` whose password it sets."""

    paths: frozenset[bytes]
    accounts: frozenset[str]


def overwritten(done: Changes, playbook: CheckedPlaybook) -> Overwritten:
    """The files that tasks write, and settings that the rehearsal of ``playbook`` changed otherwise. Not what
    a package brings, nor the databases of accounts, which hold those of others too."""
    tasks = (*playbook.tasks, *playbook.handlers)
    paths = {_path(path) for task in tasks if task.module in WRITERS for path in paths_of(task, playbook)}
    for change in done.shown():
        path = guest_path(change.path)
        mine = path.startswith((_SETTINGS, _CRONTABS)) and not change.package
        if mine and not is_account_database(change.path):
            paths.add(path)
    passwords = (task for task in tasks if task.args.get("password"))
    return Overwritten(frozenset(paths), frozenset(name for task in passwords for name in _literals(task)))


def _path(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def added_folders(done: Changes) -> frozenset[bytes]:
    """The folders that the rehearsal made, without those inside of others."""
    paths = sorted(
        change.path
        for change in done.shown()
        if change.before is None and change.after is not None and change.after.kind is FileKind.DIRECTORY
    )
    found: list[str] = []
    for path in paths:
        if not found or not path.startswith(f"{found[-1]}/"):
            found.append(path)
    return frozenset(guest_path(path) for path in found)


def _named(done: Changes, tasks: Iterable[CheckedTask]) -> dict[str, set[str]]:
    found = {
        "package": {one.name for one in done.packages},
        "unit": {one.name for one in done.units},
        "user": {one.name for one in done.users},
        "group": {one.name for one in done.groups},
    }
    nouns = {"apt": "package", "dnf": "package", "package": "package", "systemd_service": "unit"}
    for task in tasks:
        module = task.module.removeprefix(_PREFIX)
        noun = nouns.get(module, module)
        if noun in found:
            found[noun].update(_literals(task))
    return found


def _literals(task: CheckedTask, key: str = "name") -> Iterator[str]:
    """What an argument says, each item of a loop by itself; nothing where it names a variable."""
    given = task.args.get(key, "")
    for value in given if isinstance(given, list) else [given]:
        if value == ITEM and isinstance(value, Reference):
            yield from (str(item) for item in task.loop if not isinstance(item, Reference))
        elif value and not isinstance(value, Reference):
            yield str(value)
