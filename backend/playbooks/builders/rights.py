"""Access lists and capabilities, which no module of ``ansible.builtin`` sets: by ``setfacl`` and ``setcap``,
each behind a probe that looks whether there are any. A machine that has others keeps them. What ``chattr``
sets is set again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from backend.file_rights import ACCESS, CAPABILITY, CHATTR, DEFAULT, access_list, capabilities, rwx
from backend.file_rights import words as right_words
from backend.models import FileChange, FileKind, FileState
from backend.playbooks.builders.context import Context, Phase, Task, title

LABELS = "security.selinux"
_SETTERS = {"setfacl": (ACCESS, DEFAULT), "setcap": (CAPABILITY,)}


def rights(context: Context, change: FileChange, path: str) -> list[Task]:
    """Two tasks for each kind that the agent gave by its program; a note for what is left."""
    state, before = change.after, change.before
    if state is None or state.kind is FileKind.LINK:
        return []
    left = {name for name in state.xattrs if not name.startswith(LABELS)}
    had = set(before.xattrs) if before is not None else set()
    tasks: list[Task] = []
    for program, names in _SETTERS.items():
        commands = [c.id for c, call in context.calls(program) if _names(call.argv, path)]
        words = (
            _access(context, state)
            if program == "setfacl"
            else _capabilities(state.xattrs.get(CAPABILITY, ""))
        )
        if not left.intersection(names) or not commands or not words or had.intersection(names):
            continue
        left.difference_update(names)
        tasks += _guarded(context, program, words, path, change, commands)
    if CHATTR in left and CHATTR not in had and (task := _kept_so(context, state, path, change)):
        left.discard(CHATTR)
        tasks.append(task)
    if left:
        context.note(
            f"{change.path}: {', '.join(sorted(left))} cannot be expressed by a module of ansible.builtin"
        )
    return tasks


def _kept_so(context: Context, state: FileState, path: str, change: FileChange) -> Task | None:
    """What chattr(1) was told to set: a second time it changes nothing. None where no command did."""
    commands = [c.id for c, call in context.calls("chattr") if _names(call.argv, path)]
    letters = bytes.fromhex(state.xattrs[CHATTR]).decode("ascii")
    words = right_words(CHATTR, state.xattrs[CHATTR])
    args: dict[str, object] = {"argv": ["chattr", f"+{letters}", path], "removes": path}
    task = Task(Phase.RIGHTS, title(f"Make {path} {words}"), "command", args)
    return replace(task, commands=commands, paths=[change.path]) if commands else None


def _names(argv: list[str], path: str) -> bool:
    """The path, or with ``-R`` a folder around it."""
    return any(f"{path}/".startswith(f"{word.rstrip('/')}/") for word in argv if word.startswith("/"))


def _guarded(
    context: Context, program: str, words: str, path: str, change: FileChange, commands: list[str]
) -> list[Task]:
    probe = ["getfacl", "-cps", path] if program == "setfacl" else ["getcap", path]
    argv = ["setfacl", "--set", words, path] if program == "setfacl" else ["setcap", words, path]
    what = "an access list" if program == "setfacl" else "capabilities"
    result = context.result("rights")
    return [
        Task(
            Phase.RIGHTS,
            title(f"Look whether {path} has {what}"),
            "command",
            {"argv": probe},
            register=result,
            commands=commands,
            paths=[change.path],
        ),
        Task(
            Phase.RIGHTS,
            title(f"Give {path} {what}"),
            "command",
            {"argv": argv},
            when=f"{result}.stdout == ''",
            commands=commands,
            paths=[change.path],
        ),
    ]


def _access(context: Context, state: FileState) -> str:
    """As ``setfacl --set`` takes it; empty for bytes that are none."""
    entries = list(_entries(context, state.xattrs.get(ACCESS, ""), ""))
    if ACCESS not in state.xattrs:
        bits = ((state.mode >> shift) & 7 for shift in (6, 3, 0))
        entries = [f"{who}::{rwx(perm)}" for who, perm in zip("ugo", bits, strict=True)]
    default = list(_entries(context, state.xattrs.get(DEFAULT, ""), "d:"))
    if not entries or (DEFAULT in state.xattrs and not default):
        return ""
    return ",".join([*entries, *default])


def _entries(context: Context, value: str, prefix: str) -> Iterator[str]:
    try:
        found = access_list(bytes.fromhex(value))
    except ValueError:
        return
    for one in found:
        who = "" if one.number is None else _name(context, one.who, one.number)
        yield f"{prefix}{one.who[0]}:{who}:{one.rights}"


def _name(context: Context, who: str, number: int) -> str:
    """The name of an account of the change, whose number may differ elsewhere; else the number."""
    accounts, key = (context.changes.users, "uid") if who == "user" else (context.changes.groups, "gid")
    return next((one.name for one in accounts if one.after.get(key) == str(number)), str(number))


def _capabilities(value: str) -> str:
    """As setcap(8) takes it; empty for what it cannot say, such as a user namespace's."""
    try:
        given = capabilities(bytes.fromhex(value))
    except ValueError:
        return ""
    if given.root or any(name.isdigit() for name in given.flags):
        return ""
    by_flags: dict[str, list[str]] = {}
    for name, flags in given.flags.items():
        by_flags.setdefault(flags, []).append(name)
    return " ".join(f"{','.join(names)}={flags}" for flags, names in sorted(by_flags.items()))
