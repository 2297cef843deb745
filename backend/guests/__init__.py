"""Guests over SSH: the CA, kept connections, commands, files, forwards, shells; and links to other hosts.

The only room that imports asyncssh. Guests are hostile: their host key is the one that we made or they are
down, and what they say is bytes.
"""

from backend.guests.ca import (
    CertificateAuthority,
    PublicCaKey,
    TrustedKeys,
    make_client_key,
    make_host_key,
)
from backend.guests.commands import GuestCommands, Outcome
from backend.guests.connection import Guest, GuestConnections
from backend.guests.files import GuestFiles
from backend.guests.forwards import PROXY_PORT, GuestForwards
from backend.guests.hosts import HostLink
from backend.guests.shell import shell_argv, sweep_keys
from backend.guests.telling import GuestTelling, contents_job, names_job, program
from backend.guests.trust import HostKey, fetch_host_key

__all__ = [
    "PROXY_PORT",
    "CertificateAuthority",
    "Guest",
    "GuestCommands",
    "GuestConnections",
    "GuestFiles",
    "GuestForwards",
    "GuestTelling",
    "HostKey",
    "HostLink",
    "Outcome",
    "PublicCaKey",
    "TrustedKeys",
    "contents_job",
    "fetch_host_key",
    "make_client_key",
    "make_host_key",
    "names_job",
    "program",
    "shell_argv",
    "sweep_keys",
]
