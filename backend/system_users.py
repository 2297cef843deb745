"""System users of our own, which programs run as that must not be root."""

from __future__ import annotations


def new_user(name: str) -> list[str]:
    """The command that makes one: no home, no login."""
    return ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
