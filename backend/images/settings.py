"""What a guest's configuration says: plain values, written into the tree by ``customize``.

Rule: nothing here may stop an administrator's work. Services, timers, tmpfiles, sysusers and sysctl behave as
on a stock system; only what a disposable machine without a screen never uses is masked, because each unit
costs boot time under emulation.
"""

from __future__ import annotations

from dataclasses import dataclass

PACKAGES = (
    "apt",  # required on Debian, not on Ubuntu
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "openssh-server",
    "python3",
    "python3-apt",  # Ansible's apt module
    "sudo",
    "iproute2",
    "kmod",
    "procps",
    "qemu-guest-agent",
    "tmux",
    "ca-certificates",
    "ncurses-base",
    "less",
    "cron",
    "openssl",
)
PROXY = "http://127.0.0.1:3128"
"""The egress proxy: a forward on the backend's own SSH connection, at the guest's loopback."""

CONSOLES = {
    "amd64": "console=ttyS0 tsc=reliable no_timer_check",
    # Signing every return address costs more than half of an emulated boot.
    "arm64": "console=ttyAMA0 arm64.nopauth",
}
CMDLINE = (
    "root=/dev/vda rw {console} quiet loglevel=3 mitigations=off audit=0 "
    "lsm=yama nowatchdog net.ifnames=0 raid=noautodetect random.trust_cpu=on systemd.show_status=0 "
    "rcupdate.rcu_expedited=1"
)
"""Its ``{console}``: the serial port's name, and what only one architecture's kernel knows."""
USER = "sandbox"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SANDBOX_CA = "/etc/ssh/fluid_ca.pub"

DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
)
APT_OPTIONS = f"""Acquire::http::Proxy "{PROXY}";
Acquire::https::Proxy "{PROXY}";
Acquire::Retries "3";
Acquire::Languages "none";
APT::Install-Recommends "false";
"""

SSHD_CONFIG = f"""TrustedUserCAKeys {SANDBOX_CA}
HostKey {HOST_KEY}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
UsePAM no
MaxSessions 100
MaxStartups 50
AllowTcpForwarding yes
X11Forwarding no
PrintLastLog no
SetEnv LANG=C.UTF-8 http_proxy={PROXY} https_proxy={PROXY} no_proxy=127.0.0.1,localhost
"""
# A first key, so that sshd starts; the host pushes the one that counts, and checks for it strictly.
SSH_SERVICE = f"""[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -s {HOST_KEY} || exec ssh-keygen -q -t ed25519 -N "" -f {HOST_KEY}'
"""
UDEV_TRIGGER = """[Service]
ExecStart=
ExecStart=/bin/udevadm trigger --type=devices --action=add --subsystem-match=net \
--subsystem-match=virtio-ports --subsystem-match=virtio
"""
JOURNAL = "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n"


@dataclass(frozen=True)
class Text:
    """A file of the guest, owned by root."""

    path: str
    text: str
    mode: int = 0o644


RESOLV_CONF = "etc/resolv.conf"

FILES = (
    Text("etc/machine-id", ""),
    Text("etc/hostname", "base\n"),
    Text("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 base\n"),
    Text("etc/fstab", ""),
    Text(RESOLV_CONF, "# No name service: connections go through the proxy, which resolves names.\n"),
    Text("etc/default/locale", "LANG=C.UTF-8\n"),
    Text("etc/dpkg/dpkg.cfg.d/90fluid", "".join(f"{option}\n" for option in DPKG_OPTIONS)),
    Text("etc/ssh/sshd_config.d/10-fluid.conf", SSHD_CONFIG),
    Text(SANDBOX_CA.removeprefix("/"), ""),
    Text("etc/sudoers.d/sandbox", f"{USER} ALL=(ALL) NOPASSWD:ALL\n", 0o440),
    Text("etc/systemd/system/ssh.service.d/10-fluid.conf", SSH_SERVICE),
    Text("etc/systemd/system/systemd-udev-trigger.service.d/10-fluid.conf", UDEV_TRIGGER),
    Text("etc/systemd/journald.conf.d/10-fluid.conf", JOURNAL),
    # Without systemd-user-sessions nobody would take /run/nologin away again.
    Text("etc/tmpfiles.d/systemd-nologin.conf", ""),
)
# Upkeep of machines that live long.
UPKEEP_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
)
# Screens, seats and passwords at a console.
SCREEN_UNITS = (
    "console-getty.service",
    "getty.target",
    "getty-static.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "serial-getty@ttyAMA0.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-logind.service",
    "systemd-user-sessions.service",
)
# A network that the host gives.
NETWORK_UNITS = (
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-network-generator.service",
    "networkd-dispatcher.service",
)
# First boots, hardware and accounting.
BOOT_UNITS = (
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-initctl.socket",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-journald-audit.socket",
    "systemd-machine-id-commit.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-repart.service",
    "systemd-rfkill.socket",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-settle.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)
MASKED = (*UPKEEP_UNITS, *SCREEN_UNITS, *NETWORK_UNITS, *BOOT_UNITS)
ENABLED = ("ssh.service", "cron.service")

# --- imported images --------------------------------------------------------------------------------------

IMPORTED_FILES = tuple(
    file
    for file in FILES
    if file.path.startswith(("etc/ssh/", "etc/sudoers.d/", "etc/systemd/journald.conf.d/"))
)
"""What an imported image gets of the settings; its own services, boot and locale stay as they are."""
IMPORTED_MASKED = (
    *UPKEEP_UNITS,
    *NETWORK_UNITS,
    "systemd-resolved.service",
    "networking.service",
    "ifup@.service",
    "cloud-ifupdown-helper.service",
    "NetworkManager.service",
    "NetworkManager-wait-online.service",
    "dhcpcd.service",
    "wicked.service",
    "wickedd.service",
)
