"""Private keys and what is signed with them: made anew on each machine by the agent's own command.

A key is never copied. Where no plain command made it, the note says so and the residual shows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from backend.models import Command, FileChange, FileKind, wire_path
from backend.playbooks._shell import SimpleCommand
from backend.playbooks.builders.context import Context, Phase, Task, owned, title
from backend.playbooks.builders.services import readers_of
from backend.playbooks.builders.venvs import venv_of

_OPENSSL = frozenset({"req", "genrsa", "genpkey", "x509", "rsa", "ec", "ecparam", "dhparam", "pkey"})
_OUTPUTS = ("-out", "-keyout")
_INPUTS = ("-in", "-key", "-signkey", "-CA", "-CAkey", "-config", "-extfile")
_PASSWORDS = re.compile(r"--?(?:pass(?:in|out)?|k|K|kfile)")
_PHRASE = re.compile(r"-[A-Za-z]*[NP].*", re.DOTALL)  # of ssh-keygen; only the empty one is no secret
_PASSING = ("/tmp/", "/var/tmp/", "/run/", "/dev/")  # noqa: S108 - places whose files are not there later
CREDENTIALS = "credentials"  # of no key: what an operator types, not what a command makes
_KEY_MODE, _PLAIN_MODE = "0600", "0644"


def certificates(context: Context) -> list[Task]:
    """A guarded command per key, request and certificate, then owner and mode where they matter."""
    makers = [
        (command, call)
        for command, call in context.calls("openssl", "ssh-keygen")
        if _repeatable(context, call)
    ]
    kept = _latest(context, makers)
    if not any(_is_key(context.by_path[wire]) for _, _, made in kept for wire in made):
        kept = []
    tasks: list[Task] = []
    for command, call, made in kept:
        tasks += _tasks(context, command, call, made)
        context.claimed.update(made)
        context.anew.update(made)
    for change in context.pending() if not context.undo else ():
        if change.after and change.after.secret not in ("", CREDENTIALS) and not change.package:
            context.claimed.add(change.path)
            context.note(
                f"{change.path}: holds a secret ({change.after.secret}) and no plain openssl or ssh-keygen"
                " command in the log makes it anew"
            )
    return tasks


def made_by(argv: Sequence[str], folder: str = "") -> list[str]:
    """The paths that a guarded command of a playbook makes anew; none for another program."""
    call = SimpleCommand(list(argv), folder=folder)
    return (_outputs(call) or list(filter(None, [venv_of(call)]))) if argv else []


def _is_key(change: FileChange) -> bool:
    return change.after is not None and "key" in change.after.secret


def _outputs(call: SimpleCommand) -> list[str]:
    argv = call.argv
    program = argv[0].rpartition("/")[2]
    if program == "ssh-keygen":
        names = [argv[i + 1] for i in range(len(argv) - 1) if argv[i] == "-f"]
        names += [f"{name}.pub" for name in names]
    elif program == "openssl" and len(argv) > 1 and argv[1] in _OPENSSL:
        names = [argv[i + 1] for option in _OUTPUTS for i in range(len(argv) - 1) if argv[i] == option]
        if "-CAcreateserial" in argv:
            names += [posixpath.splitext(authority)[0] + ".srl" for authority in _after(call, "-CA")]
    else:
        return []
    return [posixpath.normpath(posixpath.join(call.folder or "/", name)) for name in names]


def _repeatable(context: Context, call: SimpleCommand) -> bool:
    outputs = _outputs(call)
    if not outputs or not call.simple or _has_password(call.argv):
        return False
    relative = any(not word.startswith("/") for word in _after(call, *_OUTPUTS, *_INPUTS, "-f"))
    return not relative or bool(call.folder)


def _has_password(argv: Sequence[str]) -> bool:
    if argv[0].rpartition("/")[2] == "openssl":
        return any(_PASSWORDS.fullmatch(word) for word in argv)
    phrases = [at for at, word in enumerate(argv) if _PHRASE.fullmatch(word)]
    return any(argv[at] not in ("-N", "-qN") or list(argv[at + 1 : at + 2]) != [""] for at in phrases)


def _after(call: SimpleCommand, *options: str) -> list[str]:
    argv = call.argv
    return [argv[i + 1] for i in range(len(argv) - 1) if argv[i] in options]


def _latest(
    context: Context, makers: list[tuple[Command, SimpleCommand]]
) -> list[tuple[Command, SimpleCommand, list[str]]]:
    """The last command that made each path which is still there; earlier ones were overwritten."""
    last: dict[str, int] = {}
    for index, (_, call) in enumerate(makers):
        for path in _outputs(call):
            last[wire_path(path.encode())] = index
    found = []
    for index, (command, call) in enumerate(makers):
        wires = [wire_path(path.encode()) for path in _outputs(call)]
        made = [
            wire
            for wire in wires
            if last[wire] == index
            and (change := context.by_path.get(wire)) is not None
            and change.after is not None
            and change.after.kind is FileKind.FILE
        ]
        if made and _inputs_stay(context, call, last):
            found.append((command, call, made))
    return found


def _inputs_stay(context: Context, call: SimpleCommand, made: dict[str, int]) -> bool:
    for name in _after(call, *_INPUTS):
        path = posixpath.normpath(posixpath.join(call.folder or "/", name))
        wire = wire_path(path.encode())
        if path.startswith(_PASSING) and wire not in made:
            context.note(f"{wire}: an input of openssl that is not kept; what it made cannot be made anew")
            return False
    return True


def _tasks(context: Context, command: Command, call: SimpleCommand, made: list[str]) -> list[Task]:
    paths = [path for wire in made if (path := context.path(wire)) is not None]
    if not paths:
        return []
    guard = paths[0]
    _warn_of_own_name(context, call, guard)
    args: dict[str, object] = {"argv": [context.localized(word) for word in call.argv], "creates": guard}
    if call.folder:
        args["chdir"] = call.folder
    if any("$" in word for word in call.argv):
        args["expand_argument_vars"] = False
    notify = [name for path in paths for name in readers_of(context, path)]
    tasks = [
        Task(
            Phase.CERTIFICATES,
            title(f"{_order(context, call, made)} {guard}"),
            "command",
            args,
            notify=list(dict.fromkeys(notify)),
            commands=[command.id],
            paths=made,
        )
    ]
    for wire, path in zip(made, paths, strict=False):
        state = context.by_path[wire].after
        usual = _KEY_MODE if state and state.secret else _PLAIN_MODE
        if state and (state.uid, state.gid, f"{state.mode:04o}") != (0, 0, usual):
            tasks.append(_attributes(context, wire, path))
    return tasks


def _order(context: Context, call: SimpleCommand, made: list[str]) -> str:
    """What the command makes, as an order."""
    if len(made) == 1:
        return "Make"
    if call.argv[0].rpartition("/")[2] == "ssh-keygen":
        return "Make the key pair"
    states = (context.by_path[wire].after for wire in made)
    facts = [state.certificate for state in states if state is not None and state.certificate]
    return f"Make the key and {'request' if any('request' in one for one in facts) else 'certificate'}"


def _attributes(context: Context, wire: str, path: str) -> Task:
    state = context.by_path[wire].after
    if state is None:
        raise ValueError(wire)
    # `touch` with kept times, not `file`: check mode must pass on a machine that has no key yet.
    args = {
        "path": path,
        "state": "touch",
        **owned(state),
        "access_time": "preserve",
        "modification_time": "preserve",
    }
    return Task(
        Phase.CERTIFICATES,
        title(f"Set owner and mode of {path}"),
        "file",
        args,
        commands=context.commands_naming(path),
        paths=[wire],
    )


def _warn_of_own_name(context: Context, call: SimpleCommand, path: str) -> None:
    for value in (context.facts.hostname, context.facts.address):
        if value and any(value in word and value != word for word in call.argv):
            context.note(f"{path}: its command names the sandbox itself ({value}); the target gets the same")
