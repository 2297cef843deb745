"""Virtual environments of Python: made on each machine by the agent's own command, never copied."""

from __future__ import annotations

import posixpath

from backend.models import ChangeVerb, FileChange, wire_path
from backend.playbooks._shell import SimpleCommand
from backend.playbooks.builders.context import Context, Phase, Task, title

PYTHONS = ("python3", "python", *(f"python3.{minor}" for minor in range(9, 16)))
_WITH_VALUE = ("--prompt",)


def venvs(context: Context) -> list[Task]:
    """A guarded command for each that is there; then its owner, where that is not root."""
    tasks: list[Task] = []
    for command, call in context.calls(*PYTHONS):
        folder = venv_of(call)
        wire = wire_path(folder.encode("utf-8", "surrogateescape"))
        config = context.by_path.get(f"{wire}/pyvenv.cfg")
        if not call.simple or config is None or config.verb is not ChangeVerb.ADDED:
            continue
        if context.path(wire) is None or wire in context.claimed:
            continue
        context.claimed.update(change.path for change in _filled(context, wire, command.id))
        context.claimed.add(wire)
        args: dict[str, object] = {"argv": call.argv, "creates": f"{folder}/pyvenv.cfg"}
        if call.folder:
            args["chdir"] = call.folder
        name = title(f"Make the virtual environment {folder}")
        tasks.append(Task(Phase.TREES, name, "command", args, commands=[command.id], paths=[wire]))
        if owner := _owner(config):
            args = {"path": folder, "state": "directory", "recurse": True, **owner}
            name = title(f"Set the owner of {folder}")
            tasks.append(Task(Phase.TREES, name, "file", args, commands=_owners(context, wire), paths=[wire]))
    return tasks


def venv_of(call: SimpleCommand) -> str:
    """The folder that ``python3 -m venv`` fills; empty for any other command."""
    if call.argv[0].rpartition("/")[2] not in PYTHONS or call.argv[1:3] != ["-m", "venv"]:
        return ""
    words = call.argv[3:]
    folders = [
        word
        for at, word in enumerate(words)
        if not word.startswith("-") and (at == 0 or words[at - 1] not in _WITH_VALUE)
    ]
    if len(folders) != 1 or not (folders[0].startswith("/") or call.folder):
        return ""
    return posixpath.normpath(posixpath.join(call.folder or "/", folders[0]))


def _filled(context: Context, wire: str, command: str) -> list[FileChange]:
    """What that command put there, and no later one but to give it away."""
    those = {command, *_owners(context, wire)}
    return [
        change
        for change in context.pending()
        if change.path.startswith(f"{wire}/")
        and change.after is not None
        and those.issuperset(change.commands)
    ]


def _owners(context: Context, wire: str) -> list[str]:
    """The commands that gave the folder, or one around it, to somebody."""
    return [
        command.id
        for command, call in context.calls("chown")
        if any(f"{wire}/".startswith(f"{word.rstrip('/')}/") for word in call.argv if word.startswith("/"))
    ]


def _owner(config: FileChange) -> dict[str, str]:
    state = config.after
    if state is None or (state.uid, state.gid) == (0, 0):
        return {}
    return {"owner": state.owner or str(state.uid), "group": state.group or str(state.gid)}
