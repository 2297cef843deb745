"""A change as the disk shows it: a web server with TLS, a user, a timer, a sysctl file, strange names."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from backend.models import (
    Changes,
    ChangeVerb,
    Command,
    FileChange,
    FileKind,
    FileState,
    GroupChange,
    PackageChange,
    SettingChange,
    UnitChange,
    UnitState,
    UserChange,
    now,
    wire_path,
)
from backend.playbooks.builders.services import READERS

ON = sorted(
    {f"{unit}.service" for _, unit, _ in READERS}
    | {"docker.service", "php8.2-fpm.service", "postgresql.service"}
)
"""What the sample's machine starts by itself."""
_TURNED = {ChangeVerb.ADDED: ChangeVerb.REMOVED, ChangeVerb.REMOVED: ChangeVerb.ADDED}

Sided = TypeVar("Sided", FileChange, UnitChange, UserChange, GroupChange, SettingChange)

STRANGE = "/srv/site/über {{ lookup('pipe', 'id') }} page.html"
SITE = "server { listen 443 ssl; ssl_certificate /etc/ssl/site/site.pem; }\n"
OPENSSL = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout /etc/ssl/site/site.key"
    " -out /etc/ssl/site/site.pem -subj '/CN=site.example'"
)
COMMANDS = [
    "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light openssl",
    "useradd --system --create-home --home-dir /srv/deploy --shell /usr/sbin/nologin"
    " --comment 'Deploy {{ x }}' deploy",
    f"mkdir -p /etc/ssl/site /srv/site && {OPENSSL} 2>/dev/null && chgrp deploy /etc/ssl/site/site.key"
    " && chmod 640 /etc/ssl/site/site.key",
    "rm -f /etc/nginx/sites-enabled/default",
    "cat > /etc/nginx/sites-available/site <<'EOF'\nserver { }\nEOF\nln -s ../sites-available/site"
    " /etc/nginx/sites-enabled/site",
    "systemctl enable --now rotate.timer",
]


class Blobs(dict[str, bytes]):
    """The blob store, in memory."""

    def get(self, sha256: str) -> bytes:  # type: ignore[override]
        return self[sha256]


class Sample:
    """Builds :class:`Changes` file by file."""

    def __init__(self) -> None:
        self.blobs = Blobs()
        self.files: list[FileChange] = []
        self.parts: dict[str, Any] = {"packages": [], "units": [], "users": [], "groups": [], "started": ON}
        self.commands = [
            Command(id=f"CMD-{n}", sandbox_id="SBX-1", command=text, exit_code=0, started_at=now())
            for n, text in enumerate(COMMANDS)
        ]

    def add(
        self,
        path: str | bytes,
        content: bytes | None = None,
        *,
        kind: FileKind = FileKind.FILE,
        mode: int = 0o644,
        verb: ChangeVerb = ChangeVerb.ADDED,
        package: str = "",
        hidden: str = "",
        **state: Any,
    ) -> None:
        wire = wire_path(path if isinstance(path, bytes) else path.encode())
        fields: dict[str, Any] = {
            "kind": kind,
            "mode": mode,
            "uid": 0,
            "gid": 0,
            "owner": "root",
            "group": "root",
        }
        if content is not None:
            sha = hashlib.sha256(content).hexdigest()
            self.blobs[sha] = content
            fields |= {
                "sha256": sha,
                "blob": True,
                "size": len(content),
                "text": content.decode("utf-8", "replace"),
            }
        after = None if verb is ChangeVerb.REMOVED else FileState(**{**fields, **state})
        before = FileState(**fields) if verb is not ChangeVerb.ADDED else None
        self.files.append(
            FileChange(path=wire, verb=verb, before=before, after=after, package=package, hidden=hidden)
        )

    def changes(self) -> Changes:
        return Changes(
            id="CHG-1",
            sandbox_id="SBX-1",
            from_snapshot="SNP-1",
            to_snapshot="SNP-2",
            created_at=now(),
            files=sorted(self.files, key=lambda change: change.path),
            **self.parts,
        )


