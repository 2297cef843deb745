"""Guests over SSH: the CA, kept connections, commands, files, forwards and shells.

The only room that imports asyncssh. Guests are hostile: their host key is the one that we made or they are
down, and what they say is bytes.
"""

from backend.guests.ca import CertificateAuthority, make_client_key, make_host_key
from backend.guests.commands import GuestCommands, Outcome
from backend.guests.connection import Guest, GuestConnections
from backend.guests.files import GuestFiles
from backend.guests.forwards import PROXY_PORT, GuestForwards
from backend.guests.shell import shell_argv, sweep_keys

__all__ = [
    "PROXY_PORT",
    "CertificateAuthority",
    "Guest",
    "GuestCommands",
    "GuestConnections",
    "GuestFiles",
    "GuestForwards",
    "Outcome",
    "make_client_key",
    "make_host_key",
    "shell_argv",
    "sweep_keys",
]
