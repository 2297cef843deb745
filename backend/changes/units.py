"""systemd units of two points: defined, enabled, masked, from the folders on the disk.

Source: systemd.unit(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from backend.disks import Listed
from backend.models import ChangeVerb, UnitChange, UnitState, wire_path

LOCAL = b"/etc/systemd/system"
FOLDERS = (LOCAL, b"/usr/local/lib/systemd/system", b"/usr/lib/systemd/system", b"/lib/systemd/system")
"""The first that has a unit counts."""
_UNIT = re.compile(rb"[^/]+\.(?:service|socket|timer|path|mount|automount|swap|target|slice)")
_WANTED = re.compile(rb"[^/]+\.(?:wants|requires)/([^/]+)")
_UNIT_FILE = re.compile(
    rb"(?:/etc|/usr/local/lib|/usr/lib|/lib)/systemd/system/([^/]+\.(?:service|socket|timer|path|mount|automount|swap|target|slice))"
    rb"(?:\.d/[^/]+\.conf)?"
)


def unit_of(path: bytes) -> bytes | None:
    """The unit whose file or drop-in is at ``path``."""
    match = _UNIT_FILE.fullmatch(path)
    return match[1] if match else None


def unit_states(listed: Mapping[bytes, Iterable[Listed]]) -> dict[bytes, UnitState]:
    """The state of each unit that the folders name."""
    found: dict[bytes, UnitState] = {}

    def state(name: bytes) -> UnitState:
        return found.setdefault(name, UnitState())

    for folder in FOLDERS:
        for item in listed.get(folder, ()):
            if wanted := _WANTED.fullmatch(item.path):
                if folder == LOCAL:
                    state(wanted[1]).enabled = True
            elif _UNIT.fullmatch(item.path) and item.kind in ("f", "l"):
                if item.target == b"/dev/null":
                    state(item.path).masked |= not state(item.path).defined
                    continue
                state(item.path).defined = True
                alias = item.target.rpartition(b"/")[2]
                if folder == LOCAL and item.kind == "l" and alias != item.path:
                    state(alias).enabled = True
    for name, known in found.items():
        known.defined |= _template(name) in found and found[_template(name)].defined
    return found


def _template(name: bytes) -> bytes:
    """``wg-quick@.service`` of ``wg-quick@wg0.service``; a unit that is no instance is its own."""
    stem, at, instance = name.partition(b"@")
    return stem + at + b"." + instance.rpartition(b".")[2] if at else name


def masked(listed: Mapping[bytes, Iterable[Listed]]) -> list[str]:
    """The units that nothing can start, sorted."""
    return sorted(wire_path(name) for name, state in unit_states(listed).items() if state.masked)


def started(listed: Mapping[bytes, Iterable[Listed]]) -> list[str]:
    """The units that the machine starts by itself, at boot or as a socket's service, sorted. What is wanted
    in a package's own folder is started, too, and is no state of ``systemctl enable``."""
    states = unit_states(listed)
    names = {name for name, state in states.items() if state.enabled}
    items = (item for folder in FOLDERS for item in listed.get(folder, ()))
    names |= {wanted[1] for item in items if (wanted := _WANTED.fullmatch(item.path))}
    names |= {name.removesuffix(b".socket") + b".service" for name in names if name.endswith(b".socket")}
    return sorted(
        wire_path(name)
        for name in names
        if name in states and states[name].defined and not states[name].masked
    )


def unit_changes(
    before: Mapping[bytes, UnitState],
    after: Mapping[bytes, UnitState],
    touched: set[bytes],
    owners: Mapping[bytes, str],
) -> list[UnitChange]:
    """Units whose state differs, and ``touched`` ones: those whose file, or a drop-in, came, went or differs.
    ``owners``: unit → package."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, UnitState()), after.get(name, UnitState())
        if old == new and name not in touched:
            continue
        verb = ChangeVerb.MODIFIED
        if old == UnitState() and new.defined:
            verb = ChangeVerb.ADDED
        elif old.defined and new == UnitState():
            verb = ChangeVerb.REMOVED
        found.append(
            UnitChange(name=wire_path(name), verb=verb, before=old, after=new, package=owners.get(name, ""))
        )
    return found
