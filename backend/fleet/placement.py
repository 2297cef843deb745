"""Which host takes a new sandbox: a pure choice over what the hosts showed, with its reason in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import FluidError, HypervisorDown, NoRoom, NoSpace

BUSY_STEPS = 4


@dataclass(frozen=True)
class Need:
    """What a sandbox asks of a host. The reserves are the host's own, and never given away."""

    memory_mb: int
    memory_reserve_mb: int
    disk_reserve_mb: int
    disk_mb: int = 0


@dataclass(frozen=True)
class Room:
    """One host as it was just seen. ``promised_mb`` is the memory of what is being made there,
    ``promised_disk_mb`` what all that is under way there writes to its disk; ``load`` is how many creates
    there are per processor; ``busy`` which share of its processors' time was used lately, with whose work
    ever (None: not known yet). ``down``: why it cannot be asked."""

    name: str
    down: FluidError | None = None
    draining: bool = False
    has_template: bool = False
    has_kvm: bool = False
    memory_free_mb: int = 0
    promised_mb: int = 0
    disk_free_mb: int = 0
    promised_disk_mb: int = 0
    load: float = 0.0
    busy: float | None = None


@dataclass(frozen=True)
class Placement:
    """The host, and why this one."""

    name: str
    reason: str


def place(rooms: Sequence[Room], need: Need) -> Placement:
    """A host whose template is ready, then one with KVM, then the least busy, then the one with most memory.

    Raises:
        NoRoom: no host takes it, with each one's reason; with one host only, that reason's own error.
    """
    refused = {room.name: why for room in rooms if (why := refusal(room, need))}
    fit = [room for room in rooms if room.name not in refused]
    if not fit:
        if len(refused) == 1:
            raise next(iter(refused.values()))
        words = "; ".join(f"{name}: {why.message}" for name, why in refused.items())
        raise NoRoom(f"no host takes it: {words}", remedy="`fluid hosts list` shows them; try again later")
    best = max(fit, key=_rank)
    return Placement(best.name, _reason(best, refused))


def _rank(room: Room) -> tuple[bool, bool, float, int]:
    """Of two that are busy by less than a quarter apart, memory decides."""
    load = room.load + round((room.busy or 0.0) * BUSY_STEPS) / BUSY_STEPS
    return room.has_template, room.has_kvm, -load, room.memory_free_mb - room.promised_mb


def refusal(room: Room, need: Need) -> FluidError | None:
    """Why a host does not take it; None if it does."""
    free_mb = room.memory_free_mb - room.promised_mb
    if room.down:
        return room.down
    if room.draining:
        return HypervisorDown(f"{room.name} is draining", remedy=f"fluid hosts resume {room.name}")
    disk_free_mb = room.disk_free_mb - room.promised_disk_mb
    if disk_free_mb < need.disk_mb + need.disk_reserve_mb:
        return no_space(room.name, disk_free_mb, need.disk_mb + need.disk_reserve_mb)
    return no_memory(room.name, free_mb, need)


def no_memory(host: str, free_mb: int, need: Need) -> NoSpace | None:
    """A host without memory ends guests at its choice: its reserve is never given away. None: there is
    enough."""
    if free_mb >= need.memory_mb + need.memory_reserve_mb:
        return None
    return NoSpace(
        f"{host} has {free_mb} MB of memory free, {need.memory_mb} are asked for and "
        f"{need.memory_reserve_mb} kept back",
        remedy="destroy or stop sandboxes, or ask for less memory_mb",
    )


def no_space(host: str, free_mb: int, needed_mb: int) -> NoSpace:
    """A full disk stops guests and PostgreSQL: nothing new begins on its reserve."""
    return NoSpace(
        f"{free_mb} MB are free on the disk of {host}, {needed_mb} are needed",
        remedy="destroy sandboxes, or lower limits.disk_reserve_mb",
    )


def _reason(best: Room, refused: dict[str, FluidError]) -> str:
    how = "its template is ready" if best.has_template else "it has no template yet"
    busy = "" if best.busy is None else f", {best.busy:.0%} busy"
    others = "".join(f"; not {name}: {why.message}" for name, why in refused.items())
    return f"{how}, {best.memory_free_mb - best.promised_mb} MB of memory free{busy}{others}"
