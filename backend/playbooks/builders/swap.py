"""Swap files: made and formatted on each machine, so that nobody's memory is copied."""

from __future__ import annotations

from backend.models import ChangeVerb, FileKind, wire_path
from backend.playbooks.builders.context import Context, Phase, Task, owned, title

FORMATS = "mkswap"


def swap_files(context: Context) -> list[Task]:
    """Room, owner and mode for each file that the agent formatted; handlers format it and use it."""
    tasks: list[Task] = []
    used = {word for _, call in context.calls("swapon") for word in call.argv[1:]}
    for command, call in context.calls(FORMATS):
        path = formatted(call.argv)
        change = context.by_path.get(wire_path(path.encode()))
        state = change.after if change is not None and change.verb is ChangeVerb.ADDED else None
        if (
            change is None
            or state is None
            or state.kind is not FileKind.FILE
            or change.path in context.claimed
        ):
            continue
        if not call.simple or context.path(change.path) is None:
            continue
        context.claimed.add(change.path)
        notify = [context.handler(title(f"Format {path}"), "command", argv=[FORMATS, path], removes=path)]
        if path in used:
            notify.append(
                context.handler(title(f"Use {path}"), "command", argv=["swapon", path], removes=path)
            )
        args: dict[str, object] = {"argv": ["fallocate", "-l", str(state.size), path], "creates": path}
        tasks.append(
            Task(
                Phase.FILES,
                title(f"Make room for swap in {path}"),
                "command",
                args,
                notify=notify,
                commands=context.commands_naming(path),
                paths=[change.path],
            )
        )
        # `touch` with kept times, as check mode must pass where there is no file yet.
        kept = {"access_time": "preserve", "modification_time": "preserve"}
        args = {"path": path, "state": "touch", **owned(state), **kept}
        name = title(f"Set owner and mode of {path}")
        tasks.append(Task(Phase.FILES, name, "file", args, commands=[command.id], paths=[change.path]))
    return tasks


def swap_off(context: Context) -> list[Task]:
    """Files in use as swap are let go of first: the kernel lets nobody remove them before."""
    return [
        Task(
            Phase.STOPPED,
            title(f"Stop using {path} as swap"),
            "command",
            {"argv": ["swapoff", path], "removes": path},
            paths=[change.path],
        )
        for change in context.changes.shown()
        if change.after is None and (path := context.path(change.path)) in context.swaps
    ]


def formatted(argv: list[str]) -> str:
    """The absolute path that a call of ``mkswap`` formats; empty for any other command."""
    if argv[:1] != [FORMATS]:
        return ""
    paths = [word for word in argv[1:] if word.startswith("/")]
    return paths[0] if len(paths) == 1 else ""
