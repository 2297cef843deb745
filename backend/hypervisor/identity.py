"""Make who a guest is, on the host: SSH can be strict about the host key from the first login on."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import uuid
from pathlib import Path

from backend.errors import HypervisorFailed, MissingProgram
from backend.hypervisor.nouns import Identity

KEYGEN_TIMEOUT_S = 15


def new_mac() -> str:
    """A MAC in QEMU's own range, 52:54:00."""
    return ":".join(["52", "54", "00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))])


async def make_identity(
    name: str,
    *,
    address: str,
    prefix: int,
    ca_public: str,
    hostname: str | None = None,
    gateway: str = "",
) -> Identity:
    """A fresh identity: UUID, MAC, machine id and an ed25519 host key made by ssh-keygen(1)."""
    private, public = await _host_key(hostname or name)
    return Identity(
        name=name,
        uuid=str(uuid.uuid4()),
        mac=new_mac(),
        address=address,
        prefix=prefix,
        hostname=hostname or name,
        machine_id=secrets.token_hex(16),
        host_key=private,
        host_key_public=public,
        ca_public=ca_public,
        gateway=gateway,
    )


async def _host_key(comment: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(prefix="fluid-key-") as folder:
        path = Path(folder) / "key"
        try:
            process = await asyncio.create_subprocess_exec(
                *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise MissingProgram("ssh-keygen is not installed", remedy="install openssh-client") from None
        async with asyncio.timeout(KEYGEN_TIMEOUT_S):
            if status := await process.wait():
                raise HypervisorFailed(
                    f"ssh-keygen ended with status {status}",
                    remedy="see that the temporary folder is writable",
                )
        return path.read_text(), path.with_suffix(".pub").read_text().strip()
