"""Directories, files and links: what is left once packages, users, keys and units are explained."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from backend.changes.noise import Attribute, differing
from backend.models import ChangeVerb, FileChange, FileKind, FileState, guest_path
from backend.playbooks._scope import ITEM, PAIR, Reference
from backend.playbooks._shell import SimpleCommand
from backend.playbooks._validate import validator
from backend.playbooks.builders.certificates import CREDENTIALS
from backend.playbooks.builders.context import Context, Phase, Task, gone, link_target, owned, title
from backend.playbooks.builders.lines import MAX_EDITS, Edit, account_of, edits, header_of, is_shared
from backend.playbooks.builders.packages import INSTALLERS
from backend.playbooks.builders.rights import rights
from backend.playbooks.builders.services import notified
from backend.playbooks.builders.units import unit_handlers
from backend.playbooks.builders.wording import named, remark

_SOURCES = ("/etc/apt/", "/usr/share/keyrings/")
_INSTALL_WORDS = (*INSTALLERS, "dpkg", "apt-mark")
_VAULT = b"$ANSIBLE_VAULT"
_LOOP_FROM = 3  # directories alike become one task
_NAMED = 3  # names of one file in a note
_TREE_FROM = 5  # and so many files of a new folder


def files(context: Context) -> list[Task]:
    """One task per path, in the order of their paths; notes for what Ansible cannot express."""
    tasks: list[Task] = []
    turned = _turned(context)
    for change in context.pending():
        if _explained(context, change) or any(f"{change.path}/".startswith(f"{one}/") for one in turned):
            continue
        path = context.path(change.path)
        if path is None:
            continue
        if _is_only_named_otherwise(context, change):
            continue
        tasks += [*_unlinked(context, change, path), *rights(context, change, path)]
        if edited := _edited(context, change, path):
            tasks += edited
            continue
        task = _removed(context, change, path) if gone(change) else _present(context, change, path)
        if task is not None:
            tasks.append(_finished(context, task, change, path))
    return _without_nested_removals(_merged(_gathered(context, _apart(tasks))))


def _turned(context: Context) -> list[str]:
    """The paths where a directory took a file's place or lost its own: nothing that can run twice does it."""
    found = []
    for change in context.pending():
        kinds = [state.kind for state in (change.before, change.after) if state is not None]
        folders = [kind is FileKind.DIRECTORY for kind in kinds]
        if len(kinds) == 2 and any(folders) and not all(folders) and kinds[0] is not FileKind.LINK:
            found.append(change.path)
            context.note(
                f"{change.path}: a {kinds[0].value} became a {kinds[1].value}: remove it there first"
            )
    return found


def _is_only_named_otherwise(context: Context, change: FileChange) -> bool:
    """Whether nothing differs but which names are one file. No task makes several names one file or parts
    them, and a note says it."""
    before, after = change.before, change.after
    if after is None:
        return False
    only = differing(change) == Attribute.NAMES
    if after.same_file and (only or change.verb is not ChangeVerb.METADATA):
        names = sorted((change.path, *after.same_file))
        shown = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
        context.note(f"{shown}: one file under {after.links} names, which a playbook makes a file each")
    elif only and before is not None:
        partners = [context.by_path.get(name) for name in before.same_file]
        left = [one.path for one in partners if one and one.after and one.verb is ChangeVerb.METADATA]
        if left:
            names = sorted((change.path, *left))
            context.note(f"{', '.join(names[:_NAMED])}: were one file, which a playbook does not part")
    return only


def _unlinked(context: Context, change: FileChange, path: str) -> list[Task]:
    """The link whose place a directory took goes first, where it is still that link."""
    before = change.before
    if before is None or before.kind is not FileKind.LINK or change.after is None:
        return []
    if change.after.kind is not FileKind.DIRECTORY:
        return []
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link_target(before) or ""))
    if not re.fullmatch(r"[A-Za-z0-9 ._/=+,-]+", target):
        context.note(
            f"{change.path}: was a link to a name that a playbook cannot compare: remove it there first"
        )
        return []
    result = context.result("link")
    probe = Task(
        Phase.REMOVED,
        title(f"Look where {path} leads"),
        "command",
        {"argv": ["readlink", "-f", path]},
        register=result,
    )
    gone = Task(
        Phase.REMOVED,
        title(f"Remove the link {path}"),
        "command",
        {"argv": ["rm", path], "removes": path},
        when=f"{result}.stdout == '{target}'",
    )
    commands = _origins(context, change, path)
    return [replace(task, commands=commands, paths=[change.path]) for task in (probe, gone)]