def web_server() -> Sample:
    """What the demo's agent does."""
    sample = Sample()
    folder = FileKind.DIRECTORY
    sample.parts["packages"] = [
        PackageChange(name="nginx-light", verb=ChangeVerb.ADDED, after_version="1.22.1-9", wanted=True),
        PackageChange(name="openssl", verb=ChangeVerb.ADDED, after_version="3.0.20-1", wanted=True),
        PackageChange(name="libssl3", verb=ChangeVerb.ADDED, after_version="3.0.20-1"),
    ]
    sample.parts["groups"] = [GroupChange(name="deploy", verb=ChangeVerb.ADDED, after={"gid": "997"})]
    sample.parts["users"] = [
        UserChange(
            name="deploy",
            verb=ChangeVerb.ADDED,
            after={
                "uid": "997",
                "gid": "997",
                "home": "/srv/deploy",
                "shell": "/usr/sbin/nologin",
                "comment": "Deploy {{ x }}",
                "groups": "",
                "password": "!",
            },
        )
    ]
    on = UnitState(enabled=True, defined=True)
    sample.parts["units"] = [
        UnitChange(name="nginx.service", verb=ChangeVerb.ADDED, after=on, package="nginx-common"),
        UnitChange(name="rotate.service", verb=ChangeVerb.ADDED, after=UnitState(defined=True)),
        UnitChange(name="rotate.timer", verb=ChangeVerb.ADDED, after=on),
    ]
    for path in ("/etc/ssl/site", "/srv/site", "/srv/deploy"):
        sample.add(path, kind=folder, mode=0o755)
    sample.add("/srv/deploy/.profile", b"# skeleton\n")
    sample.add("/etc/passwd", b"root:x:0:0\n", verb=ChangeVerb.MODIFIED)
    sample.add("/etc/ssl/site/site.pem", b"-----BEGIN CERTIFICATE-----\n", certificate={"subject": "CN=site"})
    sample.add(
        "/etc/ssl/site/site.key", mode=0o640, group="deploy", gid=997, secret="private key", sha256="0" * 64
    )
    sample.add("/etc/nginx/sites-available/site", SITE.encode())
    sample.add(
        "/etc/nginx/sites-enabled/site", kind=FileKind.LINK, mode=0o777, target="../sites-available/site"
    )
    sample.add("/usr/sbin/nginx", b"ELF", mode=0o755, package="nginx-light")
    sample.add(STRANGE, b"<h1>{{ not a template }}</h1>\n")
    sample.add("/etc/sysctl.d/60-site.conf", b"net.core.somaxconn = 1024\n")
    sample.add("/etc/systemd/system/rotate.service", b"[Service]\nType=oneshot\nExecStart=/bin/true\n")
    sample.add(
        "/etc/systemd/system/rotate.timer", b"[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n"
    )
    sample.add(
        "/etc/systemd/system/timers.target.wants/rotate.timer",
        kind=FileKind.LINK,
        mode=0o777,
        target="/etc/systemd/system/rotate.timer",
    )
    sample.add("/var/log/nginx/access.log", b"", hidden="logs")
    return sample


def plain_web_server() -> Sample:
    """A site of nginx, nothing more, with all that apt leaves on a disk around it."""
    sample = Sample()
    sample.commands = [
        Command(id=f"CMD-{n}", sandbox_id="SBX-1", command=text, exit_code=0, started_at=now())
        for n, text in enumerate(
            (
                "apt-get install -y nginx-light",
                "install -D -m 0644 /dev/stdin /var/www/site/index.html",
                "tee /etc/nginx/sites-available/site",
                "ln -s ../sites-available/site /etc/nginx/sites-enabled/site && nginx -t",
                "rm /etc/nginx/sites-enabled/default",
                "systemctl reload nginx && curl -fsS http://localhost/",
            )
        )
    ]
    pulled = [f"libnginx-mod-{n}" for n in range(6)] + ["nginx-common", "libgd3", "libxslt1.1"]
    sample.parts["packages"] = [
        PackageChange(name="nginx-light", verb=ChangeVerb.ADDED, after_version="1.22.1-9", wanted=True),
        *(PackageChange(name=name, verb=ChangeVerb.ADDED, after_version="1") for name in pulled),
    ]
    on = UnitState(enabled=True, defined=True)
    sample.parts["units"] = [
        UnitChange(name="nginx.service", verb=ChangeVerb.ADDED, after=on, package="nginx-common")
    ]
    for name in pulled:
        for n in range(40):
            sample.add(f"/usr/share/doc/{name}/{n}", b"x", package=name)
        sample.add(f"/etc/nginx/conf.d/{name}.conf", b"x", package=name)
        sample.add(f"/var/lib/dpkg/info/{name}.list", b"x", hidden="package database")
    sample.add(
        "/etc/systemd/system/multi-user.target.wants/nginx.service",
        kind=FileKind.LINK,
        mode=0o777,
        target="/lib/systemd/system/nginx.service",
    )
    for path, rule in (("/var/lib/dpkg/status", "package database"), ("/var/log/dpkg.log", "logs")):
        sample.add(path, b"x", verb=ChangeVerb.MODIFIED, hidden=rule)
    sample.add("/etc/nginx/sites-available/site", SITE.encode())
    sample.add(
        "/etc/nginx/sites-enabled/site", kind=FileKind.LINK, mode=0o777, target="../sites-available/site"
    )
    sample.add("/var/www/site", kind=FileKind.DIRECTORY, mode=0o755)
    sample.add("/var/www/site/index.html", b"<h1>site</h1>\n")
    return sample


def turned_round(changes: Changes) -> Changes:
    """The same change from its end to its beginning: what takes it back on a machine that had nothing of its
    own."""
    return changes.model_copy(
        update={
            "files": [_sides(change) for change in changes.files],
            "packages": [_package(change) for change in changes.packages],
            "units": [_sides(change) for change in changes.units],
            "users": [_sides(change) for change in changes.users],
            "groups": [_sides(change) for change in changes.groups],
            "settings": [_sides(change) for change in changes.settings],
        }
    )


def _sides(change: Sided) -> Sided:
    verb = _TURNED.get(change.verb, change.verb)
    return change.model_copy(update={"verb": verb, "before": change.after, "after": change.before})


def _package(change: PackageChange) -> PackageChange:
    return change.model_copy(
        update={
            "verb": _TURNED.get(change.verb, change.verb),
            "before_version": change.after_version,
            "after_version": change.before_version,
        }
    )
