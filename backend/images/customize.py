"""Makes the installed tree a guest of ours: settings, users, payload; nothing that tells guests apart."""

from __future__ import annotations

import shutil
from pathlib import Path

from backend.errors import InvalidValue
from backend.images.programs import Programs
from backend.images.settings import APT_OPTIONS, ENABLED, FILES, MASKED, USER, Text

CHROOT_LIMIT_S = 120
BUILD_LEFTOVERS = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/apt/sources.list",
)
UNITS = "etc/systemd/system"


def put(root: Path, file: Text) -> None:
    """Write a file below ``root``. What stood there, a link perhaps, is replaced and never followed."""
    path = root / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(file.text, encoding="utf-8")
    path.chmod(file.mode)


def payload_place(name: str) -> tuple[str, int]:
    """Where a payload file goes in the guest, and its mode."""
    if name.endswith((".service", ".timer", ".socket")):
        return f"{UNITS}/{name}", 0o644
    if "." not in name:
        return f"usr/local/sbin/{name}", 0o755
    raise InvalidValue(
        f"payload file {name!r} has no place in a guest", remedy="a program or a systemd unit has"
    )


def payload_files(folder: Path) -> list[Path]:
    """The programs and units that every guest carries."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".md"))


async def customize(
    programs: Programs, root: Path, *, sources: str, apt_options: str, distribution: str, payload: Path
) -> None:
    """Apply all settings to the tree ``root``. ``sources`` is deb822 text, ``apt_options`` the host's."""
    for name in BUILD_LEFTOVERS:
        (root / name).unlink(missing_ok=True)
    for listing in (root / "etc/apt/sources.list.d").iterdir():
        listing.unlink()
    put(root, Text(f"etc/apt/sources.list.d/{distribution}.sources", sources))
    put(root, Text("etc/apt/apt.conf.d/90fluid", APT_OPTIONS + apt_options))
    for file in FILES:
        put(root, file)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _link(root / "var/lib/dbus/machine-id", "/etc/machine-id")
    units = _install_payload(root, payload)
    await _users(programs, root)
    await _systemd(programs, root, units)
    # Apt's index, made here, saves the guest's first install seconds of parsing 50 MB of lists.
    await programs.run("chroot", root, "apt-cache", "-q", "gencaches", limit_s=CHROOT_LIMIT_S)


def _install_payload(root: Path, payload: Path) -> list[str]:
    """Copy the payload in; the units among it."""
    units = []
    for path in payload_files(payload):
        place, mode = payload_place(path.name)
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target)
        target.chmod(mode)
        if place.startswith(UNITS):
            units.append(path.name)
    return units


async def _users(programs: Programs, root: Path) -> None:
    """``*`` and not ``!``: sshd without PAM takes the latter for a locked account."""
    await programs.run("chroot", root, "usermod", "-p", "*", "root", limit_s=CHROOT_LIMIT_S)
    await programs.run(
        "chroot", root, "useradd", "-m", "-s", "/bin/bash", "-p", "*", USER, limit_s=CHROOT_LIMIT_S
    )


async def _systemd(programs: Programs, root: Path, units: list[str]) -> None:
    systemctl = ("chroot", root, "systemctl", "-q")
    await programs.run(*systemctl, "set-default", "multi-user.target", limit_s=CHROOT_LIMIT_S)
    # Socket activation, Ubuntu's default, would start one more process for the first login.
    if (root / UNITS / "sockets.target.wants/ssh.socket").is_symlink():
        await programs.run(*systemctl, "disable", "ssh.socket", limit_s=CHROOT_LIMIT_S)
    await programs.run(*systemctl, "enable", *ENABLED, *units, limit_s=CHROOT_LIMIT_S)
    for unit in MASKED:
        _link(root / UNITS / unit, "/dev/null")


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
