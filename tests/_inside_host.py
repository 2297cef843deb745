"""The first process of a host that :mod:`tests.fix_hosts` makes: ``_inside_host.py FOLDER NAME SHOWN…``.

Runs as root in new mount, UTS, network and process namespaces, lays the host's own folders over the
machine's, says so, and ends when its standard input does: whatever runs on the host then ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

# The host's own, by the folder's name.
OWN = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
    "etc": "/etc",
}
# What another machine would not have of this one; the sources above may lie there.
HIDDEN = ("/tmp", "/var/tmp", "/home", "/root", "/var/cache/fluid", "/var/lib/fluid")
KVM = Path("/dev/kvm")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main(folder: Path, name: str, shown: list[Path]) -> None:
    """``shown``: folders of this machine that the host has too, wherever they lie."""
    socket.sethostname(name)
    aside = folder / "cgroup"
    mount("--rbind", "/sys/fs/cgroup", str(aside))
    mount("-t", "sysfs", "sysfs", "/sys")  # shows this network's bridges
    mount("--rbind", str(aside), "/sys/fs/cgroup")
    for source, target in OWN.items():
        Path(target).mkdir(parents=True, exist_ok=True)  # as on a machine where no libvirtd ever ran
        mount("--bind", str(folder / source), target)
    if KVM.exists():
        mount("--bind", str(folder / "no-kvm"), str(KVM))
        mount("-o", "remount,bind,ro", str(KVM))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    held = {path: os.open(path, os.O_PATH) for path in shown}
    for hidden in HIDDEN:
        if Path(hidden).is_dir():
            mount("-t", "tmpfs", "-o", "mode=1777" if hidden.endswith("tmp") else "mode=755", "tmpfs", hidden)
    for path, handle in held.items():
        path.mkdir(parents=True, exist_ok=True)
        mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{handle}", str(path))
        os.close(handle)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever loses its parent here is reaped
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [Path(word) for word in sys.argv[3:]])
