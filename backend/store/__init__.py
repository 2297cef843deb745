"""Everything that lasts: PostgreSQL, the only store. The only room that imports psycopg.

::

    server = EmbeddedPostgres(paths.database, run_as)   # or: dsn_of(config.database)
    database = Database(await server.start())
    await database.open(); await migrate(database)
    store = Store(database)
    bus = EventBus(store.events); await bus.open()
"""

from backend.store.audit_rows import AuditRows, LinkedLine
from backend.store.documents import Documents, Seen
from backend.store.embedded import EmbeddedPostgres
from backend.store.events import EventBus, Events, Subscription
from backend.store.keys import KeptAnswer, Keys
from backend.store.manifests import KeptManifest, Manifests
from backend.store.migrate import migrate
from backend.store.nouns import (
    Approvals,
    Asks,
    ChangesTable,
    Commands,
    HostRecords,
    Playbooks,
    Runs,
    Sandboxes,
    Snapshots,
)
from backend.store.pool import OUTAGES, Database, dsn_of
from backend.store.uses import Uses


class Store:
    """Every repository over one database but :class:`Keys`, which also needs a secret."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sandboxes = Sandboxes(database)
        self.snapshots = Snapshots(database)
        self.commands = Commands(database)
        self.manifests = Manifests(database)
        self.changes = ChangesTable(database)
        self.playbooks = Playbooks(database)
        self.approvals = Approvals(database)
        self.asks = Asks(database)
        self.runs = Runs(database)
        self.hosts = HostRecords(database)
        self.events = Events(database)
        self.audit = AuditRows(database)
        self.uses = Uses(database)


__all__ = [
    "OUTAGES",
    "Approvals",
    "Asks",
    "AuditRows",
    "ChangesTable",
    "Commands",
    "Database",
    "Documents",
    "EmbeddedPostgres",
    "EventBus",
    "Events",
    "HostRecords",
    "KeptAnswer",
    "KeptManifest",
    "Keys",
    "LinkedLine",
    "Manifests",
    "Playbooks",
    "Runs",
    "Sandboxes",
    "Seen",
    "Snapshots",
    "Store",
    "Subscription",
    "Uses",
    "dsn_of",
    "migrate",
]
