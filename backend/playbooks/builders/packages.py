"""Packages: only those asked for by name; what they pull in follows by itself."""

from __future__ import annotations

from backend.models import ChangeVerb, PackageChange
from backend.playbooks.builders.context import Context, Phase, Task

CACHE_S = 86_400
INSTALLERS = ("apt-get", "apt", "aptitude")
_SOURCE_FOLDERS = ("/etc/apt/sources.list",)  # and what is below sources.list.d


def packages(context: Context) -> list[Task]:
    """Tasks that install and remove packages, and remove what an agent removed of a fresh package."""
    added = [change for change in context.changes.packages if change.verb is ChangeVerb.ADDED]
    named = [one for one in context.changes.packages if one.verb is ChangeVerb.METADATA and one.wanted]
    tasks = _install(context, [*_asked_for(context, added), *named])
    tasks += _remove(context)
    for change in context.changes.packages:
        if change.verb is ChangeVerb.MODIFIED and change.wanted:
            context.note(
                f"package {change.name}: upgraded from {change.before_version} to {change.after_version};"
                " a target keeps its own version"
            )
    if added:
        tasks += _dropped_defaults(context)
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
    tasks = []
    for lean in (False, True):
        chosen = sorted((one for one in wanted if (one.name in bare) is lean), key=lambda one: one.name)
        if not chosen:
            continue
        args: dict[str, object] = {
            "name": _one_or_list([one.name for one in chosen]),
            "state": "present",
            "update_cache": True,
        }
        if not fresh_sources:
            args["cache_valid_time"] = CACHE_S
        if lean:
            args["install_recommends"] = False
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
        args: dict[str, object] = {"name": _one_or_list(chosen), "state": "absent"}
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


def _one_or_list(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def _listing(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more packages"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
