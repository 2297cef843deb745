"""What tells an installation from all others, those with the same folders on other machines too."""

from __future__ import annotations

import hashlib
import re
import secrets

from backend.errors import ConfigError
from backend.paths import Paths
from backend.whole_files import write_first

ID_BYTES = 3
ID = re.compile(rb"[0-9a-f]{6}\n?")


def object_prefix(paths: Paths) -> str:
    """What every libvirt object of this installation begins with: two installations on one libvirtd never
    take each other's domains for their own. The state folder exists.

    Raises:
        ConfigError: the file of its id holds something else.
    """
    return f"fluid-{_id(paths)}"


def _id(paths: Paths) -> str:
    """Made by who asks first, and kept: it is to be asked before anything else is in the state."""
    if not paths.id_file.exists():
        made = _of_path(paths) if _is_older(paths) else secrets.token_hex(ID_BYTES)
        write_first(paths.id_file, f"{made}\n".encode(), 0o644)
    kept = paths.id_file.read_bytes()
    if not ID.fullmatch(kept):
        raise ConfigError(
            f"{paths.id_file} does not hold this installation's id",
            remedy="restore it from a backup (`fluid help keeping`); without one write the six digits and "
            "letters there that follow `fluid-` in the names of its domains",
        )
    return kept.decode().strip()


def _is_older(paths: Paths) -> bool:
    """Whether it was started already by a Fluid that kept no id: nothing of its sandboxes may be lost."""
    return any(folder.is_dir() and any(folder.iterdir()) for folder in (paths.database, paths.secrets))


def _of_path(paths: Paths) -> str:
    """As such a Fluid named what it made."""
    return hashlib.sha256(str(paths.state).encode()).hexdigest()[: 2 * ID_BYTES]
