"""Groups and users. A number is kept where somebody chose it, or it is a person's; a system account takes the
next free one of each machine, as what it owns goes by its name.
"""

from __future__ import annotations

import re
from dataclasses import replace

from backend.models import ChangeVerb, GroupChange, UserChange, wire_path
from backend.playbooks._scope import Reference
from backend.playbooks.builders.context import Context, Phase, Task, title

FIRST_REGULAR_ID = 1000
_DATABASES = re.compile(r"/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?")
_SUBORDINATE = ("/etc/subuid", "/etc/subgid")
_SKELETON = (".bashrc", ".profile", ".bash_logout")
_AGEING = {
    "at least": ("password_expire_min", 0),
    "at most": ("password_expire_max", 99_999),
    "warned": ("password_expire_warn", 7),
}
"""In the words of :mod:`backend.changes.accounts`, with what is usual (login.defs(5))."""
_NUMBER = {
    "user": re.compile(r"-[A-Za-z]*u[0-9]*|--uid(=.*)?"),
    "group": re.compile(r"-[A-Za-z]*g[0-9]*|--gid(=.*)?"),
}
_BY_GSHADOW = ("administrators", "password", "more members by gshadow")
_SET = ("set", "set, changed")
_NO_PASSWORD = "none"  # noqa: S105 - the word of :mod:`backend.changes.accounts`
_UNSET = ("", "!", "*", "!!", "!*", "locked", "none", "x")


def is_account_database(wire: str) -> bool:
    """Whether a path holds the accounts of everybody."""
    return _DATABASES.fullmatch(wire) is not None


def groups(context: Context) -> list[Task]:
    """Groups that the agent made or removed; a package's own come with the package."""
    for change in context.changes.files:
        if is_account_database(change.path):
            context.claimed.add(change.path)
            strange = any(note.startswith(f"{change.path}: ") for note in context.changes.notes)
            if change.path in _SUBORDINATE and (strange or (context.undo and not change.hidden)):
                context.note(f"{change.path}: no module of ansible.builtin gives an account these ids")
    tasks = []
    for group in context.changes.groups:
        if group.package and not context.undo:
            continue
        if group.verb is ChangeVerb.REMOVED:
            task = _group(context, group, "Remove the group", {"state": "absent"})
            tasks.append(replace(task, phase=Phase.LEFT))
        elif group.after.get("gid") != group.before.get("gid"):
            number = int(group.after["gid"])
            args: dict[str, object] = {"gid": number}
            if number < FIRST_REGULAR_ID:
                args["system"] = True
                if not group.before and not _is_chosen(context, group.name, "group"):
                    del args["gid"]
            tasks.append(_group(context, group, "Create the group", {**args, "state": "present"}))
        if left := [key for key in _BY_GSHADOW if group.after.get(key) != group.before.get(key)]:
            context.note(f"{group.name}: no module of ansible.builtin sets {', '.join(left)} of a group")
    return tasks


def _is_chosen(context: Context, name: str, noun: str) -> bool:
    """Whether somebody gave the number of a new account, in a command; a roll back brings the same again."""
    programs = (f"{noun}add", f"add{noun}", f"{noun}mod")
    return context.undo or any(
        name in call.argv and any(map(_NUMBER[noun].fullmatch, call.argv))
        for _, call in context.calls(*programs)
    )


def _group(context: Context, group: GroupChange, words: str, args: dict[str, object]) -> Task:
    commands = [
        c.id
        for c, call in context.calls("groupadd", "addgroup", "useradd", "adduser", "groupdel", "groupmod")
        if group.name in call.argv
    ]
    return Task(
        Phase.GROUPS, title(f"{words} {group.name}"), "group", {"name": group.name, **args}, commands=commands
    )


def users(context: Context) -> list[Task]:
    """Users that the agent made, changed or removed. A password is never copied: its hash is a secret."""
    tasks = []
    for user in context.changes.users:
        if user.package and not context.undo:
            continue
        if user.verb is ChangeVerb.REMOVED:
            tasks.append(_user(context, user, "Remove the user", {"state": "absent"}))
            continue
        args = _new(context, user) if user.verb is ChangeVerb.ADDED else _modified(context, user)
        args |= _ageing(context, user)
        if args:
            words = "Create the user" if user.verb is ChangeVerb.ADDED else "Change the user"
            tasks.append(_user(context, user, words, args))
        password = user.after.get("password", "")
        if password == _NO_PASSWORD and user.before.get("password") != _NO_PASSWORD:
            context.note(
                f"user {user.name}: has no password, which no playbook gives: anybody could log in as it"
            )
        if password != user.before.get("password", "") and password not in _UNSET:
            task = _user(context, user, "Set the password of", {"password": _hash_of(context, user)})
            tasks.append(replace(task, no_log=True))
    return tasks


