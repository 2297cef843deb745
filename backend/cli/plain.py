"""``fluid --plain``: what the console's home shows, as sentences for a screen reader or a pipe."""

from __future__ import annotations

from typing import Any

from backend.cli.common import ago, door, left
from backend.client import operator_calls
from backend.text import visible

DECIDE = {"approval": "fluid approvals show", "ask": "fluid asks answer"}


def print_plain() -> None:
    """Who waits, then what is wrong, then what each agent does. No glyph, no colour, no table."""
    told: dict[str, Any] = door().json(operator_calls.fleet())
    for sentence in sentences(told):
        print(visible(sentence))


def sentences(told: dict[str, Any]) -> list[str]:
    """The fleet in the order that matters."""
    return [*_waiting(told), *_wrong(told), *_sandboxes(told)]


def _waiting(told: dict[str, Any]) -> list[str]:
    lines = [
        f"Request {one['short_id']} waits for you: {one['sandbox_name']} to {', '.join(one['targets'])}, "
        f"{left(one['expires_at'])} left. {one['reason']} ({DECIDE['approval']} {one['short_id']})"
        for one in told["approvals"]
        if one["state"] == "pending"
    ]
    lines += [
        f"Question {one['request_id']} waits for you, {one['action_type']}, {left(one['expires_at'])} left: "
        f"{one['prompt']} ({DECIDE['ask']} {one['request_id']} --yes or --no)"
        for one in told["asks"]
        if one["status"] == "pending"
    ]
    return lines or ["Nobody needs you."]


def _wrong(told: dict[str, Any]) -> list[str]:
    lines = [
        f"Host {host['name']} is {host['status']}{': ' + host['last_error'] if host['last_error'] else '.'}"
        for host in told["hosts"]
        if host["status"] != "up" or host["last_error"]
    ]
    lines += [f"Guests on {host['name']} are not isolated." for host in told["hosts"] if not host["isolated"]]
    lines += [
        f"{part['name']} is {part['status']}: {part['message']}"
        for part in told["components"]
        if part["status"] != "ok"
    ]
    return lines + ([] if told["audit_ok"] else ["The audit is broken: fluid audit verify"])


def _sandboxes(told: dict[str, Any]) -> list[str]:
    if not told["sandboxes"]:
        return ["No sandbox."]
    lines = [f"{len(told['sandboxes'])} sandboxes:"]
    for one in told["sandboxes"]:
        words = [f"{one['sandbox_name']} of {one['agent_id']} on {one['host_name']} is {one['phase']}"]
        words += [one["reason"]] if one["reason"] else []
        words += [f"says {one['status']} {one['status_note']}".rstrip()] if one["status"] != "unknown" else []
        words += [f"last command {ago(one['last_activity_at'])} ago"] if one["last_activity_at"] else []
        words += [f"{left(one['expires_at'])} left"] if one["expires_at"] else []
        lines.append(", ".join(words) + ".")
    return lines
