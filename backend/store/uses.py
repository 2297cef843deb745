"""Who refers to a diff, a playbook, a content; and what goes because nobody does.

A diff or a playbook is kept while its sandbox lives, while an approval or a young run names it, and for its
time whoever names it. Approvals stay, and with them all that they show.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from backend.store.pool import Database

BATCH = 200  # diffs that are looked through in one transaction: each may have thousands of files
_PRUNE = (
    "DELETE FROM fluid.playbooks AS one WHERE created_at < now() - make_interval(secs => %(age)s) "
    "AND NOT EXISTS (SELECT FROM fluid.sandboxes WHERE id = one.sandbox_id AND phase <> 'destroyed') "
    "AND NOT EXISTS (SELECT FROM fluid.approvals WHERE playbook_id = one.id) "
    "AND NOT EXISTS (SELECT FROM fluid.runs AS run WHERE run.playbook_id = one.id "
    "AND run.created_at >= now() - make_interval(secs => %(age)s))",
    "DELETE FROM fluid.changes AS one WHERE created_at < now() - make_interval(secs => %(age)s) "
    "AND NOT EXISTS (SELECT FROM fluid.sandboxes WHERE id = one.sandbox_id AND phase <> 'destroyed') "
    "AND id NOT IN ("
    "SELECT coalesce(doc #>> '{evidence,changes_id}', '') FROM fluid.approvals "
    "UNION ALL SELECT coalesce(doc #>> '{evidence,sandbox_changes_id}', '') FROM fluid.approvals "
    "UNION ALL SELECT coalesce(doc ->> 'changes_id', '') FROM fluid.playbooks)",
)
_OF_CHANGES = (
    "SELECT id, ARRAY(SELECT jsonb_path_query(doc, '$.files[*].* ? (@.blob == true).sha256') #>> '{}') "
    "FROM fluid.changes WHERE id > %s ORDER BY id LIMIT %s"
)
_OF_OTHERS = (
    "SELECT jsonb_object_keys(doc -> 'files') FROM fluid.playbooks "
    "UNION SELECT doc ->> 'manifest_sha256' FROM fluid.snapshots"  # as an older version kept what guests told
)
_APPLIED = (
    "SELECT one.doc ->> 'source', one.id, run.created_at FROM fluid.approvals AS one "
    "JOIN fluid.runs AS run ON run.id = one.doc ->> 'apply_run' "
    "WHERE run.kind = 'apply' AND run.created_at >= now() - %s ORDER BY run.created_at"
)


class Uses:
    """Looks across the nouns: which of them name which."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prune(self, older_than_s: int) -> int:
        """Forget diffs and playbooks of this age that nothing needs; how many."""
        gone = 0
        async with self._database.transaction() as connection:
            for statement in _PRUNE:
                gone += (await connection.execute(statement, {"age": older_than_s})).rowcount
        return gone

    async def applied(self, age: timedelta) -> dict[str, tuple[str, datetime]]:
        """``image@sha256`` → the last approval of what was made on it that was applied within ``age``, and
        when that apply began."""
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(_APPLIED, (age,))).fetchall()
        return {source: (approval, at) for source, approval, at in rows}

    async def contents(self) -> set[str]:
        """The SHA-256 of each content that something names. One that is named first while this looks may be
        missing: it was given to the store just before."""
        found, last = set[str](), ""
        while True:
            async with self._database.transaction() as connection:
                rows = await (await connection.execute(_OF_CHANGES, (last, BATCH))).fetchall()
            found.update(sha256 for _, sums in rows for sha256 in sums)
            if len(rows) < BATCH:
                break
            last = rows[-1][0]
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(_OF_OTHERS)).fetchall()
        return found | {row[0] for row in rows}
