"""What listens and runs in a guest, as it tells it itself; what differs in two such answers. Pure.

Nothing of it is believed: root in the guest may lie, so whatever is made of it is labelled. Sources: ss(8)
and proc_net(5) for ports, systemctl(1) for units. What comes and goes by itself, and what is there for us, is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address

from backend.changes.residuals import EXTRA, MISSING
from backend.guests import PROXY_PORT
from backend.models import (
    ChangeVerb,
    ResidualRow,
    RunningChange,
    RunningChanges,
    RunningKind,
    RunningState,
    wire_path,
)

MAX_EACH = 1000
FAILED = "failed"
NOT_THERE = "not there"
_STATES = {"service": "running", "socket": "listening", "timer": "waiting"}
_ENDS_LATE = "124"  # timeout(1)
_FIRST_DRAWN = 32_768  # ip(7), ip_local_port_range
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_INTERFACE = re.compile(r"(?:%[A-Za-z0-9_.@-]{1,15})?")
_PROGRAM = re.compile(rb'\("([^"]{1,64})",pid=[0-9]+,fd=[0-9]+\)')
_HEX = re.compile(rb"(tcp|udp)6? ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4})")
_UNIT = re.compile(rb"[A-Za-z0-9:_.\\@-]{1,249}\.(?:service|socket|timer|mount)")
_OURS = f"tcp 127.0.0.1:{PROXY_PORT}"
_SSHD = frozenset({"sshd", "sshd-session"})
# They draw a port for each question that they ask.
_CLIENTS = frozenset(
    {"systemd-timesyn", "systemd-resolve", "chronyd", "ntpd", "dhclient", "named", "unbound"}
)
# Of one log-in, one command or one connection; gone when idle, or when its work is done; ours.
_FLEETING = re.compile(
    r"run-(?:[ru][0-9a-f]+|p[0-9]+-i[0-9]+)\.(?:service|socket|timer)|run-user-.*\.mount"
    r"|(?:user|user-runtime-dir)@[0-9]+\.service|sshd?@.*|fluid-guestd\.service"
    r"|(?:systemd-(?:hostnamed|localed|timedated|tmpfiles-clean)|packagekit|fwupd|polkit|apt-daily|"
    r"apt-daily-upgrade|dpkg-db-backup|logrotate|man-db|dnf-makecache)\.service"
)


class _Answer:
    """Its sections: ``=NAME``, lines, ``=end STATUS``."""

    def __init__(self, data: bytes) -> None:
        self._lines: dict[bytes, list[bytes]] = {}
        self._ended: dict[bytes, str] = {}
        name = None
        for line in data.split(b"\n"):
            if line.startswith(b"=end ") and name is not None:
                self._ended[name] = line[5:8].decode("ascii", "replace").strip()
                name = None
            elif line.startswith(b"=") and name is None and line[1:] not in self._lines:
                name = line[1:]
                self._lines[name] = []
            elif name is not None and line:
                self._lines[name].append(line)

    def has(self, name: bytes) -> bool:
        return name in self._lines

    def lines(self, name: bytes) -> list[bytes]:
        return self._lines[name]

    def why_not(self, name: bytes) -> str:
        """Why a section is no answer; empty if it is one."""
        status = self._ended.get(name)
        if status is None:
            return "the answer is cut off"
        if status == _ENDS_LATE:
            return "it took too long"
        return "" if status == "0" else f"what it was asked with ended with {wire_path(status.encode())}"


def parse(data: bytes) -> RunningState:
    """The answer to :data:`backend.guests.telling.RUNNING`. Whatever it is, there is a state; its notes say
    what could not be read."""
    answer, state = _Answer(data), RunningState()
    for name, read in ((b"ss", _listener), (b"proc", _place)):
        if answer.has(name):
            state.ports = _read(answer, name, read, "ports", state.notes)
            break
    else:
        state.notes.append("its ports are not told: the answer cannot be used")
    if answer.has(b"proc"):
        state.notes.append("which programs listen is not told: it has no ss")
    if answer.has(b"units"):
        state.units = _read(answer, b"units", _unit, "units", state.notes)
    else:
        state.notes.append("its units are not told: it does not run systemd")
    return state


def _read(
    answer: _Answer,
    name: bytes,
    read: Callable[[bytes], tuple[str, set[str]] | None],
    what: str,
    notes: list[str],
) -> dict[str, str] | None:
    """By name, sorted; ``read`` raises ValueError, and says None to what is left out."""
    if why := answer.why_not(name):
        notes.append(f"its {what} are not told: {why}")
        return None
    found: dict[str, set[str]] = {}
    unread = 0
    for line in answer.lines(name):
        try:
            one = read(line)
        except ValueError:
            unread += 1
            continue
        if one is not None:
            found.setdefault(one[0], set()).update(one[1])
    if unread:
        notes.append(f"its {what}: {unread} lines of its answer cannot be read")
    if len(found) > MAX_EACH:
        notes.append(f"its {what}: only {MAX_EACH} of {len(found)} are kept")
    return {name: ", ".join(sorted(words)) for name, words in sorted(found.items())[:MAX_EACH]}


def _listener(line: bytes) -> tuple[str, set[str]] | None:
    """``tcp LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:(("nginx",pid=7,fd=6))`` of ss(8)."""
    fields = line.split(None, 6)
    if len(fields) < 6 or fields[0] not in (b"tcp", b"udp"):
        raise ValueError("no listener")
    protocol, local = fields[0].decode(), fields[4].decode("ascii")
    programs = {wire_path(program) for program in _PROGRAM.findall(b"".join(fields[6:]))}
    address, _, port = local.rpartition(":")
    name = f"{protocol} {_address(address)}:{_number(port)}"
    if name == _OURS and programs <= _SSHD:
        return None
    if protocol == "udp" and int(port) >= _FIRST_DRAWN and programs & _CLIENTS:
        return None
    return name, programs


def _address(text: str) -> str:
    """``*``, ``0.0.0.0``, ``127.0.0.53%lo`` or ``[fe80::1]%eth0``."""
    bare, percent, interface = text.partition("%")
    if not _INTERFACE.fullmatch(percent + interface):
        raise ValueError("no interface")
    if bare == "*":
        return text
    bracketed = bare.startswith("[") and bare.endswith("]")
    found = str(ip_address(bare[1:-1] if bracketed else bare))
    return (f"[{found}]" if ":" in found else found) + percent + interface


def _number(port: str) -> str:
    if not _PORT.fullmatch(port) or int(port) > 0xFFFF:
        raise ValueError("no port")
    return port


def _place(line: bytes) -> tuple[str, set[str]] | None:
    """``tcp 0100007F:0CEA`` of proc_net(5): words of the machine's own order, as ours are."""
    match = _HEX.fullmatch(line)
    if match is None:
        raise ValueError("no place")
    protocol, words, port = match[1].decode(), match[2], int(match[3], 16)
    raw = b"".join(bytes.fromhex(words[at : at + 8].decode())[::-1] for at in range(0, len(words), 8))
    name = f"{protocol} {_address(str(ip_address(raw)))}:{_number(str(port))}"
    return None if name == _OURS else (name, set())


