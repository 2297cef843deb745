"""Hosts as rows, the creates that wait for them, and all that is known of one. Pure."""

from __future__ import annotations

from datetime import datetime

from backend.models import FleetView, HostView, Phase, Sandbox
from fluid_tui.paint import BLANK, Line, Role, Run, line, said
from fluid_tui.widgets.live_list import Column, Row
from fluid_tui.words import Mark, clock, plural, span

CLOCK_SKEW_MAX_S = 2.0
"""Beyond it an operator is told."""
DISK_LOW_MB = 5 * 1024
MEMORY_LOW_SHARE = 0.1
GB = 1024
METER_CELLS = 5
LABEL_CELLS = 10

HOST_COLUMNS = (
    Column("host", 0, name=True),
    Column("state", 14),
    Column("cpus", 4, right=True, from_width=86),
    Column("busy", 5, right=True, from_width=86),
    Column("memory free", 18, from_width=58),
    Column("disk free", 9, right=True),
    Column("guests", 6, right=True, from_width=44),
    Column("stock", 5, right=True, from_width=66),
    Column("creates", 7, right=True, from_width=74),
    Column("clock", 8, right=True, from_width=110),
    Column("versions", 32, from_width=128),
)
QUEUE_COLUMNS = (
    Column("sandbox", 18, name=True),
    Column("host", 10, from_width=50, name=True),
    Column("place and reason", 0),
)

STATES = {
    "up": Mark("●", "up", Role.GOOD),
    "draining": Mark("○", "draining", Role.WARN),
    "lost": Mark("?", "lost", Role.BAD),
}
VIRT = {"qemu": "emulated", "kvm": "KVM"}
UNKNOWN = Mark("?", "unknown", Role.BAD)


def host_mark(host: HostView) -> Mark:
    """The state of a host; what is not known says so."""
    return STATES.get(host.status, UNKNOWN)


def is_heard(host: HostView) -> bool:
    """Whether what is told of a host is how it is now."""
    return host.status in ("up", "draining")


def host_rows(hosts: list[HostView], now: datetime) -> list[Row]:
    """One row a host, in the order of the config; what is known of a lost one is greyed."""
    return [_host_row(host, now) for host in hosts]


def _host_row(host: HostView, now: datetime) -> Row:
    creates = f"{host.creating}+{host.waiting}" if host.creating or host.waiting else "—"
    mark = host_mark(host)
    facts: list[Run | Line] = [
        (str(host.cpus or "—"), Role.MUTED),
        (busy_words(host), Role.TEXT),
        memory_words(host),
        (size_words(host.disk_free_mb), Role.WARN if _disk_low(host) else Role.TEXT),
        (str(host.sandboxes), Role.TEXT),
        (str(host.stock), Role.MUTED),
        (creates, Role.ACCENT if host.waiting else Role.MUTED),
        _clock(host),
        said(_versions(host), Role.MUTED),
    ]
    if is_heard(host):
        return Row(host.name, (said(host.name, Role.TITLE), mark.run, *facts))
    since = f" {span((now - host.since).total_seconds())}" if host.since else ""
    state = (f"{mark.glyph} {mark.word}{since}", mark.role)
    return Row(host.name, (said(host.name, Role.TITLE), state, *map(_greyed, facts)))


def _greyed(cell: Run | Line) -> Line:
    runs = (cell,) if isinstance(cell[0], str) else cell
    return tuple((text, Role.MUTED) for text, _ in runs)


def busy_words(host: HostView) -> str:
    """How much of its processors is taken, by whom ever."""
    return "—" if host.busy_percent is None else f"{host.busy_percent} %"


def memory_words(host: HostView) -> Line:
    """A meter of what is taken, and what is left: ``▰▰▱▱▱▱ 9.8 of 16 GB``."""
    if not host.memory_mb:
        return line(("—", Role.MUTED))
    taken = 1 - host.memory_free_mb / host.memory_mb
    cells = min(METER_CELLS, max(0, round(taken * METER_CELLS)))
    low = host.memory_free_mb < MEMORY_LOW_SHARE * host.memory_mb
    return line(
        ("▰" * cells, Role.WARN if low else Role.ACCENT),
        ("▱" * (METER_CELLS - cells), Role.MUTED),
        (f" {_gb(host.memory_free_mb)} of {_gb(host.memory_mb)} GB", Role.WARN if low else Role.TEXT),
    )


def size_words(mb: int) -> str:
    """``512 MB``, ``41 GB``; ``—`` for nothing known."""
    if mb <= 0:
        return "—"
    return f"{mb} MB" if mb < GB else f"{_gb(mb)} GB"


def _gb(mb: int) -> str:
    return f"{mb / GB:.1f}" if mb < 10 * GB else f"{mb / GB:.0f}"


def _stock(host: HostView) -> str:
    on_disk = f" ({host.stock_suspended} on the disk)" if host.stock_suspended else ""
    return f"{host.stock} in stock{on_disk}"