def _apart(tasks: list[Task]) -> list[Task]:
    """No two tasks of one name: the later ones say their path."""
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            task.name = title(f"{task.name} ({task.args.get('dest') or task.args.get('path')})")
        seen.add(task.name)
    return tasks


def _explained(context: Context, change: FileChange) -> bool:
    """A package's own content, or what only its installation has touched."""
    if change.package and change.verb is not ChangeVerb.METADATA:
        return not gone(change) or not _still_installed(context, change.package)
    if not change.commands or change.verb is ChangeVerb.METADATA:
        return False
    own = [simple for command, simple in context.shell if command.id in change.commands]
    installing = {command.id for command, simple in context.shell if _installs(simple)}
    named = set(context.commands_about(guest_path(change.path).decode("utf-8", "replace")))
    # A clock is a weak witness: what another command names is that one's, whenever it seems to have changed.
    return bool(own) and all(map(_installs, own)) and named <= installing


def _installs(call: SimpleCommand) -> bool:
    return not {word.rpartition("/")[2] for word in call.argv[:3]}.isdisjoint(_INSTALL_WORDS)


def _still_installed(context: Context, package: str) -> bool:
    return not any(one.name == package and one.verb is ChangeVerb.REMOVED for one in context.changes.packages)


def _removed(context: Context, change: FileChange, path: str) -> Task:
    if is_shared(path) and not context.undo:
        context.note(f"{change.path}: is removed whole; what a target has of its own in it goes")
    return Task(Phase.REMOVED, f"Remove {path}", "file", {"path": path, "state": "absent"})


def _present(context: Context, change: FileChange, path: str) -> Task | None:
    state = change.after
    if state is None:
        return None
    if state.kind is FileKind.DIRECTORY:
        words = "Create" if change.verb is ChangeVerb.ADDED else "Set owner and mode of"
        args = {"path": path, "state": "directory", **owned(state)}
        return Task(Phase.DIRECTORIES, f"{words} {path}", "file", args)
    if state.kind is FileKind.LINK:
        return _link(context, change, path, state)
    if state.kind is not FileKind.FILE:
        context.note(f"{change.path}: a {state.kind.value} cannot be expressed")
        return None
    if change.verb is ChangeVerb.METADATA:
        return Task(Phase.FILES, f"Set owner and mode of {path}", "file", {"path": path, **owned(state)})
    return _copy(context, change, path, state)


def _edited(context: Context, change: FileChange, path: str) -> list[Task]:
    """A shared file line by line; nothing where it is to be written whole, which a note tells."""
    before, after = change.before, change.after
    if not is_shared(path) or after is None or after.kind is not FileKind.FILE or after.xattrs:
        return []
    if change.verb is ChangeVerb.ADDED:
        return _begun(context, change, path, after)
    if change.verb is not ChangeVerb.MODIFIED or before is None or before.kind is not FileKind.FILE:
        return []
    plain = not (before.secret or after.secret or before.xattrs)
    found = None
    if plain and before.text is not None and after.text is not None:
        found = edits(path, before.text, after.text)
    tasks = _line_tasks(context, path, found or [])
    if found is None or not 0 < len(tasks) <= MAX_EDITS:
        context.note(f"{change.path}: is written whole; what a target has of its own in it goes")
        return []
    moved = {name: value for name, value in owned(after).items() if value != owned(before)[name]}
    if moved:
        tasks.append(Task(Phase.FILES, f"Set owner and mode of {path}", "file", {"path": path, **moved}))
    return _named_edits(context, tasks, change, path)


def _begun(context: Context, change: FileChange, path: str, state: FileState) -> list[Task]:
    """A crontab or keys of an account that was there before: on a target it may have some already."""
    account = account_of(path)
    if account is None or state.secret or not state.text or context.undo:
        return []
    if any(one.name == account and one.verb is ChangeVerb.ADDED for one in context.changes.users):
        return []
    header = header_of(state.text)
    found = edits(path, header, state.text)
    if not found:
        return []
    tasks = []
    if header:
        sha256 = hashlib.sha256(header.encode()).hexdigest()
        context.contents[sha256] = header.encode()
        args: dict[str, object] = {"src": f"files/{sha256}", "dest": path, "force": False, **owned(state)}
        tasks.append(Task(Phase.FILES, f"Begin {path} where there is none", "copy", args))
    for task in _line_tasks(context, path, found):
        task.args |= {"create": True, **owned(state)}
        tasks.append(task)
    return _named_edits(context, tasks, change, path) if len(tasks) <= MAX_EDITS else []


