"""What changed, and what it means: diffs of frozen disks, noise, owners, and the residual of a rehearsal."""

from backend.changes.blobs import BlobStore
from backend.changes.differ import Differ
from backend.changes.noise import NoiseProfile, Rule
from backend.changes.residual import residual

__all__ = ["BlobStore", "Differ", "NoiseProfile", "Rule", "residual"]
