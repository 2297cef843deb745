"""Guest images: built of the host's own release from its own package sources, named by what they hold.

The contract: ``Images(folder)`` lists, gets, builds and verifies; everything else here is how.
"""

from backend.images.build import Images
from backend.images.catalog import BuiltImage

__all__ = ["BuiltImage", "Images"]
