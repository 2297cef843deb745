"""The fleet: hosts, and the sandboxes that live on them."""

from backend.fleet.automatic import AutoSnapshots
from backend.fleet.core import FleetCore, FleetParts
from backend.fleet.domain_sources import DomainSources
from backend.fleet.files import Files
from backend.fleet.guard import Guard
from backend.fleet.host import Host, guest_image
from backend.fleet.hosts import Hosts
from backend.fleet.installation import object_prefix
from backend.fleet.keeping import HostKeeping
from backend.fleet.leftovers import Leftovers
from backend.fleet.sources import Sources
from backend.fleet.stock import Stock
from backend.fleet.trust import Teaching, Trust


class Fleet(AutoSnapshots, Stock, HostKeeping, Leftovers, Files, Teaching):
    """Everything that can be done with sandboxes; one class because they share locks and rows."""


__all__ = [
    "DomainSources",
    "Fleet",
    "FleetCore",
    "FleetParts",
    "Guard",
    "Host",
    "Hosts",
    "Sources",
    "Trust",
    "guest_image",
    "object_prefix",
]
