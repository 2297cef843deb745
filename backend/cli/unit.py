"""The systemd unit that runs the backend of this checkout: systemd.service(5), systemd.syntax(7)."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PASSED_ON = ("FLUID_HOME", "FLUID_CACHE")

TEMPLATE = """\
[Unit]
Description=Fluid: disposable machines for AI agents, and the approval of what they changed
Documentation={readme}
Wants=network-online.target
After=network-online.target libvirtd.service virtqemud.service postgresql.service

[Service]
Type=notify
ExecStart={program} serve
{environment}\
# Machines, terminals and a running apply outlive the backend, which finds them again.
KillMode=process
Restart=on-failure
RestartSec=5
# Where no libvirtd runs, machines are this unit's own processes: they are many, and one may be too large.
TasksMax=infinity
OOMPolicy=continue
LimitNOFILE=65536

[Install]
WantedBy={target}
"""


def unit() -> str:
    """The text of ``fluid.service``; for root the system's, for anybody else the user manager's."""
    passed = [f"{name}={Path(os.environ[name]).absolute()}" for name in PASSED_ON if os.environ.get(name)]
    return TEMPLATE.format(
        readme=(CHECKOUT / "README.md").as_uri().replace("%", "%%"),
        program=_quoted(str(CHECKOUT / "fluid")),
        environment="".join(f"Environment={_quoted(word)}\n" for word in passed),
        target="multi-user.target" if os.geteuid() == 0 else "default.target",
    )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'
