"""Packages: only those asked for by name; what they pull in follows by itself and stays marked so."""

from __future__ import annotations

from dataclasses import replace

from backend.changes import dpkg
from backend.models import ChangeVerb, PackageChange, SettingKind
from backend.playbooks.builders.context import Context, Phase, Task, title

CACHE_S = 86_400
INSTALLERS = ("apt-get", "apt", "aptitude", "dnf", "dnf5", "yum", "microdnf")
_SOURCE_FOLDERS = ("/etc/apt/sources.list",)  # and what is below sources.list.d
_UPGRADES = {"upgrade": "safe", "safe-upgrade": "safe", "dist-upgrade": "dist", "full-upgrade": "dist"}
_RPM_ARCHES = frozenset({"noarch", "x86_64", "aarch64", "i686", "ppc64le"})
_HOLD = dpkg.HOLD
_DATABASE = "/var/lib/dpkg/status"


def packages(context: Context) -> list[Task]:
    """Tasks that upgrade, install, remove and hold packages, and what an agent removed of a new one."""
    if any(change.path == _DATABASE for change in context.pending()):
        context.claimed.add(_DATABASE)
        context.note(f"{_DATABASE}: its packages were not told, and no playbook writes it")
    added = [change for change in context.changes.packages if change.verb is ChangeVerb.ADDED]
    named = [one for one in context.changes.packages if one.verb is ChangeVerb.METADATA and one.wanted]
    tasks = _upgrade(context)
    tasks += _install(context, [*_asked_for(context, added), *named])
    tasks += _remove(context)
    tasks = [_of_rpm(task) for task in tasks] if _is_rpm(context) else tasks
    if added:
        tasks += _dropped_defaults(context)
    return tasks + _holds(context)


def _is_rpm(context: Context) -> bool:
    return any(one.arch in _RPM_ARCHES for one in context.changes.packages)


def _of_rpm(task: Task) -> Task:
    """The same asked of dnf, which has other words, and where a removed package leaves no settings."""
    args = {name: value for name, value in task.args.items() if name not in ("cache_valid_time", "purge")}
    if args.pop("upgrade", ""):
        args |= {"name": "*", "state": "latest", "only_upgrade": True}
    for apt, dnf in (("only_upgrade", "update_only"), ("install_recommends", "install_weak_deps")):
        if apt in args:
            args[dnf] = args.pop(apt)
    return replace(task, module="dnf", args=args)


def _upgrade(context: Context) -> list[Task]:
    """The newest that the sources of the day have, of what is there already; one task where all was upgraded.

    A package that was pulled in is not named: apt would mark it as asked for.
    """
    changed = [one for one in context.changes.packages if one.verb is ChangeVerb.MODIFIED]
    pinned = _pinned(context)
    upgraded = [one for one in changed if one.before_version != one.after_version and one.name not in pinned]
    if not upgraded:
        return []
    versions = [f"{one.name} {one.before_version} → {one.after_version}" for one in upgraded]
    remark = "in the sandbox: " + ", ".join(versions)
    upgrading = _UPGRADES | ({"update": "safe"} if _is_rpm(context) else {})
    every = {one.name for one in upgraded}
    whole = [
        (command, upgrading[word])
        for command, call in context.calls(*INSTALLERS)
        for word in call.argv[1:]
        if word in upgrading and every.isdisjoint(call.argv)
    ]
    if whole:
        kinds = {kind for _, kind in whole}
        args: dict[str, object] = {"upgrade": "dist" if "dist" in kinds else "safe", "update_cache": True}
        told = list(dict.fromkeys(command.id for command, _ in whole))
        return [Task(Phase.PACKAGES, "Upgrade all packages", "apt", args, commands=told, remark=remark)]
    names = sorted(one.name for one in upgraded if one.wanted)
    if not names:
        context.note(f"{remark}: pulled in, upgraded by no command that the log shows")
        return []
    args = {"name": one_or_list(names), "state": "latest", "only_upgrade": True, "update_cache": True}
    words = {"install", "upgrade", "--only-upgrade", "update"}
    told = [c.id for c, call in context.calls(*INSTALLERS) if words & set(call.argv)]
    name = title("Upgrade " + _listing(names))
    return [Task(Phase.PACKAGES, name, "apt", args, commands=told, remark=remark)]


def _pinned(context: Context) -> dict[str, str]:
    """Packages whose version the agent named, and got."""
    asked = {
        tuple(word.split("=", 1))
        for _, call in context.calls(*INSTALLERS)
        if "install" in call.argv
        for word in call.argv[1:]
        if "=" in word and not word.startswith("-")
    }
    return {
        one.name: one.after_version
        for one in context.changes.packages
        if (one.name, one.after_version) in asked
    }


