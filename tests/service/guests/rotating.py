"""What changes the CA's key, with a real database and guests that are sshds: here, or as a process that a
test has killed at a step (``python -m tests.service.guests.rotating DSN FOLDER rotate|revoke``)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from backend.audit import Audit
from backend.fleet import Trust
from backend.guests import (
    CertificateAuthority,
    Guest,
    GuestCommands,
    GuestConnections,
    GuestFiles,
    TrustedKeys,
)
from backend.models import Identity, Role, Sandbox
from backend.store import Database, Store

OPERATOR = Identity(uid=1000, name="op", role=Role.OPERATOR)
PORT, KEYS_FILE = "port", "file"  # labels of the rows: where the sshd that plays the guest has them


class Lab:
    """As the daemon builds it; the guests are the rows."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.authority = CertificateAuthority(folder / "ca")
        self.connections = GuestConnections(self.authority)
        self.commands = GuestCommands(self.connections)
        self.files = GuestFiles(self.connections, self.commands)
        audit = Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head")
        self.trust = Trust(self.authority, audit, self.rows, self.teach)

    async def rows(self) -> list[Sandbox]:
        return (await self.store.sandboxes.list())[0]

    def guest(self, row: Sandbox) -> Guest:
        return Guest(
            name=row.id, address="127.0.0.1", port=int(row.labels[PORT]), host_key_public=row.host_key
        )

    async def teach(self, row: Sandbox, keys: TrustedKeys) -> None:
        """Over SSH, as the fleet does it."""
        await self.files.write(self.guest(row), row.labels[KEYS_FILE].encode(), f"{keys.text}\n".encode())
        await self.store.sandboxes.change(row.id, lambda kept: kept.model_copy(update={"ca": keys.mark}))

    async def close(self) -> None:
        await self.commands.close()
        await self.connections.close()


@asynccontextmanager
async def opened(store: Store, folder: Path) -> AsyncIterator[Lab]:
    """As one run of the backend."""
    lab = Lab(store, folder)
    try:
        yield lab
    finally:
        await lab.close()


async def _change(dsn: str, folder: Path, how: str) -> None:
    database = Database(dsn)
    await database.open()
    async with opened(Store(database), folder) as lab:
        await (lab.trust.revoke if how == "revoke" else lab.trust.rotate)(OPERATOR)
    await database.close()


if __name__ == "__main__":
    asyncio.run(_change(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
