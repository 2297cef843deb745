"""Which service reads which file, and what it takes to make it read again.

A reload starts what is not running. So a handler is only for a unit that the machine starts by itself, or
that the agent itself woke where nothing else is known of it; a note says what to run for any other.
"""

from __future__ import annotations

import re

from backend.models import UnitChange
from backend.playbooks.builders.context import Context
from backend.playbooks.builders.derived import made_again

SYSCTL = ("/etc/sysctl.d/", "/etc/sysctl.conf")
FSTAB = "/etc/fstab"  # its lines are units once systemd has read them
UNIT_FOLDER = "/etc/systemd/system/"

# Where a file is, unit, how. A reload that does not open new ports is no reload here.
READERS: tuple[tuple[str, str, str], ...] = (
    ("/etc/nginx/", "nginx", "reloaded"),
    ("/etc/apache2/mods-enabled/", "apache2", "restarted"),
    ("/etc/apache2/ports.conf", "apache2", "restarted"),
    ("/etc/apache2/", "apache2", "reloaded"),
    ("/etc/lighttpd/", "lighttpd", "restarted"),
    ("/etc/haproxy/", "haproxy", "reloaded"),
    ("/etc/squid/", "squid", "reloaded"),
    ("/etc/ssh/sshd_config", "ssh", "reloaded"),
    ("/etc/postfix/", "postfix", "reloaded"),
    ("/etc/dovecot/", "dovecot", "reloaded"),
    ("/etc/bind/", "named", "reloaded"),
    ("/etc/unbound/", "unbound", "restarted"),
    ("/etc/dnsmasq.", "dnsmasq", "restarted"),
    ("/etc/nftables.", "nftables", "reloaded"),
    ("/etc/ufw/", "ufw", "restarted"),
    ("/etc/firewalld/", "firewalld", "reloaded"),
    ("/etc/iptables/", "netfilter-persistent", "restarted"),
    ("/etc/exports", "nfs-server", "reloaded"),
    ("/etc/samba/", "smbd", "reloaded"),
    ("/etc/redis/", "redis-server", "restarted"),
    ("/etc/mysql/", "mariadb", "restarted"),
    ("/etc/fail2ban/", "fail2ban", "reloaded"),
    ("/etc/rsyslog.", "rsyslog", "restarted"),
    ("/etc/chrony/", "chrony", "restarted"),
    ("/etc/apparmor.d/", "apparmor", "reloaded"),
    ("/etc/modules", "systemd-modules-load", "restarted"),
    ("/etc/systemd/journald.conf", "systemd-journald", "restarted"),
    ("/etc/systemd/resolved.conf", "systemd-resolved", "restarted"),
    ("/etc/systemd/timesyncd.conf", "systemd-timesyncd", "restarted"),
    ("/etc/systemd/network/", "systemd-networkd", "reloaded"),
)
# The same where the unit's name stands in the path.
_NAMED: tuple[tuple[str, str, str], ...] = (
    (r"/etc/php/([0-9.]+)/fpm/.*", r"php\1-fpm", "reloaded"),
    (r"/etc/postgresql/[0-9]+/[^/]+/pg_(?:hba|ident)\.conf", "postgresql", "reloaded"),
    (r"/etc/postgresql/.*", "postgresql", "restarted"),
    (r"/etc/wireguard/([a-z0-9_-]+)\.conf", r"wg-quick@\1", "restarted"),
)
_OTHER_NAMES = {"ssh": "sshd", "apache2": "httpd", "redis-server": "redis", "smbd": "smb"}
_ONESHOT = re.compile(r"^\s*Type\s*=\s*oneshot\s*$", re.MULTILINE)
_STARTABLE = (".timer", ".socket", ".path", ".mount", ".automount", ".swap", ".target")
_RELOADING = frozenset({"reload", "force-reload"})
_WAKING = _RELOADING | {"start", "restart", "try-restart", "reload-or-restart"}


def notified(context: Context, path: str) -> list[str]:
    """The handlers that make a change of ``path`` count."""
    return made_again(context, path) + _woken(context, path)