def _user(context: Context, user: UserChange, words: str, args: dict[str, object]) -> Task:
    commands = [
        c.id
        for c, call in context.calls("useradd", "adduser", "usermod", "userdel", "deluser", "gpasswd", "chsh")
        if user.name in call.argv
    ]
    return Task(
        Phase.USERS, title(f"{words} {user.name}"), "user", {"name": user.name, **args}, commands=commands
    )


def _hash_of(context: Context, user: UserChange) -> Reference:
    return context.secret("password_hash_of", user.name)


def _new(context: Context, user: UserChange) -> dict[str, object]:
    after = user.after
    number = int(after["uid"])
    home = after.get("home", "")
    args: dict[str, object] = {"uid": number, "group": _group_name(context, user)}
    if 0 < number < FIRST_REGULAR_ID and not _is_chosen(context, user.name, "user"):
        del args["uid"]
    if members := _names(after.get("groups", "")):
        args |= {"groups": members, "append": True}
    args |= {key: after[key] for key in ("home", "shell", "comment") if after.get(key)}
    if number < FIRST_REGULAR_ID:
        args["system"] = True
    args["create_home"] = _claim_skeleton(context, wire_path(home.encode("utf-8", "surrogateescape")))
    return args


def _group_name(context: Context, user: UserChange) -> str:
    number = user.after.get("gid", "")
    names = [group.name for group in context.changes.groups if group.after.get("gid") == number]
    return names[0] if names else number


def _claim_skeleton(context: Context, home: str) -> bool:
    """True when `useradd -m` made the home: it copied /etc/skel, here as there. A file of it that a command
    names is the agent's own work and stays."""
    copied = [
        change
        for name in _SKELETON
        if (change := context.by_path.get(f"{home}/{name}")) is not None and change.verb is ChangeVerb.ADDED
    ]
    for change in copied:
        if not context.commands_about(change.path.rpartition("/")[2]):
            context.claimed.add(change.path)
    return bool(copied)


def _modified(context: Context, user: UserChange) -> dict[str, object]:
    changed = {
        key: user.after.get(key, "")
        for key in ("home", "shell", "comment")
        if user.after.get(key, "") != user.before.get(key, "")
    }
    for key in ("home", "shell"):
        if changed.get(key) == "":
            del changed[key]
            context.note(f"user {user.name}: has no {key} any more, which no module of ansible.builtin says")
    args: dict[str, object] = {**changed}
    if user.after.get("gid") != user.before.get("gid") and user.after.get("gid"):
        args["group"] = _group_name(context, user)
    if user.after.get("uid") != user.before.get("uid") and user.after.get("uid"):
        args["uid"] = int(user.after["uid"])
    if user.before.get("password") in _SET and user.after.get("password") == "locked":
        args["password_lock"] = True
    before, after = _names(user.before.get("groups", "")), _names(user.after.get("groups", ""))
    if set(after) != set(before):
        kept = set(before) <= set(after)
        left = [name for name in after if not kept or name not in before]
        args |= {"groups": left or "", "append": kept}
    return args


def _ageing(context: Context, user: UserChange) -> dict[str, object]:
    """How long a password holds, where that changed."""
    before, after = (
        dict(part.rpartition(" ")[::2] for part in side.get("ageing", "").split(", ") if part)
        for side in (user.before, user.after)
    )
    if rest := sorted(words for words in after if words not in _AGEING and after[words] != before.get(words)):
        context.note(f"user {user.name}: no module of ansible.builtin sets {', '.join(rest)}")
    return {
        name: int(after.get(words, usual))
        for words, (name, usual) in _AGEING.items()
        if before.get(words) != after.get(words)
    }


def _names(listing: str) -> list[str]:
    return sorted(name for name in re.split(r"[,\s]+", listing) if name)
