"""What changed, and what it means: diffs of frozen disks, noise, owners, and the residual of a rehearsal.

The contract is loaded on first use: the process that reads rpm's databases imports this package too, and must
not pay for the models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.changes.ageing import forget_unused
    from backend.changes.blobs import BlobStore
    from backend.changes.differ import LIMITS, Differ, Point
    from backend.changes.manifests import Earlier, Manifests, Taken
    from backend.changes.noise import NoiseProfile, Rule
    from backend.changes.residuals import residual
    from backend.changes.told import Asker, Told

__all__ = [
    "LIMITS",
    "Asker",
    "BlobStore",
    "Differ",
    "Earlier",
    "Manifests",
    "NoiseProfile",
    "Point",
    "Rule",
    "Taken",
    "Told",
    "forget_unused",
    "residual",
]

_HOMES = {
    "LIMITS": "differ",
    "Asker": "told",
    "BlobStore": "blobs",
    "Differ": "differ",
    "Earlier": "manifests",
    "Manifests": "manifests",
    "NoiseProfile": "noise",
    "Point": "differ",
    "Rule": "noise",
    "Taken": "manifests",
    "Told": "told",
    "forget_unused": "ageing",
    "residual": "residuals",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