def _unit(line: bytes) -> tuple[str, set[str]] | None:
    """``nginx.service loaded active running A web server`` of ``systemctl list-units``."""
    fields = line.split(None, 4)
    if len(fields) < 4 or not _UNIT.fullmatch(fields[0]):
        raise ValueError("no unit")
    name, active = fields[0].decode(), fields[2]
    if _FLEETING.fullmatch(name):
        return None
    if active == b"failed":
        return name, {FAILED}
    state = _STATES.get(name.rpartition(".")[2])
    return (name, {state}) if state else None


# --- two of them --------------------------------------------------------------------------------------------


def compare(before: RunningState | None, after: RunningState | None, from_: str, to: str) -> RunningChanges:
    """What came, went and differs; of what one of the two did not tell, a note. ``from_`` and ``to``: what a
    reader calls the two points."""
    told = RunningChanges(before=before, after=after)
    for words, state in ((from_, before), (to, after)):
        notes = ["what listens and runs was not asked then"] if state is None else state.notes
        told.notes += [f"{words}: {note}" for note in notes]
    if before is not None and after is not None:
        for kind, old, new in _sides(before, after):
            told.changes += _differences(kind, old, new)
    return told


def _sides(
    one: RunningState, other: RunningState
) -> Iterator[tuple[RunningKind, dict[str, str], dict[str, str]]]:
    """What both told."""
    if one.ports is not None and other.ports is not None:
        yield RunningKind.PORT, one.ports, other.ports
    if one.units is not None and other.units is not None:
        yield RunningKind.UNIT, one.units, other.units


