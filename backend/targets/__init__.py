"""Production: which targets there are, who may ask for them, how they are reached."""

from backend.targets.inventory import read_inventory
from backend.targets.keeping import Keeper, Kept, Wanted
from backend.targets.known_hosts import host_key
from backend.targets.targets import ResolvedTarget, Targets

__all__ = ["Keeper", "Kept", "ResolvedTarget", "Targets", "Wanted", "host_key", "read_inventory"]
