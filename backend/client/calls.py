"""Every call of the agent door, as functions that build it. The contract is API.md."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend.client.call import QUICK_S, WORK_S, Call, Flow, Pause, as_is, given, nothing, noun, nouns, path
from backend.client.sse import Frame
from backend.errors import BackendDown, TimedOut, TooLarge

if TYPE_CHECKING:
    from backend.models import (
        Approval,
        Ask,
        Changes,
        Command,
        FileState,
        Identity,
        ImageView,
        Pane,
        Playbook,
        Sandbox,
        Snapshot,
        SourceView,
        TargetView,
    )

Output = Callable[[str, str], None]
"""Called with ``stdout`` or ``stderr`` and the text as it comes."""

STDIN_LIMIT_BYTES = 704 * 1024
"""In base64 it leaves the command and its variables 85 KiB of a body's 1 MiB."""
LONG_POLL_S = 60.0
RETRY_S = 1.0
OVER = frozenset({"applied", "failed", "rejected", "expired", "withdrawn", "voided"})


# --- sandboxes -----------------------------------------------------------------------------------------


def create(
    source: str,
    *,
    agent_id: str,
    name: str | None = None,
    cpu: int | None = None,
    memory_mb: int | None = None,
    disk_gb: int | None = None,
    ttl_seconds: int | None = None,
    start: bool = True,
    wait_for_ip: bool = True,
    from_snapshot: str | None = None,
    labels: dict[str, str] | None = None,
) -> Call[Sandbox]:
    """A fork of ``source``; by default it blocks until root's first command would work."""
    body = given(
        source_vm_name=source,
        agent_id=agent_id,
        vm_name=name,
        cpu=cpu,
        memory_mb=memory_mb,
        disk_gb=disk_gb,
        ttl_seconds=ttl_seconds,
        auto_start=start,
        wait_for_ip=wait_for_ip,
        from_snapshot=from_snapshot,
        labels=labels,
    )
    return Call("POST", path("sandboxes"), noun("Sandbox", "sandbox"), body=body, timeout_s=WORK_S)


def sandbox(id: str) -> Call[Sandbox]:
    return Call("GET", path("sandboxes", id), noun("Sandbox", "sandbox"))


