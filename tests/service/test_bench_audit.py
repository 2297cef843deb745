"""The benchmark of the audit with small numbers: it measures what it says, over real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from backend.store import Store
from tests.bench.api import audit


async def test_the_audit_is_measured(store: Store, tmp_path: Path) -> None:
    append, verify = await audit(store, tmp_path, appends=20, rows=12_000)  # more than two batches are read
    assert (append.unit, verify.unit) == ("ms", "rows/s")
    assert 0 < append.value <= (append.p95 or 0)
    assert verify.value >= (verify.p95 or 0) > 0
    assert "12,020 rows" in verify.how