def _holds(context: Context) -> list[Task]:
    """What is kept at its version, once it has it; what may change again, before it does."""
    tasks = []
    for change in context.changes.settings:
        if change.kind is not SettingKind.DPKG or change.hidden or not change.name.startswith(_HOLD):
            continue
        name = change.name.removeprefix(_HOLD)
        held = bool(change.after)
        if not held and any(
            one.name == name and one.verb is ChangeVerb.REMOVED for one in context.changes.packages
        ):
            continue
        tasks.append(
            Task(
                Phase.PACKAGES if held else Phase.SOURCES,
                title(f"Hold {name} at its version" if held else f"Let {name} be upgraded again"),
                "dpkg_selections",
                {"name": name, "selection": "hold" if held else "install"},
                commands=[c.id for c, call in context.calls("apt-mark", "dpkg") if name in call.argv]
                or change.commands,
            )
        )
    return tasks


def _asked_for(context: Context, added: list[PackageChange]) -> list[PackageChange]:
    wanted = [change for change in added if change.wanted]
    if wanted or not added:
        return wanted
    named = {
        word for _, call in context.calls(*INSTALLERS) if "install" in call.argv for word in call.argv[1:]
    }
    return [change for change in added if change.name in named] or added


def _install(context: Context, wanted: list[PackageChange]) -> list[Task]:
    bare = _installed_bare(context)
    fresh_sources = any(change.path.startswith(_SOURCE_FOLDERS) for change in context.changes.shown())
    pinned = _pinned(context)
    wanted = [*wanted, *(one for one in context.changes.packages if one.name in pinned and one not in wanted)]
    tasks = []
    for lean in (False, True):
        chosen = sorted((one for one in wanted if (one.name in bare) is lean), key=lambda one: one.name)
        if not chosen:
            continue
        args: dict[str, object] = {
            "name": one_or_list(
                [f"{one.name}={pinned[one.name]}" if one.name in pinned else one.name for one in chosen]
            ),
            "state": "present",
            "update_cache": True,
        }
        if not fresh_sources:
            args["cache_valid_time"] = CACHE_S
        if lean:
            args["install_recommends"] = False
        if any(one.verb is ChangeVerb.MODIFIED for one in chosen):
            args["allow_downgrade"] = True
        tasks.append(
            Task(
                Phase.PACKAGES,
                "Install " + _listing([one.name for one in chosen]),
                "apt",
                args,
                commands=[c.id for c, call in context.calls(*INSTALLERS) if "install" in call.argv],
                remark="in the sandbox: " + ", ".join(f"{one.name} {one.after_version}" for one in chosen),
            )
        )
    return tasks


def _installed_bare(context: Context) -> set[str]:
    """Packages that were installed without what they recommend."""
    return {
        word.partition("=")[0]
        for _, call in context.calls(*INSTALLERS)
        if "install" in call.argv and "--no-install-recommends" in call.argv
        for word in call.argv[1:]
    }


def _remove(context: Context) -> list[Task]:
    """A package whose settings went with it is purged, any other is removed."""
    removed = sorted(one.name for one in context.changes.packages if one.verb is ChangeVerb.REMOVED)
    commands = [
        c.id
        for c, call in context.calls(*INSTALLERS, "dpkg")
        if {"remove", "purge", "autoremove"} & set(call.argv)
    ]
    settings_of = {
        change.package
        for change in context.changes.files
        if change.after is None and change.path.startswith("/etc/")
    }
    tasks = []
    for purge in (False, True):
        chosen = [name for name in removed if (context.undo or name in settings_of) is purge]
        if not chosen:
            continue
        args: dict[str, object] = {"name": one_or_list(chosen), "state": "absent"}
        if purge:
            args["purge"] = True
        words = "Purge " if purge and not context.undo else "Remove "
        tasks.append(Task(Phase.PACKAGES, words + _listing(chosen), "apt", args, commands=commands))
    return tasks


def _dropped_defaults(context: Context) -> list[Task]:
    """What a fresh package brings and the agent took away stands in no diff: its `rm` says it."""
    tasks = []
    for command_id, path in _removals(context):
        wire = path.replace("%", "%25")
        change = context.by_path.get(wire)
        if (change is not None and change.after is not None) or context.path(wire) is None:
            continue
        context.claimed.add(wire)
        tasks.append(
            Task(
                Phase.REMOVED,
                f"Remove {path}",
                "file",
                {"path": path, "state": "absent"},
                notify=[],
                commands=[command_id],
                paths=[wire],
            )
        )
    return tasks


def _removals(context: Context) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for command, call in context.calls("rm", "unlink"):
        words = call.argv[1:] if call.simple else []
        for word in words:
            path = word if word.startswith("/") else f"{call.folder}/{word}" if call.folder else ""
            if path.startswith(("/etc/", "/var/www/", "/usr/share/")) and not word.startswith("-"):
                found[path.rstrip("/")] = command.id
    for program, pattern in (
        ("a2dissite", "/etc/apache2/sites-enabled/{}.conf"),
        ("a2disconf", "/etc/apache2/conf-enabled/{}.conf"),
        ("a2dismod", "/etc/apache2/mods-enabled/{}.load"),
    ):
        for command, call in context.calls(program):
            for word in call.argv[1:] if call.simple else []:
                if not word.startswith("-"):
                    found[pattern.format(word.removesuffix(".conf"))] = command.id
    return [(command_id, path) for path, command_id in found.items()]


def one_or_list(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def _listing(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more packages"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
