"""Why a connection failed, as a reader understands it: asyncssh's own texts name neither side."""

from __future__ import annotations

import os
import socket

import asyncssh

SSH_PORT = 22

# At INFO asyncssh writes every command line to the log, and command lines hold secrets.
asyncssh.set_log_level("WARNING")
asyncssh.set_sftp_log_level("WARNING")


def words_of(error: BaseException) -> str:
    """The reason without names and numbers of ours."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, asyncssh.ChannelOpenError):
        is_refused = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        return "the host's sshd refuses to forward (Allow*Forwarding)" if is_refused else error.reason
    if isinstance(error, socket.gaierror):  # its numbers are not errno's
        return error.strerror or "its name is not known"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
