"""Ansible, run detached as a user of its own (PLAYBOOKS.md P8). The only place that runs ansible-runner."""

from backend.ansible.runner import DEFAULT_USER, Runner, runner_user
from backend.ansible.spec import RunHandle, RunOutcome, RunSpec, SshKey, TargetHost, is_address

__all__ = [
    "DEFAULT_USER",
    "RunHandle",
    "RunOutcome",
    "RunSpec",
    "Runner",
    "SshKey",
    "TargetHost",
    "is_address",
    "runner_user",
]
