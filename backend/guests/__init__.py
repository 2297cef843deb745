"""Guests over SSH: the CA, kept connections, commands, files, forwards and shells.

The only room that imports asyncssh. Guests are hostile: their host key is the one that we made or they are
down, and what they say is bytes.
"""

from backend.guests.ca import CertificateAuthority, make_client_key, make_host_key
from backend.guests.commands import CommandLost, GuestCommands, Outcome
from backend.guests.connection import Guest, GuestConnections

__all__ = [
    "CertificateAuthority",
    "CommandLost",
    "Guest",
    "GuestCommands",
    "GuestConnections",
    "Outcome",
    "make_client_key",
    "make_host_key",
]