def _line_tasks(context: Context, path: str, found: Sequence[Edit]) -> list[Task]:
    """A task for each edit; lines that are added at the end, one below the other, are one."""
    tasks: list[Task] = []
    check = validator(path)
    for ends, group in groupby(found, key=lambda edit: set(edit.args) == {"line"}):
        members = list(group)
        if ends and len(members) > 1:
            edit = members[0]
            task = Task(Phase.FILES, f"Add {len(members)} lines to {path}", edit.module, {"path": path})
            task.args["line"] = Reference(ITEM)
            task.loop = [one.line for one in members]
            tasks.append(task)
            continue
        tasks += [
            Task(Phase.FILES, _edit_name(edit, path), edit.module, {"path": path, **edit.args})
            for edit in members
        ]
    for task in tasks:
        if check and not _names_a_key(context, "".join(edit.line for edit in found).encode()):
            task.args["validate"] = check
    return tasks


def _edit_name(edit: Edit, path: str) -> str:
    line = edit.line.strip()
    shown = f"'{line[:60]}…'" if len(line) > 60 else f"'{line}'"
    return {
        "Add": f"Add {shown} to {path}",
        "Set": f"Set {shown} in {path}",
        "Remove": f"Remove {shown} from {path}",
        "Space": f"Keep a line free above {shown} in {path}",
    }[edit.verb]


def _named_edits(context: Context, tasks: list[Task], change: FileChange, path: str) -> list[Task]:
    """One edit has the name of the whole change, several have their own."""
    finished = [_finished(context, task, change, path) for task in tasks]
    if len(tasks) > 1:
        finished = [replace(done, name=title(task.name)) for done, task in zip(finished, tasks, strict=True)]
        finished = [replace(one, remark="") if at else one for at, one in enumerate(finished)]
    return finished


def _link(context: Context, change: FileChange, path: str, state: FileState) -> Task | None:
    target = link_target(state)
    if target is None:
        context.note(f"{change.path}: a link to a name that a playbook cannot express")
        return None
    args: dict[str, object] = {"src": target, "path": path, "state": "link", "force": True}
    if (state.uid, state.gid) != (0, 0):
        args |= {
            "owner": state.owner or str(state.uid),
            "group": state.group or str(state.gid),
            "follow": False,
        }
    return Task(Phase.LINKS, f"Link {path}", "file", args)


def _copy(context: Context, change: FileChange, path: str, state: FileState) -> Task | None:
    if state.secret == CREDENTIALS or (context.undo and state.secret):
        secret = context.secret("content_of", path)
        return Task(
            Phase.FILES,
            f"Write {path}",
            "copy",
            {"content": secret, "dest": path, **owned(state)},
            no_log=True,
        )
    content = _content(context, state)
    if content is None:
        context.note(f"{change.path}: its content was not kept (over the limit, or withheld)")
        return None
    if original := _copied_from(context, state):
        context.note(f"{change.path}: a copy of {original}, which each machine makes anew")
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    context.contents[sha256] = content
    args: dict[str, object] = {"src": f"files/{sha256}", "dest": path, **owned(state)}
    if content.startswith(_VAULT):
        args["decrypt"] = False
    if (command := validator(path)) and not _names_a_key(context, content):
        args["validate"] = command
    return Task(Phase.FILES, f"Write {path}", "copy", args)


def _copied_from(context: Context, state: FileState) -> str:
    """The path made anew that holds the same; the sandbox's own would be wrong anywhere else."""
    made = ((wire, context.by_path[wire].after) for wire in sorted(context.anew))
    return next((wire for wire, one in made if one is not None and one.sha256 == state.sha256), "")


def _names_a_key(context: Context, content: bytes) -> bool:
    """A key that is made anew comes after the files: until then nothing that names it can be tried."""
    return any(guest_path(wire) in content for wire in context.anew)


def _content(context: Context, state: FileState) -> bytes | None:
    if state.blob and state.sha256:
        return context.blobs.get(state.sha256)
    return None if state.text is None else state.text.encode()


