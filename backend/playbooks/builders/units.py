"""systemd units: enabled, started, masked; a unit explains the links that `systemctl enable` makes."""

from __future__ import annotations

import re

from backend.models import ChangeVerb, FileChange, FileKind, UnitChange, UnitState
from backend.playbooks.builders.context import Context, Phase, Task, gone, title
from backend.playbooks.builders.services import UNIT_FOLDER, is_off, stays_up, woken

_INSTALLED = re.compile(re.escape(UNIT_FOLDER) + r"[^/]+\.(wants|requires|upholds)/(?P<unit>[^/]+)")
_WANTS_FOLDER = re.compile(re.escape(UNIT_FOLDER) + r"[^/]+\.(wants|requires|upholds)")
_RUN_LEVEL = re.compile(r"/etc/rc[0-6S]\.d/[SK][0-9]{2}(?P<unit>[^/]+)")
_ALIAS = re.compile(re.escape(UNIT_FOLDER) + r"(?P<unit>[^/]+)")
_SWITCHING = frozenset({"enable", "reenable", "disable", "mask", "unmask", "start", "stop", "preset"})


def units(context: Context) -> list[Task]:
    """Tasks for units that the agent switched; a unit as its package left it needs none."""
    tasks = []
    for unit in context.changes.units:
        if gone_unit(unit):
            tasks += _stop(context, unit)
            continue
        if _as_packaged(context, unit):
            continue
        tasks += [task for step in _steps(unit) if (task := _task(context, step)) is not None]
    _claim_links(context)
    return tasks


def unit_handlers(context: Context, path: str) -> list[str]:
    """What must happen when the file of a unit changes."""
    found = _ALIAS.match(path)
    if not found:
        return []
    name = found["unit"].removesuffix(".d")
    on = any(unit.name == name and unit.after.enabled for unit in context.changes.units)
    if (on or woken(context, name)) and stays_up(context, name) and not is_off(context, name):
        called = f"Restart {name.removesuffix('.service')}"
        return [context.handler(called, name=name, state="restarted", daemon_reload=True)]
    return [context.handler("Reload systemd", daemon_reload=True)]


def gone_unit(unit: UnitChange) -> bool:
    """True for a unit whose definition is no longer there: removing its file and links is all."""
    return not unit.after.defined and not unit.after.masked


def _stop(context: Context, unit: UnitChange) -> list[Task]:
    """Switch off a unit whose file goes. The module fails where that is gone, a guarded command does not."""
    file = UNIT_FOLDER + unit.name
    if file not in context.by_path or not (unit.before.enabled or _stopped(context, unit.name)):
        return []
    args = {"argv": ["systemctl", "disable", "--now", unit.name], "removes": file}
    commands = [c.id for c, call in context.calls("systemctl") if _named(unit.name, call.argv)]
    return [Task(Phase.STOPPED, title(f"Stop and disable {unit.name}"), "command", args, commands=commands)]


def _as_packaged(context: Context, unit: UnitChange) -> bool:
    """Untouched by the agent: made by a package, and no `systemctl` in the log switches it."""
    if not unit.package:
        return False
    return not any(
        _named(unit.name, call.argv) and _SWITCHING.intersection(call.argv)
        for _, call in context.calls("systemctl", "update-rc.d")
    )


def _steps(unit: UnitChange) -> list[UnitChange]:
    """Off, then masked: a masked unit cannot be disabled any more."""
    before, after = unit.before, unit.after
    if not (after.masked and not before.masked and before.enabled and not after.enabled):
        return [unit]
    off = UnitState(defined=True)
    return [unit.model_copy(update={"after": off}), unit.model_copy(update={"before": off})]


def _task(context: Context, unit: UnitChange) -> Task | None:
    before, after = unit.before, unit.after
    args: dict[str, object] = {"name": unit.name}
    words = []
    if after.masked != before.masked:
        args["masked"] = after.masked
        words.append("mask" if after.masked else "unmask")
    if not after.masked and (after.enabled != before.enabled or unit.package):
        args["enabled"] = after.enabled
        words.append("enable" if after.enabled else "disable")
    if after != before and after.enabled and not after.masked and stays_up(context, unit.name):
        args["state"] = "started"
        words.append("start")
    elif _off_now(unit) or _stopped(context, unit.name):
        args["state"] = "stopped"
        words.append("stop")
    if not words:
        return None
    if any(_is_unit_file(change) for change in context.changes.shown() if unit.name in change.path):
        args["daemon_reload"] = True
    commands = [c.id for c, call in context.calls("systemctl") if _named(unit.name, call.argv)]
    name = title(" and ".join(words).capitalize() + f" {unit.name}")
    return Task(Phase.UNITS, name, "systemd_service", args, commands=commands)


def _off_now(unit: UnitChange) -> bool:
    """Switched off or masked, and there to be stopped: a name may be masked before anything bears it."""
    before, after = unit.before, unit.after
    there = before.defined or after.defined
    return there and (after.masked or (before.enabled and not after.enabled))


def _named(name: str, argv: list[str]) -> bool:
    return name in argv or name.removesuffix(".service") in argv


def _stopped(context: Context, name: str) -> bool:
    """The last word of the log on a unit that is off was to stop it."""
    verbs = [
        verb for _, call in context.calls("systemctl") if _named(name, call.argv) for verb in call.argv[1:2]
    ]
    return bool(verbs) and verbs[-1] in ("stop", "disable", "mask") and "stop" in verbs


def _is_unit_file(change: FileChange) -> bool:
    return (
        change.path.startswith(UNIT_FOLDER)
        and not gone(change)
        and change.after is not None
        and change.after.kind is FileKind.FILE
    )


def _claim_links(context: Context) -> None:
    known = {unit.name: unit for unit in context.changes.units}
    for change in context.changes.files:
        state = change.after or change.before
        if _WANTS_FOLDER.fullmatch(change.path) and change.verb is ChangeVerb.ADDED:
            context.claimed.add(change.path)  # `systemctl enable` makes it
        if state is None or state.kind is not FileKind.LINK:
            continue
        level = _RUN_LEVEL.fullmatch(change.path)
        unit = known.get(f"{level['unit']}.service") if level else None
        if unit is not None and unit.before.enabled != unit.after.enabled:
            context.claimed.add(change.path)  # `systemctl enable` tells init's scripts, too
        found = _INSTALLED.fullmatch(change.path) or _ALIAS.fullmatch(change.path)
        if not found:
            continue
        target = (state.target or "").rpartition("/")[2]
        if found["unit"] in known or target in known or state.target == "/dev/null":
            context.claimed.add(change.path)