def sandboxes(
    *,
    agent_id: str | None = None,
    state: str | None = None,
    host_name: str | None = None,
    vm_name: str | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> Call[list[Sandbox]]:
    wanted = {"agent_id": agent_id, "state": state, "host_name": host_name, "vm_name": vm_name}
    query = {**wanted, "limit": limit, "offset": offset}
    return Call("GET", path("sandboxes"), nouns("Sandbox", "sandboxes"), query=query)


def start(id: str) -> Call[Sandbox]:
    return _act(id, "start")


def stop(id: str) -> Call[Sandbox]:
    return _act(id, "stop")


def pause(id: str) -> Call[Sandbox]:
    """Freeze it as it is; its memory stays."""
    return _act(id, "pause")


def resume(id: str) -> Call[Sandbox]:
    return _act(id, "resume")


def extend(id: str, seconds: int) -> Call[Sandbox]:
    """Push its end back."""
    return _act(id, "extend", {"seconds": seconds})


def destroy(id: str) -> Call[None]:
    """Gone with its disk and snapshots."""
    return Call("DELETE", path("sandboxes", id), nothing, timeout_s=WORK_S)


def _act(id: str, verb: str, body: dict[str, Any] | None = None) -> Call[Sandbox]:
    return Call("POST", path("sandboxes", id, verb), noun("Sandbox", "sandbox"), body=body, timeout_s=WORK_S)


# --- commands and files ----------------------------------------------------------------------------------


def run(
    id: str,
    command: str,
    *,
    user: str | None = None,
    timeout: int | None = None,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | bytes | None = None,
    on_output: Output | None = None,
) -> Call[Command]:
    """The string reaches the guest's ``bash -c`` untouched. A non-zero exit status is an answer, no error.

    Raises:
        TooLarge: ``stdin`` is more than :data:`STDIN_LIMIT_BYTES` bytes.
    """
    body = given(command=command, user=user, timeout_sec=timeout, env=env, cwd=cwd, **_input(stdin))
    limit = timeout + QUICK_S if timeout else WORK_S
    read = noun("Command", "command")
    target = path("sandboxes", id, "run")
    if on_output is None:
        return Call("POST", target, read, body=body, timeout_s=limit)
    said = on_output

    def follow(frame: Frame) -> Any:
        told = frame.json()
        if frame.event == "command":
            return told
        if frame.event == "output":
            said(told["stream"], told["text"])
        return None

    return Call("POST", target, read, body={**body, "stream": True}, follow=follow, timeout_s=limit)


def _input(stdin: str | bytes | None) -> dict[str, str]:
    """Text as text, bytes in base64."""
    if stdin is None or isinstance(stdin, str):
        return given(stdin=stdin)
    if len(stdin) > STDIN_LIMIT_BYTES:
        raise TooLarge(
            f"a command's standard input is at most {STDIN_LIMIT_BYTES} bytes",
            remedy="write a file (PUT /v1/sandboxes/{id}/files?path=/tmp/input, `write_file` of the SDK) and"
            " run the command with < /tmp/input",
        )
    return {"stdin_base64": base64.b64encode(stdin).decode()}


def commands(id: str, *, limit: int = 100, offset: int = 0) -> Call[list[Command]]:
    query = {"limit": limit, "offset": offset}
    return Call("GET", path("sandboxes", id, "commands"), nouns("Command", "commands"), query=query)


def command(id: str) -> Call[Command]:
    """One command with its output."""
    return Call("GET", path("commands", id), noun("Command", "command"))


def read_file(id: str, file: str) -> Call[bytes]:
    """The bytes of a guest's file, named by its wire path."""
    return Call(
        "GET", path("sandboxes", id, "files"), bytes, query={"path": file}, binary=True, timeout_s=WORK_S
    )


def write_file(
    id: str, file: str, data: bytes | str, *, mode: str | None = None, owner: str | None = None
) -> Call[FileState]:
    """Replace the file whole. ``mode`` is octal text, ``owner`` ``user`` or ``user:group``."""
    content = data.encode() if isinstance(data, str) else data
    return Call(
        "PUT",
        path("sandboxes", id, "files"),
        noun("FileState"),
        query={"path": file, "mode": mode, "owner": owner},
        content=content,
        timeout_s=WORK_S,
    )


def edit_file(id: str, file: str, old: str, new: str, *, all: bool = False) -> Call[FileState]:
    """Replace exact text, which must match once unless ``all``."""
    body = {"path": file, "old": old, "new": new, "all": all}
    return Call(
        "POST", path("sandboxes", id, "files", "edit"), noun("FileState"), body=body, timeout_s=WORK_S
    )


def delete_file(id: str, file: str) -> Call[None]:
    return Call("DELETE", path("sandboxes", id, "files"), nothing, query={"path": file})


def stat_file(id: str, file: str) -> Call[FileState]:
    return Call("GET", path("sandboxes", id, "files", "stat"), noun("FileState"), query={"path": file})


def list_files(id: str, folder: str) -> Call[dict[str, FileState]]:
    """The folder's entries by their wire path."""
    one = noun("FileState")
    return Call(
        "GET",
        path("sandboxes", id, "files", "list"),
        lambda answer: {name: one(state) for name, state in answer["files"].items()},
        query={"path": folder},
    )


# --- snapshots, changes, playbooks ------------------------------------------------------------------------


def snapshot(id: str, name: str, *, note: str = "") -> Call[Snapshot]:
    body = {"name": name, **({"note": note} if note else {})}
    return Call(
        "POST", path("sandboxes", id, "snapshots"), noun("Snapshot", "snapshot"), body=body, timeout_s=WORK_S
    )


def snapshots(id: str) -> Call[list[Snapshot]]:
    return Call("GET", path("sandboxes", id, "snapshots"), nouns("Snapshot", "snapshots"))


def restore(id: str, name: str) -> Call[Sandbox]:
    return Call(
        "POST",
        path("sandboxes", id, "snapshots", name, "restore"),
        noun("Sandbox", "sandbox"),
        timeout_s=WORK_S,
    )


def branch(
    id: str, name: str, *, vm_name: str | None = None, ttl_seconds: int | None = None
) -> Call[Sandbox]:
    """A new sandbox from a point of this one, which goes on."""
    return Call(
        "POST",
        path("sandboxes", id, "snapshots", name, "branch"),
        noun("Sandbox", "sandbox"),
        body=given(vm_name=vm_name, ttl_seconds=ttl_seconds),
        timeout_s=WORK_S,
    )


def delete_snapshot(id: str, name: str) -> Call[int]:
    """Forget a point; the bytes that the host has again."""
    return Call(
        "DELETE",
        path("sandboxes", id, "snapshots", name),
        lambda told: int(told["freed_bytes"]),
        timeout_s=WORK_S,
    )


def diff(id: str, from_: str, to: str = "now", to_sandbox: str = "") -> Call[Changes]:
    """What changed between two snapshots; ``now`` is the sandbox as it is. ``to_sandbox``: another one of the
    same source, that ``to`` is a point of."""
    body = {"from_snapshot": from_, "to_snapshot": to}
    if to_sandbox:
        body["to_sandbox"] = to_sandbox
    one = noun("Changes", "changes")
    return Call(
        "POST",
        path("sandboxes", id, "diff"),
        lambda answer: one(answer["diff"]),
        body=body,
        timeout_s=WORK_S,
    )


def changes(id: str, approval: str = "") -> Call[Changes]:
    """With ``approval``, whose evidence names it: refused if somebody altered it since."""
    query = {"approval": approval} if approval else {}
    return Call("GET", path("changes", id), noun("Changes"), query=query)


def generate_playbook(id: str, from_: str | None = None, to: str | None = None) -> Call[Playbook]:
    """The playbook of the change between two snapshots (by default: the first, and now)."""
    body = given(sandbox_id=id, from_snapshot=from_, to_snapshot=to)
    return Call("POST", path("playbooks"), noun("Playbook"), body=body, timeout_s=WORK_S)


def playbook(id: str) -> Call[Playbook]:
    return Call("GET", path("playbooks", id), noun("Playbook"))


def playbooks() -> Call[list[Playbook]]:
    return Call("GET", path("playbooks"), nouns("Playbook", "playbooks"))


def update_playbook(id: str, yaml: str) -> Call[Playbook]:
    """An edit is checked by the grammar."""
    return Call("PUT", path("playbooks", id), noun("Playbook"), body={"yaml": yaml})


def playbook_file(id: str, sha256: str) -> Call[bytes]:
    return Call("GET", path("playbooks", id, "files", sha256), bytes, binary=True)


# --- asking people ------------------------------------------------------------------------------------------


def request_approval(
    id: str,
    *,
    playbook: str,
    targets: list[str],
    reason: str,
    from_snapshot: str | None = None,
    to_snapshot: str | None = None,
) -> Call[Approval]:
    """Starts the rehearsal and returns at once; :func:`wait_approval` blocks."""
    body = given(
        sandbox_id=id,
        playbook=playbook,
        targets=targets,
        reason=reason,
        from_snapshot=from_snapshot,
        to_snapshot=to_snapshot,
    )
    return Call("POST", path("approvals"), noun("Approval"), body=body)


def approval(id: str, *, wait: float = 0) -> Call[Approval]:
    """The approval; with ``wait`` once its state changes, or after that many seconds."""
    query = {"wait": wait} if wait else {}
    return Call("GET", path("approvals", id), noun("Approval"), query=query, timeout_s=wait + QUICK_S)


def approvals(requester_uid: int | None = None) -> Call[list[Approval]]:
    """Those that are open and the last that ended, of one requester or of all."""
    query = {"requester_uid": requester_uid}
    return Call("GET", path("approvals"), nouns("Approval", "approvals"), query=query)


def withdraw_approval(id: str) -> Call[Approval]:
    return Call("DELETE", path("approvals", id), noun("Approval"))


def wait_approval(id: str, *, timeout: float = 86_400.0) -> Flow[Approval]:
    """Blocks until the request is over, or its rehearsal sent it back; outlives a restart of the backend.

    Raises:
        TimedOut: it is still open after ``timeout`` seconds.
    """
    left = timeout
    while left > 0:
        span = min(LONG_POLL_S, left)
        try:
            found: Approval = yield approval(id, wait=span)
        except BackendDown:
            yield Pause(RETRY_S)
            left -= RETRY_S
            continue
        if found.state.value in OVER or (found.state.value == "drafting" and found.evidence.failure):
            return found
        left -= span
    raise TimedOut(f"{id} is still open after {timeout:g} s", remedy="wait again, or withdraw it")


def ask(
    prompt: str,
    *,
    action_type: str = "question",
    context: str = "",
    urgency: str = "medium",
    timeout: int = 300,
    alternatives: list[str] | None = None,
    sandbox_id: str | None = None,
) -> Flow[Ask]:
    """Ask a person and block until the answer, or until it expires; outlives a restart of the backend."""
    body = given(
        prompt=prompt,
        action_type=action_type,
        context=context,
        urgency=urgency,
        timeout_secs=timeout,
        alternatives=alternatives or [],
        sandbox_id=sandbox_id,
    )
    asked: Ask = yield Call("POST", path("human", "ask-async"), noun("Ask"), body=body)
    while asked.status.value == "pending":
        try:
            asked = yield Call(
                "GET",
                path("human", "pending", asked.request_id),
                noun("Ask"),
                query={"wait": LONG_POLL_S},
                timeout_s=LONG_POLL_S + QUICK_S,
            )
        except BackendDown:
            yield Pause(RETRY_S)
    return asked


# --- terminals ----------------------------------------------------------------------------------------------


def open_pane(id: str) -> Call[Pane]:
    """A terminal: a shell in the sandbox that operators can watch."""
    return Call(
        "POST", path("tmux", "panes", "create"), noun("Pane"), body={"sandbox_id": id}, timeout_s=WORK_S
    )


def panes() -> Call[list[Pane]]:
    return Call("GET", path("tmux", "panes"), nouns("Pane", "panes"))


def send_keys(pane_id: str, text: str | None = None, *, key: str | None = None) -> Call[None]:
    """Type literal text, or press one key by its name (``Enter``, ``C-c`` …)."""
    body = given(pane_id=pane_id, text=text, key=key)
    return Call("POST", path("tmux", "panes", "send-keys"), nothing, body=body, timeout_s=WORK_S)


def read_pane(pane_id: str, last_n_lines: int = 0) -> Call[list[str]]:
    """The rows that the pane shows; or its last lines, with history."""
    body = {"pane_id": pane_id, "last_n_lines": last_n_lines}
    return Call(
        "POST", path("tmux", "panes", "read"), lambda answer: answer["content"].split("\n"), body=body
    )


def close_pane(pane_id: str) -> Call[None]:
    return Call("DELETE", path("tmux", "panes", pane_id), nothing)


# --- what there is -----------------------------------------------------------------------------------------


def whoami() -> Call[Identity]:
    return Call("GET", path("whoami"), noun("Identity"))


def say(status: str, note: str = "") -> Call[None]:
    """How the agent does: ``planning, working, testing, blocked, done`` or ``error``."""
    return Call("POST", path("agents", "me"), nothing, body={"status": status, "note": note})


def sources() -> Call[list[SourceView]]:
    return Call("GET", path("sources"), nouns("SourceView", "sources"))


def targets() -> Call[list[TargetView]]:
    return Call("GET", path("targets"), nouns("TargetView", "targets"))


def images() -> Call[list[ImageView]]:
    return Call("GET", path("images"), nouns("ImageView", "images"))


def health() -> Call[dict[str, Any]]:
    return Call("GET", path("health"), as_is)


def policy() -> Call[dict[str, Any]]:
    return Call("GET", path("policy"), as_is)
