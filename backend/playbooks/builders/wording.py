"""The name of a task that writes a file, by what the file states: ``Let deploy run systemctl as root``.

The words of a guest stand in quotes where they are free text; ``title`` makes them harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.changes.grants import Grant, grants, people
from backend.models import FileChange, SettingChange, SettingKind
from backend.playbooks.builders.context import Context
from backend.wording import some

_NAMED = 2  # things that a name lists; of more it gives the count
_REMARK_VALUES = 4


def named(context: Context, change: FileChange) -> str:
    """What the file says, as an order; empty where it says nothing known, or things of several kinds."""
    stated = _stated(context, change)
    kinds = {one.kind for one in stated}
    return _WORDS[stated[0].kind](stated) if len(kinds) == 1 and stated[0].kind in _WORDS else ""


def remark(context: Context, change: FileChange) -> str:
    """The values, where a name has only their count."""
    stated = _stated(context, change)
    if len(stated) <= _NAMED or {one.kind for one in stated} - _LISTED:
        return ""
    told = [f"{one.name} {one.after.get('value', '')}".rstrip() for one in stated]
    return some(told, _REMARK_VALUES)


def _stated(context: Context, change: FileChange) -> list[SettingChange]:
    """What the file states now and did not before. A setting's last path is that of the file that counts."""
    return [
        one
        for one in context.changes.settings
        if one.after and one.paths and one.paths[-1] == change.path and "order" not in one.after
    ]


def _listing(words: Sequence[str], noun: str) -> str:
    once = list(dict.fromkeys(words))
    return " and ".join(once) if len(once) <= _NAMED else f"{len(once)} {noun}"


def _sudo(stated: list[SettingChange]) -> str:
    rules = [one for one in stated if "may" in one.after]
    if not rules:
        return "Set how sudo asks" if len(stated) == 1 else "Set how sudo behaves"
    who = _listing([people(one.name) for one in rules], "users and groups")
    parts = grants(rules[0].after["may"]) if len(rules) == 1 else []
    if len(parts) != 1:
        return f"Let {who} run commands by sudo"
    return f"Let {who} {_power(parts[0])}"


def _power(grant: Grant) -> str:
    user = "root" if grant.as_root else grant.user
    if "ALL" in grant.commands:
        return f"become {user} by sudo"
    programs = [_program(one) for one in grant.commands]
    return f"run {_listing(programs, 'commands')} as {user}"


def _program(command: str) -> str:
    """``systemctl restart nginx``: a command without the folder that it lies in."""
    path, space, arguments = command.partition(" ")
    return f"{path.rpartition('/')[2] or path}{space}{arguments}"


def _login_keys(stated: list[SettingChange]) -> str:
    keys = [one for one in stated if not one.name.endswith(": not a key")]
    if not keys:
        return ""
    user = keys[0].name.partition(" ")[0]
    comment = keys[0].after.get("comment", "")
    if len(keys) > 1:
        return f"Let {len(keys)} keys log in as {user}"
    return f"Let the key '{comment}' log in as {user}" if comment else f"Let a key log in as {user}"


def _sshd(stated: list[SettingChange]) -> str:
    told = [f"{one.name} {one.after.get('value', '')}" for one in stated]
    return f"Set {_listing(told, 'options')} for sshd"


def _sysctl(stated: list[SettingChange]) -> str:
    if len(stated) == 1:
        return f"Set {stated[0].name} to {stated[0].after.get('value', '')}"
    return f"Set {_listing([one.name for one in stated], 'kernel parameters')}"


def _modules(stated: list[SettingChange]) -> str:
    loaded = [one.name for one in stated if "loaded" in one.after]
    if len(loaded) == len(stated):
        return f"Load {_listing(loaded, 'kernel modules')} at boot"
    return (
        f"Set how {_listing([one.name.rpartition(' ')[2] for one in stated], 'kernel modules')} may be loaded"
    )


def _mounts(stated: list[SettingChange]) -> str:
    if all(one.after.get("type") == "swap" for one in stated):
        return f"Swap to {_listing([one.name for one in stated], 'places')}"
    return f"Mount {_listing([one.name for one in stated], 'file systems')} at boot"


def _cron(stated: list[SettingChange]) -> str:
    if len(stated) > 1:
        return f"Run {len(stated)} commands by cron"
    job = stated[0]
    user = job.after.get("user", "")
    return f"Run {job.name} by cron" + (f" as {user}" if user else "")


def _unit(stated: list[SettingChange]) -> str:
    return f"Define {stated[0].name}"


def _drop_in(stated: list[SettingChange]) -> str:
    unit, _, file = stated[0].name.partition(" ")
    return f"Change {unit} by {file}"


def _firewall(stated: list[SettingChange]) -> str:
    return "Set the firewall in " + stated[0].paths[-1].rpartition("/")[2]


def _sources(stated: list[SettingChange]) -> str:
    pins = [one.name for one in stated if one.name.startswith("pin of ")]
    if pins:
        return f"Set the {_listing(pins, 'pins')}" if len(pins) == len(stated) else ""
    return f"Take packages from {_listing([one.name for one in stated], 'sources')}"


def _source_keys(stated: list[SettingChange]) -> str:
    owners = [one.after.get("owner") or one.name for one in stated]
    return f"Believe packages signed by {_listing(owners, 'keys')}"


def _apt(stated: list[SettingChange]) -> str:
    return f"Set {_listing([one.name for one in stated], 'options')} of apt"


def _resolver(stated: list[SettingChange]) -> str:
    return "Set how names are looked up in " + stated[0].paths[-1].rpartition("/")[2]


def _alternative(stated: list[SettingChange]) -> str:
    return f"Let {stated[0].name} be {stated[0].after.get('program', '')}"


def _locale(stated: list[SettingChange]) -> str:
    told = [f"{one.name}={one.after['value']}" for one in stated if "value" in one.after]
    return f"Set {_listing(told, 'variables of the locale')}" if told else ""


def _time_zone(stated: list[SettingChange]) -> str:
    return f"Set the time zone to {stated[0].after.get('zone', '')}"


_LISTED = frozenset({SettingKind.SSHD, SettingKind.SYSCTL, SettingKind.APT})
_WORDS: dict[SettingKind, Callable[[list[SettingChange]], str]] = {
    SettingKind.SUDO: _sudo,
    SettingKind.LOGIN_KEY: _login_keys,
    SettingKind.SSHD: _sshd,
    SettingKind.SYSCTL: _sysctl,
    SettingKind.MODULE: _modules,
    SettingKind.MOUNT: _mounts,
    SettingKind.CRON: _cron,
    SettingKind.UNIT: _unit,
    SettingKind.TIMER: _unit,
    SettingKind.DROP_IN: _drop_in,
    SettingKind.FIREWALL: _firewall,
    SettingKind.SOURCE: _sources,
    SettingKind.SOURCE_KEY: _source_keys,
    SettingKind.APT: _apt,
    SettingKind.RESOLVER: _resolver,
    SettingKind.ALTERNATIVE: _alternative,
    SettingKind.LOCALE: _locale,
    SettingKind.TIME_ZONE: _time_zone,
}
