"""Production: which targets there are, who may ask for them, how they are reached."""

from backend.targets.inventory import read_inventory
from backend.targets.known_hosts import host_key
from backend.targets.targets import ResolvedTarget, Targets

__all__ = ["ResolvedTarget", "Targets", "host_key", "read_inventory"]
