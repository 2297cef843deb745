"""What a careful reader looks at first, a sentence each, with the value that makes it one.

Who gains rights comes before what is opened, and that before what runs. A sentence says what is so once the
change is applied. Pure, bounded: of many alike the first are told and the rest counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from backend.approvals.setting_risks import USUAL, Told, of_setting
from backend.models import (
    FROM_GUEST,
    Changes,
    ChangeVerb,
    Evidence,
    FileChange,
    FileKind,
    FileState,
    SettingKind,
    UserChange,
    how_read,
)
from backend.playbooks import CheckedPlaybook, literals_of
from backend.wording import some

TOLD_OF_ALIKE = 5
MAX_CHARS = 300
_FILES: tuple[tuple[str, str], ...] = (
    ("/etc/ssh/", "touches the SSH daemon's configuration"),
    ("/etc/sudoers", "touches sudoers"),
    ("/etc/pam.d/", "touches authentication (PAM)"),
    ("/etc/passwd", "touches the accounts in a way that no list of accounts tells"),
    ("/etc/group", "touches the accounts in a way that no list of accounts tells"),
    ("/etc/shadow", "touches the accounts in a way that no list of accounts tells"),
    ("/etc/subuid", "lets an account be others: gives it ids beside its own"),
    ("/etc/subgid", "lets an account be others: gives it ids beside its own"),
    ("/etc/nftables", "touches the firewall"),
    ("/etc/iptables", "touches the firewall"),
    ("/etc/ufw", "touches the firewall"),
    ("/etc/fstab", "touches mounts"),
    ("/etc/crypttab", "touches encrypted disks"),
    ("/etc/sysctl", "changes kernel settings"),
    ("/etc/apt/sources", "changes where packages come from"),
    ("/etc/network", "touches the network configuration"),
    ("/etc/systemd/network", "touches the network configuration"),
    ("/boot/", "touches the boot files"),
    ("/etc/cron", "schedules commands"),
    ("/var/spool/cron", "schedules commands"),
    ("/etc/ld.so.preload", "loads code into every program"),
    ("/etc/profile", "runs code at every login"),
    ("/etc/ansible/facts.d", "runs code at every apply: Ansible asks it for facts"),
)
"""Of a file whose meaning no setting tells: a comment, a mode, what cannot be parsed."""
_DATABASES = (
    "/var/lib/dpkg", "/var/lib/apt", "/var/lib/rpm", "/usr/lib/sysimage/rpm", "/var/lib/dnf",
    "/usr/lib/sysimage/libdnf5",
)  # fmt: skip
_KEYS_FILE = "/.ssh/authorized_keys"
_SET_ID = 0o6000
_READ_BY_ALL = 0o004
_CAPABILITY = "security.capability"
_ADMINS = frozenset({"sudo", "wheel", "docker", "libvirt", "lxd", "disk", "shadow"})
_REBOOT, _SYSTEMD = "ansible.builtin.reboot", "ansible.builtin.systemd_service"
_ALSO_OF_PACKAGES = (SettingKind.SUDO, SettingKind.LOGIN_KEY, SettingKind.SOURCE)
_ORDER = (
    SettingKind.SUDO,
    SettingKind.LOGIN_KEY,
    SettingKind.SSHD,
    SettingKind.FIREWALL,
    SettingKind.SOURCE,
    SettingKind.SOURCE_KEY,
    SettingKind.APT,
    SettingKind.PRIVATE_KEY,
    SettingKind.CERTIFICATE,
    SettingKind.CRON,
    SettingKind.UNIT,
    SettingKind.DROP_IN,
    SettingKind.TIMER,
    SettingKind.MOUNT,
    SettingKind.MODULE,
    SettingKind.SYSCTL,
    SettingKind.HOSTNAME,
    SettingKind.HOSTS,
    SettingKind.RESOLVER,
    SettingKind.TIME_ZONE,
)


def risks(changes: Changes) -> list[str]:
    """The sentences, each once."""
    settings = [
        one
        for one in changes.settings
        if not one.hidden and (not one.package or one.kind in _ALSO_OF_PACKAGES)
    ]
    by_kind: dict[SettingKind, list[Told]] = defaultdict(list)
    for one in settings:
        by_kind[one.kind] += of_setting(one)
    found = [f"the change was {how_read(changes.read_from)}"] if changes.read_from == FROM_GUEST else []
    found += [*_cut((USUAL, words) for words in _administrators(changes.users)), *_rights(changes.shown())]
    for kind in _ORDER:
        found += _cut(by_kind[kind])
    told = {path for one in settings for path in one.paths}
    found += _files([change for change in changes.listed() if not change.package], told)
    found += _units(changes)
    if removed := [package.name for package in changes.packages if package.verb is ChangeVerb.REMOVED]:
        found.append(f"removes packages: {_named(removed)}")
    return _bounded(found)


def of_playbook(playbook: CheckedPlaybook) -> list[str]:
    """What an apply does while it lasts, and no disk tells afterwards. That handlers restart units is usual;
    what they stop is told, and if they restart the machine."""
    every = (*playbook.tasks, *playbook.handlers)
    found = [*_cut((USUAL, f"restarts the machine: {task.name}") for task in every if task.module == _REBOOT)]
    for state, word, tasks in (("stopped", "stops", every), ("restarted", "restarts", playbook.tasks)):
        found += _cut(
            (USUAL, f"{word} {unit} while it is applied")
            for task in tasks
            if task.module == _SYSTEMD and state in literals_of(task.args.get("state", ""), task, playbook)
            for unit in literals_of(task.args.get("name", ""), task, playbook)
        )
    return _bounded(found)


def of_reading(evidence: Evidence) -> list[str]:
    """What an empty residual cannot tell, of how the sandbox was read."""
    if not evidence.unwritten:
        return []
    return [
        "the sandbox's file systems did not stand still: what was not written yet is missing from its diff, "
        "from a playbook made of that, and from the residual"
    ]


def _bounded(found: Iterable[str]) -> list[str]:
    return [one if len(one) <= MAX_CHARS else one[: MAX_CHARS - 1] + "…" for one in dict.fromkeys(found)]


def _cut(told: Iterable[Told]) -> Iterator[str]:
    """The gravest of them, and how many there are besides."""
    sentences = list(dict.fromkeys(words for _, words in sorted(told, key=lambda one: one[0])))
    yield from sentences[:TOLD_OF_ALIKE]
    more = len(sentences) - TOLD_OF_ALIKE
    if more > 0:
        yield f"and {more} more, as: {sentences[TOLD_OF_ALIKE]}"


def _named(names: list[str]) -> str:
    return some(names, TOLD_OF_ALIKE)


def _administrators(users: Iterable[UserChange]) -> Iterator[str]:
    for user in users:
        if user.after.get("uid") == "0":
            if user.before.get("uid") == "0":
                moved = {*user.before.items()} ^ {*user.after.items()}
                what = ", ".join(sorted({name for name, _ in moved}))
                yield f"changes {user.name}, an administrator (uid 0): {what}"
            else:
                yield f"makes {user.name} an administrator (uid 0)"
            continue
        before, after = (
            _ADMINS.intersection(side.get("groups", "").split(",")) for side in (user.before, user.after)
        )
        if gained := sorted(after - before):
            yield f"makes {user.name} an administrator (group {', '.join(gained)})"


def _rights(files: Iterable[FileChange]) -> Iterator[str]:
    own = [change for change in files if not change.package]
    if gaining := [change.path for change in own if _gives_rights(change.after)]:
        yield f"a program gets more rights than its caller (setuid, capabilities): {_named(gaining)}"
    databases = tuple(f"{folder}/" for folder in _DATABASES)
    if packages := [change.path for change in own if f"{change.path}/".startswith(databases)]:
        yield f"changes what packages run as root, or who may write it: {_named(packages)}"
    if bare := [change.path for change in own if _is_bare_key(change.after)]:
        yield f"anybody can read a private key: {_named(bare)}"


def _gives_rights(state: FileState | None) -> bool:
    return (
        state is not None
        and state.kind is FileKind.FILE
        and bool(state.mode & _SET_ID or _CAPABILITY in state.xattrs)
    )


def _is_bare_key(state: FileState | None) -> bool:
    return state is not None and "private" in state.secret and bool(state.mode & _READ_BY_ALL)


def _files(files: list[FileChange], told: set[str]) -> Iterator[str]:
    for change in files:
        if change.path in told:
            continue
        yield from (words for prefix, words in _FILES if change.path.startswith(prefix))
        if _KEYS_FILE in change.path:
            yield "changes which keys may log in"
    if removed := [change.path for change in files if change.verb is ChangeVerb.REMOVED]:
        yield f"removes files: {_named(removed)}"


def _units(changes: Changes) -> Iterator[str]:
    """What starts with the machine from now on, and what no longer does."""
    for words, names in (
        ("enables", [one.name for one in changes.units if one.after.enabled and not one.before.enabled]),
        ("disables", [one.name for one in changes.units if one.before.enabled and not one.after.enabled]),
        ("masks", [one.name for one in changes.units if one.after.masked and not one.before.masked]),
    ):
        if names:
            yield f"{words} {_named(names)}"
