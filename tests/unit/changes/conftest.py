"""Small changes to build larger ones from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from backend.models import Changes, ChangeVerb, FileChange, FileKind, FileState


@pytest.fixture
def state() -> Callable[..., FileState]:
    def make(**values: object) -> FileState:
        return FileState(
            **{"kind": FileKind.FILE, "mode": 0o644, "uid": 0, "gid": 0, "sha256": "a" * 64, **values}
        )

    return make


@pytest.fixture
def change(state) -> Callable[..., FileChange]:
    def make(path: str, verb: ChangeVerb = ChangeVerb.ADDED, **values: object) -> FileChange:
        here = state(**values)
        before = None if verb is ChangeVerb.ADDED else state()
        return FileChange(
            path=path, verb=verb, before=before, after=None if verb is ChangeVerb.REMOVED else here
        )

    return make


@pytest.fixture
def changes() -> Callable[..., Changes]:
    def make(**values: object) -> Changes:
        return Changes(
            id="CHG-1", sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b",
            created_at=datetime(2026, 1, 1, tzinfo=UTC), **values,
        )  # fmt: skip

    return make