def _is_a_packages_answer(context: Context, path: str) -> bool:
    """Whether the script of a package of this change writes the file by ucf(1), which puts its own beside
    one that was there before it."""
    known = context.by_path.get(f"/var/lib/ucf/cache/{path.replace('/', ':')}")
    return known is not None and known.verb is ChangeVerb.ADDED


def _finished(context: Context, task: Task, change: FileChange, path: str) -> Task:
    """Name, handlers, origin, and the early place of package sources."""
    late = task.phase is Phase.REMOVED or _is_a_packages_answer(context, path)
    early = path.startswith(_SOURCES) and not late
    writes = task.phase in (Phase.FILES, Phase.LINKS) and change.verb is not ChangeVerb.METADATA
    return replace(
        task,
        phase=Phase.SOURCES if early else task.phase,
        name=title((named(context, change) if writes else "") or task.name),
        remark=remark(context, change) if writes else "",
        notify=[]
        if task.phase is Phase.DIRECTORIES
        else notified(context, path) or unit_handlers(context, path),
        commands=_origins(context, change, path),
        paths=[change.path],
    )


def _gathered(context: Context, tasks: list[Task]) -> list[Task]:
    """The files alike of one new folder in one task: a release that was unpacked, a site's pages. What has a
    name of its own, a check or a handler stays by itself."""
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        folder = _new_folder(context, task.paths[0])
        plain = task.name == title(f"Write {task.args.get('dest')}") and not (task.notify or task.no_log)
        if folder and plain and "validate" not in task.args:
            rest = {name: value for name, value in task.args.items() if name not in PAIR}
            groups.setdefault((task.phase, folder, *sorted(map(str, rest.items()))), []).append(task)
    trees = [group for group in groups.values() if len(group) >= _TREE_FROM]
    gone = {id(task) for group in trees for task in group}
    return [task for task in tasks if id(task) not in gone] + [_tree(group) for group in trees]


def _new_folder(context: Context, wire: str) -> str:
    """The topmost folder around a path that somebody made, and no package; empty where there is none."""
    top = ""
    while wire := wire.rpartition("/")[0]:
        change = context.by_path.get(wire)
        if change is None or change.verb is not ChangeVerb.ADDED or change.package:
            break
        top = wire
    return top


def _tree(group: list[Task]) -> Task:
    top = posixpath.commonpath([posixpath.dirname(str(task.args["dest"])) for task in group])
    return replace(
        group[0],
        name=title(f"Write {len(group)} files in {top}"),
        loop=[{part: str(task.args[part]) for part in PAIR} for task in group],
        paths=[wire for task in group for wire in task.paths],
        commands=list(dict.fromkeys(one for task in group for one in task.commands)),
    )


def _origins(context: Context, change: FileChange, path: str) -> list[str]:
    """The commands that name the path, of these those that ran when it changed: others only look at it."""
    named = context.commands_naming(path)
    return [one for one in named if one in change.commands] or named or change.commands


def _merged(tasks: list[Task]) -> list[Task]:
    """Directories with the same owner and mode in one task with a literal loop."""

    def alike(task: Task) -> tuple[object, ...]:
        rest = sorted((key, str(value)) for key, value in task.args.items() if key != "path")
        return (task.phase, tuple(rest))

    folders = sorted((task for task in tasks if task.phase is Phase.DIRECTORIES), key=alike)
    result = [task for task in tasks if task.phase is not Phase.DIRECTORIES]
    for _, group in groupby(folders, key=alike):
        members = list(group)
        if len(members) < _LOOP_FROM:
            result += members
            continue
        first = members[0]
        top = posixpath.commonpath([str(task.args["path"]) for task in members])
        result.append(
            replace(
                first,
                name=title(f"Create {len(members)} directories" + ("" if top == "/" else f" in {top}")),
                loop=[str(task.args["path"]) for task in members],
                paths=[wire for task in members for wire in task.paths],
                commands=list(dict.fromkeys(one for task in members for one in task.commands)),
            )
        )
    return sorted(result, key=lambda task: (task.phase, task.paths[0]))


def _without_nested_removals(tasks: list[Task]) -> list[Task]:
    """Removing a directory removes what is in it."""
    tops = [str(task.args["path"]) + "/" for task in tasks if _removes(task)]
    return [
        task
        for task in tasks
        if not _removes(task) or not any(str(task.args["path"]).startswith(top) for top in tops)
    ]


def _removes(task: Task) -> bool:
    return task.phase is Phase.REMOVED and task.module == "file"