def _differences(
    kind: RunningKind, old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[RunningChange]:
    for name in sorted(old.keys() | new.keys(), key=_by_number):
        before, after = old.get(name), new.get(name)
        if before == after or ("" in (before, after) and None not in (before, after)):
            continue  # which programs is not known of one of them
        verb = ChangeVerb.MODIFIED
        if before is None or after is None:
            verb = ChangeVerb.ADDED if before is None else ChangeVerb.REMOVED
        yield RunningChange(kind=kind, name=name, verb=verb, before=before, after=after)


def _by_number(name: str) -> tuple[str, int, str]:
    """Ports in the order of their numbers."""
    protocol, _, place = name.partition(" ")
    port = place.rpartition(":")[2]
    return (protocol, int(port) if port.isdigit() else 0, place)


# --- the sandbox and its twin -------------------------------------------------------------------------------


def unlike(sandbox: RunningChanges | None, twin: RunningState, end: RunningState) -> list[ResidualRow] | None:
    """What the work or the playbook started or ended, and stands otherwise in the sandbox than in the twin at
    the ``end``; ``twin``: as it began. None: one of them did not tell.

    A port that is drawn anew at each start counts by its program, a machine's own address as that.
    """
    if sandbox is None or sandbox.before is None or sandbox.after is None:
        return None
    rows: list[ResidualRow] = []
    compared = False
    moved = [*sandbox.changes, *compare(twin, end, "", "").changes]
    for kind, mine, theirs in _sides(sandbox.after, end):
        compared = True
        touched = {_alike(kind, one.name, one.after or one.before or "") for one in moved if one.kind is kind}
        ours, others = (
            {_alike(kind, name, told): (name, told) for name, told in side.items()} for side in (mine, theirs)
        )
        for key in sorted(touched):
            one, other = ours.get(key), others.get(key)
            states = [side and (kind is RunningKind.PORT or side[1]) for side in (one, other)]
            if states[0] != states[1]:
                rows += _row(kind, one, other)
    return rows if compared else None


def _alike(kind: RunningKind, name: str, programs: str) -> str:
    """What a port or unit is called on any machine."""
    if kind is RunningKind.UNIT:
        return name
    protocol, _, place = name.partition(" ")
    address, _, port = place.rpartition(":")
    if int(port) >= _FIRST_DRAWN:
        return f"{protocol} {programs}"
    bare = address.partition("%")[0].strip("[]")
    own = bare != "*" and not (ip_address(bare).is_unspecified or ip_address(bare).is_loopback)
    return f"{protocol} {'its own address' if own else bare}:{port}"


_Known = tuple[str, str] | None


def _row(kind: RunningKind, one: _Known, other: _Known) -> Iterator[ResidualRow]:
    """``one``: name and programs or state in the sandbox; ``other``: in the twin."""
    name = (one or other or ("", ""))[0]
    if kind is RunningKind.PORT:
        only_here = "the rehearsal does not listen there: what no unit starts is not in the playbook"
        only_there = "the sandbox does not listen there"
    else:
        only_here = "it does not run so after the rehearsal"
        only_there = "it does not run so in the sandbox"
    states = [NOT_THERE if side is None else side[1] or "listens" for side in (one, other)]
    yield ResidualRow(
        kind=MISSING if one is not None else EXTRA,
        noun=kind.value,
        name=name,
        reason=only_here if one is not None else only_there,
        sandbox=states[0],
        rehearsal=states[1],
    )
