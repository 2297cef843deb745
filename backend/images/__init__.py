"""Guest images: built from the host's own package sources, or imported; named by what they hold.

The contract: ``Images(folder)`` lists, gets, builds and verifies; ``import_image`` takes one that somebody
else made, with ``Preparation`` to make it a guest of ours; ``remove_image``. Everything else here is how.
"""

from backend.images.build import Images
from backend.images.catalog import BuiltImage
from backend.images.clones import (
    Brought,
    FileLayer,
    can_boot,
    chain_of,
    clone_image,
    copy_layers,
    fetch_layers,
)
from backend.images.convert import Layer
from backend.images.fetch import as_kept
from backend.images.folder import workspace
from backend.images.imports import WORK_PREFIX, ImageImport, ImportLimits, import_image
from backend.images.prepare import Preparation
from backend.images.removal import (
    Doomed,
    Former,
    formers,
    free_formers,
    recover,
    remove_former,
    remove_image,
    remove_stray,
    stray_files,
)

__all__ = [
    "WORK_PREFIX",
    "Brought",
    "BuiltImage",
    "Doomed",
    "FileLayer",
    "Former",
    "ImageImport",
    "Images",
    "ImportLimits",
    "Layer",
    "Preparation",
    "as_kept",
    "can_boot",
    "chain_of",
    "clone_image",
    "copy_layers",
    "fetch_layers",
    "formers",
    "free_formers",
    "import_image",
    "recover",
    "remove_former",
    "remove_image",
    "remove_stray",
    "stray_files",
    "workspace",
]