def _woken(context: Context, path: str) -> list[str]:
    if path.startswith(SYSCTL):
        return [context.handler("Apply kernel settings", name="systemd-sysctl.service", state="restarted")]
    if path == FSTAB:
        return [context.handler("Reload systemd", daemon_reload=True)]
    unit, state = _reader(context, path)
    if not unit or is_off(context, f"{unit}.service") or _is_idle(context, f"{unit}.service"):
        return []
    if not _is_started(context, f"{unit}.service"):
        how = state.removesuffix("ed")
        context.note(
            f"{path}: {unit} is not known to be on and a handler would start it; where it runs,"
            f" `systemctl {how} {unit}` makes the change count"
        )
        return []
    verb = "Reload" if state == "reloaded" else "Restart"
    return [context.handler(f"{verb} {unit}", name=f"{unit}.service", state=state)]


def readers_of(context: Context, path: str) -> list[str]:
    """The handlers of services whose new configuration names ``path``, such as a certificate."""
    found: list[str] = []
    for change in context.changes.shown():
        text = (change.after.text if change.after else None) or ""
        if path in text:
            found += [name for name in notified(context, change.path) if name not in found]
    return found


def woken(context: Context, unit: str) -> bool:
    """True when the agent itself started, restarted or reloaded the unit."""
    return bool(_verbs(context, unit))


def _verbs(context: Context, unit: str) -> frozenset[str]:
    """How the agent woke the unit."""
    names = {unit, unit.removesuffix(".service")}
    calls = (set(call.argv) for _, call in context.calls("systemctl", "service"))
    return frozenset(verb for argv in calls if names & argv for verb in _WAKING & argv)


def stays_up(context: Context, name: str) -> bool:
    """A unit that stays active once started; a oneshot would run again at each apply."""
    if name.endswith(_STARTABLE):
        return True
    text = context.text_of(UNIT_FOLDER + name)
    return name.endswith(".service") and "@." not in name and not _ONESHOT.search(text)


def _reader(context: Context, path: str) -> tuple[str, str]:
    for place, unit, state in READERS:
        if path.startswith(place):
            return _called_here(context, unit), state
    for pattern, unit, state in _NAMED:
        if found := re.fullmatch(pattern, path):
            return found.expand(unit), state
    if unit := _own_unit(context, path):
        return unit, "restarted"
    unit = _named_like(context, path)
    return unit, "reloaded" if _verbs(context, unit) <= _RELOADING else "restarted"


def _own_unit(context: Context, path: str) -> str:
    """A service of the change itself that names the path: its program, its settings."""
    whole = re.compile(rf"(?<![^\s=:,@'\"+!-]){re.escape(path)}(?![^\s;,'\"])")
    for unit in context.changes.units:
        text = context.text_of(UNIT_FOLDER + unit.name)
        service = unit.name.endswith(".service") and unit.after.enabled and stays_up(context, unit.name)
        if service and whole.search(text):
            return unit.name.removesuffix(".service")
    return ""


def _named_like(context: Context, path: str) -> str:
    """The service that a folder or file below /etc is named for, when the agent itself woke it."""
    found = re.fullmatch(r"/etc/(?:default/)?([a-z][a-z0-9_-]*?)(?:\.conf|\.conf\.d/.*|\.d/.*|/.*)?", path)
    return found[1] if found and woken(context, f"{found[1]}.service") else ""


def is_off(context: Context, name: str) -> bool:
    """Nothing may start the unit: it is masked, or the change switches it off or takes it away."""
    change: UnitChange | None = next((one for one in context.changes.units if one.name == name), None)
    if change is None:
        return name in context.changes.masked
    after = change.after
    return after.masked or not after.defined or (change.before.enabled and not after.enabled)


def _is_started(context: Context, name: str) -> bool:
    """On at the end of the change; where the diff does not know the units, started by the agent."""
    change = next((one for one in context.changes.units if one.name == name), None)
    if change is not None and change.after.enabled:
        return True
    if change is None and not context.changes.started:
        return woken(context, name)
    return name in context.changes.started or ("@" in name and woken(context, name))


def _called_here(context: Context, unit: str) -> str:
    """The name that a family of distributions has for a service."""
    other = _OTHER_NAMES.get(unit, "")
    on = context.changes.started
    return other if f"{other}.service" in on and f"{unit}.service" not in on else unit


def _is_idle(context: Context, name: str) -> bool:
    """An instance that nobody started: its file alone brings up no tunnel."""
    started = any(one.name == name and one.after.enabled for one in context.changes.units)
    return "@" in name and not started and not woken(context, name)
