"""The doors: HTTP over Unix sockets, and loopback TCP, that we bind ourselves. The contract is API.md.

Below the doors are the services of :class:`Services`; above them nobody but :mod:`backend.daemon`.
"""

from backend.api.peers import Door, Peer, Roles, admit, peer_of
from backend.api.server import refuse_served, serve_doors
from backend.api.services import Services
from backend.api.tcp import bind_tcp

__all__ = [
    "Door",
    "Peer",
    "Roles",
    "Services",
    "admit",
    "bind_tcp",
    "peer_of",
    "refuse_served",
    "serve_doors",
]
