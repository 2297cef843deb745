"""Which service reads which file, and what it takes to make it read again."""

from __future__ import annotations

from backend.playbooks.builders.context import Context

SYSCTL = ("/etc/sysctl.d/", "/etc/sysctl.conf")
UNIT_FOLDER = "/etc/systemd/system/"

# Folder, unit, how. A reload that does not open new ports is no reload here.
READERS: tuple[tuple[str, str, str], ...] = (
    ("/etc/nginx/", "nginx", "reloaded"),
    ("/etc/apache2/mods-enabled/", "apache2", "restarted"),
    ("/etc/apache2/ports.conf", "apache2", "restarted"),
    ("/etc/apache2/", "apache2", "reloaded"),
    ("/etc/lighttpd/", "lighttpd", "restarted"),
    ("/etc/haproxy/", "haproxy", "reloaded"),
    ("/etc/ssh/sshd_config", "ssh", "reloaded"),
    ("/etc/postfix/", "postfix", "reloaded"),
    ("/etc/redis/", "redis-server", "restarted"),
    ("/etc/mysql/", "mariadb", "restarted"),
    ("/etc/fail2ban/", "fail2ban", "reloaded"),
    ("/etc/rsyslog", "rsyslog", "restarted"),
    ("/etc/chrony/", "chrony", "restarted"),
)


def notified(context: Context, path: str) -> list[str]:
    """The handlers that make a change of ``path`` count."""
    if path.startswith(SYSCTL):
        return [context.handler("Apply kernel settings", name="systemd-sysctl.service", state="restarted")]
    for folder, unit, state in READERS:
        if path.startswith(folder):
            verb = "Reload" if state == "reloaded" else "Restart"
            return [context.handler(f"{verb} {unit}", name=f"{unit}.service", state=state)]
    return []


def readers_of(context: Context, path: str) -> list[str]:
    """The handlers of services whose new configuration names ``path``, such as a certificate."""
    found: list[str] = []
    for change in context.changes.shown():
        text = (change.after.text if change.after else None) or ""
        if path in text:
            found += [name for name in notified(context, change.path) if name not in found]
    return found