def _disk_low(host: HostView) -> bool:
    return 0 < host.disk_free_mb < DISK_LOW_MB


def _clock(host: HostView) -> Run:
    if host.clock_skew_s is None:
        return ("—", Role.MUTED)
    off = abs(host.clock_skew_s) > CLOCK_SKEW_MAX_S
    return (f"{host.clock_skew_s:+.1f} s", Role.WARN if off else Role.MUTED)


def _versions(host: HostView) -> str:
    named = (("libvirt", host.libvirt_version), ("qemu", host.qemu_version))
    return " ".join(f"{name} {version}" for name, version in named if version)


def host_warnings(host: HostView) -> list[str]:
    """What an operator must know of a host beside its state."""
    found = []
    if host.draining and host.status == "lost":
        found.append("it takes no new sandboxes, also once it is back")
    if not host.isolated:
        found.append("its guests are not isolated: take `network` of this host out of config.yaml")
    skew_s = host.clock_skew_s or 0.0
    if abs(skew_s) > CLOCK_SKEW_MAX_S:
        way = "ahead of" if skew_s > 0 else "behind"
        found.append(f"its clock is {abs(skew_s):.1f} s {way} this machine's: timedatectl set-ntp true")
    if _disk_low(host):
        found.append(f"only {size_words(host.disk_free_mb)} are left for disks")
    if host.virt_type == "qemu":
        found.append(f"guests are emulated, not virtualised{_because(host.virt_reason)}")
    return found


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def queue_rows(fleet: FleetView, host: str = "") -> list[Row]:
    """The creates that wait or are on their way, oldest first; with ``host`` only that host's."""
    making = [
        one
        for one in fleet.sandboxes
        if one.phase is Phase.CREATING and host in ("", one.host_name) and one.purpose == "agent"
    ]
    return [_queue_row(one) for one in sorted(making, key=lambda one: one.created_at)]


def _queue_row(sandbox: Sandbox) -> Row:
    step = max(sandbox.steps, key=lambda name: sandbox.steps[name], default="")
    words = sandbox.reason or (f"{step} done" if step else "being made")
    why = f" · {sandbox.placement}" if sandbox.placement else ""
    return Row(
        sandbox.id,
        (
            said(sandbox.sandbox_name),
            said(sandbox.host_name, Role.MUTED),
            said(words + why, Role.ACCENT if sandbox.reason else Role.MUTED),
        ),
    )


def detail_lines(host: HostView, now: datetime) -> list[Line]:
    """All that is known of one host; warnings first."""
    lines = [line(("! ", Role.WARN), said(words, Role.WARN)) for words in host_warnings(host)]
    if host.last_error:
        lines.append(line(("✗ ", Role.BAD), said(host.last_error, Role.BAD)))
    if not is_heard(host) and host.since:
        words = f"not heard since {clock(host.since)}: what stands here is from before"
        lines.append(line(("? ", Role.BAD), (words, Role.BAD)))
    if lines:
        lines.append(BLANK)
    since = f" for {span((now - host.since).total_seconds())}" if host.since else ""
    templates = ", ".join(host.templates)
    creates = f"{host.creating} on their way, {host.waiting} wait" if host.creating or host.waiting else ""
    facts = [
        ("state", (f"{host_mark(host).word}{since}", host_mark(host).role)),
        ("address", said(host.address or host.uri or "this machine")),
        ("cpus", (f"{host.cpus or 'unknown'}, {busy_words(host)} busy", Role.TEXT)),
        ("memory", (f"{size_words(host.memory_free_mb)} free of {size_words(host.memory_mb)}", Role.TEXT)),
        ("disk", (f"{size_words(host.disk_free_mb)} free", Role.WARN if _disk_low(host) else Role.TEXT)),
        ("holds", (f"{plural(host.sandboxes, 'sandbox', 'sandboxes')}, {_stock(host)}", Role.TEXT)),
        *([("creates", said(creates))] if creates else []),
        ("template", said(templates or "none yet: the first fork of an image boots it", _known(templates))),
        ("forks", said(f"{host.fork_way or 'unknown'}{_because(host.fork_reason)}", _known(host.fork_way))),
        ("guests", said(_virt(host), _known(host.virt_type))),
        ("versions", said(_versions(host) or "unknown", _known(_versions(host)))),
        ("clock", (_skew(host), _clock(host)[1])),
    ]
    if not is_heard(host):
        facts[1:] = [(name, (words, Role.MUTED)) for name, (words, _) in facts[1:]]
    return lines + [line((f"{name:<{LABEL_CELLS}}", Role.MUTED), words) for name, words in facts]


def _known(words: str) -> Role:
    return Role.TEXT if words else Role.MUTED


def _virt(host: HostView) -> str:
    isolated = "isolated" if host.isolated else "not isolated"
    return f"{VIRT.get(host.virt_type, 'unknown')}, {isolated}"


def _skew(host: HostView) -> str:
    if host.clock_skew_s is None:
        return "this machine's, or not measured"
    return f"{host.clock_skew_s:+.2f} s to this machine's"
