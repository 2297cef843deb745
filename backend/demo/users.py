"""System users of the demo, made in the open and removed by ``--clean``.

The agent needs a uid of its own, because nobody approves their own request; PostgreSQL refuses root; the
Ansible runner must not read what the backend holds.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Callable

from backend.system_users import new_user

DEMO = os.environ.get("FLUID_DEMO_NAME", "fluid-demo")  # another name is another demo, apart from this one
AGENT = f"{DEMO}-agent"
POSTGRES = f"{DEMO}-postgres"
RUNNER = f"{DEMO}-runner"
WHY = {
    AGENT: "the demo agent runs as its own user, so that nobody approves their own",
    POSTGRES: "PostgreSQL refuses to run as root",
    RUNNER: "Ansible runs without a right to the backend's files",
}


def ensure(say: Callable[[str], None]) -> None:
    """Make the users that are missing, and say so."""
    for name, why in WHY.items():
        if not exists(name):
            say(f"making the system user {name}: {why}")
            subprocess.run(new_user(name), check=True, capture_output=True)


def remove() -> list[str]:
    """Remove ours; returns the names."""
    gone = [name for name in WHY if exists(name)]
    for name in gone:
        subprocess.run(["userdel", name], check=False, capture_output=True)
    return gone


def exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def group_of(name: str) -> int:
    """The gid of a user's own group."""
    return grp.getgrnam(name).gr_gid
