"""Ansible's own events to ours: bounded, one line of JSON each, nothing that differs from run to run.

Secrets that a target has in its files are withheld here, before anything is written. Runs as the runner's
uid, beside ``supervisor.py`` and copies of the modules that know a secret by its look.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

from passwords import masked  # type: ignore[import-not-found]
from secret_marks import KEY_HEADER, PASSWORD_HASH, TOKEN  # type: ignore[import-not-found]

MAX_MESSAGE = 4096
MAX_DIFF = 64 * 1024
MAX_SIDE_LINES = 5000
MAX_PLAN = 1024 * 1024
MAX_PACKAGES = 5000

_TASK_LINE = re.compile(r":(?P<line>[0-9]+)\Z")
# apt-get(8): Inst name [what is there] (what would be, of which source), Remv name [what is there]
_PLAN = re.compile(
    r"^(?:Inst (?P<name>[a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?(?: \[[^\]\n]*\])? "
    r"\((?P<version>[A-Za-z0-9.+:~-]+) "
    r"|(?:Remv|Purg) (?P<gone>[a-z0-9][a-z0-9+.-]*))",
    re.MULTILINE,
)
_STATUS = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_skipped": "skipped",
    "runner_on_unreachable": "unreachable",
}
# Check mode fails on what an earlier task would have made. That is no failure of the playbook.
_NOT_PREVIEWABLE = re.compile(
    r"Could not find the requested service|Service .* not found|No package matching"
    r"|failed to look up (user|group)|is absent, cannot continue|Destination directory .* does not exist"
    r"|Group .* does not exist|Path .* does not exist|non-existent"
)


class Reports:
    """Counts and normalises. ``lines`` are the lines of tasks, then handlers, in the text that runs;
    ``reached`` says whether a login on a host has ever worked in this run."""

    def __init__(self, lines: list[int], reached: Callable[[str], bool], *, preview: bool) -> None:
        self._index = {line: place for place, line in enumerate(lines)}
        if len(self._index) < len(lines):
            raise ValueError("two tasks begin on one line")
        self._reached = reached
        self._preview = preview
        self.results: dict[str, dict[str, int]] = {}
        self.first_failure = ""
        self.last_done: dict[str, str] = {}  # host → the last task that ended there
        # host → the task in which its connection was lost, and what is said of that
        self.cut_off: dict[str, tuple[str, str]] = {}

    def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """One of our events for one of Ansible's, or None for what nobody needs."""
        status = _STATUS.get(event.get("event", ""))
        data = event.get("event_data") or {}
        if status is None or not isinstance(data, dict):
            return None
        result = data.get("res")
        result = result if isinstance(result, dict) else {}
        host, task = str(data.get("host", "")), str(data.get("task", ""))
        message = message_of(result)
        if status == "ok" and result.get("changed"):
            status = "changed"
        if status == "failed" and self._preview and _NOT_PREVIEWABLE.search(message):
            status, message = "skipped", f"not previewed: {message}"
        self._count(host, status)
        if status in ("failed", "unreachable") and not self.first_failure:
            self.first_failure = f"{host}: {task}: {message}"[:MAX_MESSAGE]
        if status == "unreachable":
            if self._reached(host):
                self.cut_off[host] = (task, message)
        elif status != "failed":
            self.last_done[host] = task
        found = _TASK_LINE.search(str(data.get("task_path", "")))
        return {
            "at": event.get("created", ""),
            "host": host,
            "task": task,
            "task_index": self._index.get(int(found["line"]), -1) if found else -1,
            "module": str(data.get("task_action", "")),
            "status": status,
            "message": _readable(message),
            "diff": _readable(diff_of(result)),
            "packages": plan_of(result) if self._preview else {},
        }

    def _count(self, host: str, status: str) -> None:
        counts = self.results.setdefault(
            host, {"ok": 0, "changed": 0, "failed": 0, "skipped": 0, "unreachable": 0}
        )
        counts[status] += 1
        if status == "changed":
            counts["ok"] += 1


def message_of(result: dict[str, Any]) -> str:
    """What the module said, or its standard error; of a loop, what its items said."""
    parts = [str(result[key]) for key in ("censored", "msg", "module_stderr", "stderr") if result.get(key)]
    items = [item for item in result.get("results") or [] if isinstance(item, dict)]
    parts += [message_of(item) for item in items if item.get("failed") or item.get("unreachable")]
    return "\n".join(dict.fromkeys(parts))[:MAX_MESSAGE]


def plan_of(result: dict[str, Any]) -> dict[str, str]:
    """What apt would do by its simulation, which a dry run is: package to the version that it would have,
    empty for one that would go."""
    found: dict[str, str] = {}
    items = [result, *(item for item in result.get("results") or [] if isinstance(item, dict))]
    for item in items:
        for line in _PLAN.finditer(str(item.get("stdout") or "")[:MAX_PLAN]):
            if len(found) < MAX_PACKAGES:
                found[line["name"] or line["gone"]] = line["version"] or ""
    return found


def diff_of(result: dict[str, Any]) -> str:
    """Ansible's before and after as a unified diff. Headers name the path only: temporary names differ."""
    if "censored" in result or result.get("_ansible_no_log"):
        return ""
    texts = []
    items = [result, *(item for item in result.get("results") or [] if isinstance(item, dict))]
    for item in items:
        diffs = item.get("diff") or []
        diffs = diffs if isinstance(diffs, list) else [diffs]
        texts += [_one_diff(one) for one in diffs if isinstance(one, dict)]
    whole = "\n".join(text for text in texts if text)
    return whole if len(whole) <= MAX_DIFF else whole[:MAX_DIFF] + "\n… cut"


def _one_diff(diff: dict[str, Any]) -> str:
    if diff.get("prepared"):
        return _without_secrets(str(diff["prepared"])[: 4 * MAX_DIFF], "")
    for side in ("src", "dst"):
        if diff.get(f"{side}_binary") or diff.get(f"{side}_larger"):
            return "content is binary or large"
    name = str(diff.get("before_header") or "")
    before, after = (_side(diff.get(side, ""), name) for side in ("before", "after"))
    if before == after:
        return ""
    return "".join(difflib.unified_diff(before, after, f"before {name}".strip(), f"after {name}".strip()))


def _side(value: object, name: str) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, default=str)
    lines = [line + "\n" for line in _without_secrets(text[: 4 * MAX_DIFF], name).splitlines()]
    return lines[:MAX_SIDE_LINES]


def _without_secrets(text: str, name: str) -> str:
    """A side of a diff as it may be kept. ``name``: its header, which begins with the path."""
    data = _bytes(text)
    if any(mark.search(data) for mark in (KEY_HEADER, PASSWORD_HASH, TOKEN)):
        return "content is a secret"
    path = name.partition(" (")[0] if name.startswith("/") else "/etc/"  # of no known place: looked into
    shown = masked(_bytes(path), data)
    return text if shown is None else shown.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """What Ansible read. A lone surrogate that stands for no byte is a target's own word."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _readable(text: str) -> str:
    """Bytes of another encoding as escapes: what reads our lines takes no text that is none."""
    return _bytes(text).decode("utf-8", "backslashreplace")
