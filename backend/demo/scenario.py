"""What the demo agent does, drawn from a seed: a TLS web site with everything around it.

One scenario names every file with its exact content, so the agent (which makes it in a sandbox), the demo
(which makes the production machine drift from it) and the tests (which look for it) agree without talking.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SERVERS = ("nginx", "apache2", "lighttpd")
PACKAGES = {
    "nginx": ("nginx-light",),
    "apache2": ("apache2",),
    "lighttpd": ("lighttpd", "lighttpd-mod-openssl"),
}


@dataclass(frozen=True)
class GuestFile:
    """A file that the agent writes."""

    path: str
    content: str
    mode: str = "0644"
    owner: str = "root"


@dataclass(frozen=True)
class Scenario:
    """One seed's work. Paths are absolute in the guest."""

    seed: int
    server: str
    user: str
    port: int
    sysctl: dict[str, str]
    files: tuple[GuestFile, ...]
    enable: tuple[str, ...]  # commands that switch the site on
    target: str = "web-01"

    @property
    def packages(self) -> tuple[str, ...]:
        return PACKAGES[self.server]

    @property
    def sandbox_name(self) -> str:
        return f"{self.user}-tls"

    @property
    def root(self) -> str:
        """Where the pages are."""
        return f"/srv/{self.user}"

    @property
    def key(self) -> str:
        return f"/etc/ssl/{self.user}/site.key"

    @property
    def certificate(self) -> str:
        return f"/etc/ssl/{self.user}/site.crt"

    @property
    def sysctl_file(self) -> str:
        return f"/etc/sysctl.d/60-{self.user}.conf"

    @property
    def page(self) -> GuestFile:
        return next(file for file in self.files if file.path == f"{self.root}/index.html")


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(seed)  # noqa: S311 - a repeatable draw, no secret
    server = dice.choice(SERVERS)
    user = dice.choice(("shop", "wiki", "status", "docs", "forum")) + str(dice.randrange(10, 100))
    port = dice.randrange(8100, 8900)
    sysctl = {
        "net.core.somaxconn": str(dice.choice((1024, 2048, 4096, 8192))),
        "vm.swappiness": str(dice.randrange(5, 40)),
    }
    site, enable = _site(server, user, port)
    files = (
        GuestFile(f"/srv/{user}/index.html", _page(user, dice.randrange(1000, 9999))),
        GuestFile(f"/srv/{user}/release notes.txt", f"Release {dice.randrange(2, 9)}.{dice.randrange(20)}\n"),
        GuestFile(f"/srv/{user}/prüfung-✓.txt", "Grüße aus dem Rechenzentrum\n", owner=user),
        GuestFile(f"/srv/{user}/{{{{ price }}}}.txt", "{{ 7 * 7 }} is not a number here\n"),
        site,
        *_timer(user, dice.randrange(5, 59)),
        GuestFile(f"/etc/sysctl.d/60-{user}.conf", "".join(f"{k} = {v}\n" for k, v in sysctl.items())),
    )
    return Scenario(seed, server, user, port, sysctl, files, enable)


def _page(user: str, number: int) -> str:
    return f"<!doctype html>\n<title>{user}</title>\n<h1>{user} {number}</h1>\n<p>served over TLS</p>\n"


def _timer(user: str, minute: int) -> tuple[GuestFile, GuestFile]:
    service = (
        f"[Unit]\nDescription=Report of {user}\n\n"
        f"[Service]\nType=oneshot\nUser={user}\nExecStart=/usr/bin/du -s /srv/{user}\n"
    )
    timer = (
        f"[Unit]\nDescription=Report of {user}, hourly\n\n"
        f"[Timer]\nOnCalendar=*:{minute:02d}\n\n[Install]\nWantedBy=timers.target\n"
    )
    unit = f"/etc/systemd/system/{user}-report"
    return GuestFile(f"{unit}.service", service), GuestFile(f"{unit}.timer", timer)


def _site(server: str, user: str, port: int) -> tuple[GuestFile, tuple[str, ...]]:
    key, certificate, root = f"/etc/ssl/{user}/site.key", f"/etc/ssl/{user}/site.crt", f"/srv/{user}"
    if server == "nginx":
        content = (
            f"server {{\n    listen 443 ssl;\n    listen {port} ssl;\n    server_name web-01;\n"
            f"    ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    root {root};\n}}\n"
        )
        path = f"/etc/nginx/sites-available/{user}"
        return GuestFile(path, content), (
            f"ln -s {path} /etc/nginx/sites-enabled/{user}",
            "nginx -t && systemctl reload-or-restart nginx",
        )
    if server == "apache2":
        content = (
            f"Listen {port}\n<VirtualHost *:443 *:{port}>\n    ServerName web-01\n"
            f"    DocumentRoot {root}\n    SSLEngine on\n    SSLCertificateFile {certificate}\n"
            f"    SSLCertificateKeyFile {key}\n    <Directory {root}>\n        Require all granted\n"
            f"    </Directory>\n</VirtualHost>\n"
        )
        modules = ("socache_shmcb.load", "ssl.load")  # ports.conf listens on 443 once ssl is loaded
        return GuestFile(f"/etc/apache2/sites-available/{user}.conf", content), (
            *(f"ln -s ../mods-available/{module} /etc/apache2/mods-enabled/{module}" for module in modules),
            f"ln -s ../sites-available/{user}.conf /etc/apache2/sites-enabled/{user}.conf",
            "apache2ctl configtest && systemctl restart apache2",
        )
    content = (
        f'server.modules += ( "mod_openssl" )\n$SERVER["socket"] == ":443" {{\n    ssl.engine = "enable"\n'
        f'    ssl.pemfile = "{certificate}"\n    ssl.privkey = "{key}"\n'
        f'    server.document-root = "{root}"\n}}\n$SERVER["socket"] == ":{port}" {{\n'
        f'    ssl.engine = "enable"\n    ssl.pemfile = "{certificate}"\n    ssl.privkey = "{key}"\n'
        f'    server.document-root = "{root}"\n}}\n'
    )
    path = f"/etc/lighttpd/conf-available/50-{user}.conf"
    return GuestFile(path, content), (
        f"ln -s ../conf-available/50-{user}.conf /etc/lighttpd/conf-enabled/50-{user}.conf",
        "lighttpd -tt -f /etc/lighttpd/lighttpd.conf && systemctl restart lighttpd",
    )
