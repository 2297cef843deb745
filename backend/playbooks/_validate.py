"""What checks a configuration file before it takes the place of one that works (rule P5 allows no other).

Only programs that judge the file alone, by a path of any name: a site of nginx or a unit of systemd cannot be
tried so, and its reload, which fails and leaves the old configuration in force, is its check.
"""

from __future__ import annotations

import re

_CHECKS: tuple[tuple[str, str], ...] = (
    (r"/etc/sudoers(?:\.d/.*)?", "/usr/sbin/visudo -cf %s"),
    (r"/etc/ssh/sshd_config(?:\.d/.*)?", "/usr/sbin/sshd -t -f %s"),
    (r"/etc/nginx/nginx\.conf", "/usr/sbin/nginx -t -c %s"),
    (r"/etc/haproxy/haproxy\.cfg", "/usr/sbin/haproxy -c -f %s"),
    (r"/etc/lighttpd/lighttpd\.conf", "/usr/sbin/lighttpd -tt -f %s"),
    (r"/etc/nftables\.conf", "/usr/sbin/nft -c -f %s"),
    (r"/etc/bind/named\.conf(?:\.[a-z-]+)?", "/usr/bin/named-checkconf %s"),
    (r"/etc/chrony/chrony\.conf", "/usr/sbin/chronyd -p -f %s"),
    (r"/etc/dnsmasq\.conf", "/usr/sbin/dnsmasq --test -C %s"),
)
VALIDATORS = tuple(command for _, command in _CHECKS)


def validator(path: str) -> str | None:
    """The command, with ``%s`` for the new file, that tries what is to stand at ``path``."""
    return next((command for pattern, command in _CHECKS if re.fullmatch(pattern, path)), None)
