"""``fluid sandboxes …``."""

from __future__ import annotations

import shlex
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, left, sandbox_id, show_fields, show_json, show_rows
from backend.cli.options import AsJson, SandboxName, Yes, confirm, examples, noun_app
from backend.cli.piped import piped
from backend.client import calls, operator_calls
from backend.client.call import Call
from backend.errors import FluidError
from backend.text import visible

app = noun_app("Agents' machines.")

LOOK_S = 1.0
TIMED_OUT = 124
"""What timeout(1) answers; :mod:`backend.errors` has no say in a command's own exit status."""


@app.command("list", epilog=examples("fluid sandboxes list", "fluid sandboxes list --state running --json"))
def list_sandboxes(
    state: Annotated[str | None, typer.Option(help="A state or phase, such as running.")] = None,
    agent: Annotated[str | None, typer.Option(help="An agent's label.")] = None,
    host: Annotated[str | None, typer.Option(help="A host's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every sandbox that you may see."""
    told = door().json(calls.sandboxes(agent_id=agent, state=state, host_name=host))
    if as_json:
        return show_json(told)
    rows = [
        (
            row["id"],
            row["sandbox_name"],
            row["agent_id"],
            row["owner_name"],
            row["host_name"],
            row["phase"],
            row["ip_address"],
            left(row["expires_at"]),
            ago(row["last_activity_at"]),
            row["reason"],
        )
        for row in told["sandboxes"]
    ]
    titles = ("id", "name", "agent", "owner", "host", "state", "address", "ttl", "last", "why")
    return show_rows(titles, rows, empty="no sandbox; `fluid sandboxes create SOURCE` makes one")


@app.command(epilog=examples("fluid sandboxes create debian-12 --name web"))
def create(
    source: Annotated[str, typer.Argument(help="What to fork; `fluid images list` shows them.")],
    name: Annotated[str | None, typer.Option(help="Its name; else one is made.")] = None,
    agent_id: Annotated[str, typer.Option(help="The label of who works in it.")] = "operator",
    cpu: Annotated[int | None, typer.Option(min=1)] = None,
    memory_mb: Annotated[int | None, typer.Option(min=256)] = None,
    disk_gb: Annotated[int | None, typer.Option(min=1, help="Its disk's size; else its source's.")] = None,
    ttl: Annotated[int | None, typer.Option(min=60, help="Seconds until it is destroyed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fork a source and wait until root's first command works."""
    name = name or f"sbx-{uuid.uuid4().hex[:8]}"
    call = calls.create(
        source,
        agent_id=agent_id,
        name=name,
        cpu=cpu,
        memory_mb=memory_mb,
        disk_gb=disk_gb,
        ttl_seconds=ttl,
    )
    with telling_why(name):
        told = door().json(call)
    if as_json:
        return show_json(told)
    box = told["sandbox"]
    took = f" in {box['ready_s']:.1f} s" if box.get("ready_s") else ""
    print(visible(f"{box['id']} {box['sandbox_name']} {box['phase']} at {box['ip_address']}{took}"))
    return None


@app.command(epilog=examples("fluid sandboxes show web"))
def show(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """Everything about one sandbox."""
    told = door().json(calls.sandbox(sandbox_id(sandbox)))
    return show_json(told) if as_json else show_fields(told["sandbox"].items())


@app.command(
    "exec",
    epilog=examples(
        "fluid sandboxes exec web -- systemctl status nginx",
        "fluid sandboxes exec web 'ls | wc -l'",
        "tar c site | fluid sandboxes exec web -- tar x -C /srv",
    ),
)
def execute(
    sandbox: SandboxName,
    command: Annotated[
        list[str], typer.Argument(help="One word is a shell line; more are an argument list.")
    ],
    user: Annotated[str | None, typer.Option(help="Whom to run as; root by default.")] = None,
    timeout: Annotated[int | None, typer.Option(min=1, help="Seconds.")] = None,
    stdin: Annotated[
        bool | None,
        typer.Option(
            "--stdin/--no-stdin",
            help="Wait for piped input, or ignore it. Default: use input that begins within 2 s.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Run a command with what is piped in; its output as it comes, its exit status as ours."""
    line = command[0] if len(command) == 1 else shlex.join(command)
    id = sandbox_id(sandbox)
    given = None if stdin is False else piped(calls.STDIN_LIMIT_BYTES, patient=stdin is True)
    on_output = None if as_json else _print
    told = door().json(calls.run(id, line, user=user, timeout=timeout, stdin=given, on_output=on_output))
    if as_json:
        show_json(told)
    done = told["command"]
    if done.get("truncated"):
        sizes = f"{done['stdout_bytes']} bytes on stdout, {done['stderr_bytes']} on stderr"
        print(f"fluid: the output was cut at its limit; in full {sizes}", file=sys.stderr)
    if done["timed_out"]:
        print("fluid: the command was ended at its time limit", file=sys.stderr)
        return TIMED_OUT
    return int(done["exit_code"] or 0)


def _print(name: str, text: str) -> None:
    stream = sys.stderr if name == "stderr" else sys.stdout
    stream.write(visible(text, keep_newlines=True, tab=8) if stream.isatty() else text)
    stream.flush()


@app.command(epilog=examples("fluid sandboxes ssh web"))
def ssh(sandbox: SandboxName) -> int:
    """A terminal in the sandbox, through the backend; ctrl+] leaves it."""
    from backend.cli.terminal import attach

    return attach(door().address, sandbox_id(sandbox))


@app.command(epilog=examples("fluid sandboxes attach web", "fluid sandboxes attach web --take"))
def attach(
    sandbox: SandboxName,
    pane: Annotated[str, typer.Option(help="Which of its terminals; else the one that printed last.")] = "",
    take: Annotated[bool, typer.Option("--take", help="Also from another operator, who is told.")] = False,
) -> int:
    """Type into the agent's own terminal, whose agent waits meanwhile; ctrl+] hands it back."""
    from backend.cli.terminal import take_over

    return take_over(door().address, sandbox_id(sandbox), pane, force=take)


@app.command(epilog=examples("fluid sandboxes follow web", "fluid sandboxes follow web --pane %3"))
def follow(
    sandbox: SandboxName,
    pane: Annotated[str, typer.Option(help="Which of its terminals; else the one that printed last.")] = "",
) -> int:
    """The agent's terminal as plain lines, as they come to rest, until it ends or ctrl+c."""
    from backend.cli.following import follow as follow_pane

    return follow_pane(door().address, sandbox_id(sandbox), pane)


@app.command("hand-back", epilog=examples("fluid sandboxes hand-back web"))
def hand_back(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """The agent may type again, whichever operator holds its terminals."""
    id = sandbox_id(sandbox)
    taken = [
        row for row in door().json(calls.panes())["panes"] if row["sandbox_id"] == id and row["taken_by"]
    ]
    told = [door().json(operator_calls.hand_back(row["pane_id"])) for row in taken]
    if as_json:
        return show_json(told)
    for row in taken:
        print(visible(f"{row['pane_id']} is its agent's again; {row['taken_by']} is told"))
    if not taken:
        print("nobody types there")
    return None


@app.command(epilog=examples("fluid sandboxes stop web"))
def stop(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """Shut it down; its disk stays."""
    _act(calls.stop(sandbox_id(sandbox)), as_json)


@app.command(epilog=examples("fluid sandboxes start web"))
def start(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """Boot it again."""
    _act(calls.start(sandbox_id(sandbox)), as_json)


@app.command(epilog=examples("fluid sandboxes pause web"))
def pause(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """Freeze it as it is."""
    _act(calls.pause(sandbox_id(sandbox)), as_json)


@app.command(epilog=examples("fluid sandboxes resume web"))
def resume(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """Thaw it."""
    _act(calls.resume(sandbox_id(sandbox)), as_json)


@app.command(epilog=examples("fluid sandboxes extend web 3600"))
def extend(
    sandbox: SandboxName, seconds: Annotated[int, typer.Argument(min=1)], as_json: AsJson = False
) -> None:
    """Push its end back."""
    _act(calls.extend(sandbox_id(sandbox), seconds), as_json)


@app.command(epilog=examples("fluid sandboxes destroy web --yes"))
def destroy(sandbox: SandboxName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove it with its disk and its snapshots."""
    id = sandbox_id(sandbox)
    confirm(f"Destroy {id} with its disk and snapshots?", yes)
    told = door().json(calls.destroy(id))
    if as_json:
        return show_json(told)
    print(visible(f"{id} {told['sandbox_name']} destroyed"))
    return None


def _act(call: Call[Any], as_json: bool) -> None:
    told = door().json(call)
    if as_json:
        return show_json(told)
    box = told["sandbox"]
    print(visible(f"{box['id']} {box['sandbox_name']} {box['phase']}"))
    return None


@contextmanager
def telling_why(name: str) -> Iterator[None]:
    """While the block waits for that sandbox: what holds it up, on standard error, once a change."""
    done = threading.Event()
    teller = threading.Thread(target=_tell_why, args=(name, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()


def _tell_why(name: str, done: threading.Event) -> None:
    said = ""
    while not done.wait(LOOK_S):
        with suppress(FluidError):
            rows = door().json(calls.sandboxes(vm_name=name))["sandboxes"]
            reason = next((row["reason"] for row in rows if row["sandbox_name"] == name), "")
            if reason not in ("", said) and not done.is_set():
                said = reason
                print(visible(f"{name} {reason}"), file=sys.stderr)
