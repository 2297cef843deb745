"""The only place that reads guest disks: image layers, partitions, ext4, in an unprivileged worker process.

The contract is loaded on first use: the worker imports this package too, and must not pay for the models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.disks.reader import (
        PAGE_BYTES,
        Comparison,
        Content,
        ContentLimits,
        DiskReader,
        Elsewhere,
        Entry,
        Listed,
        Manifest,
        Pair,
        Side,
        Survey,
        named,
    )

__all__ = [
    "PAGE_BYTES",
    "Comparison",
    "Content",
    "ContentLimits",
    "DiskReader",
    "Elsewhere",
    "Entry",
    "Listed",
    "Manifest",
    "Pair",
    "Side",
    "Survey",
    "named",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from backend.disks import reader

    return getattr(reader, name)
