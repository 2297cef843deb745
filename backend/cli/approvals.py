"""``fluid approvals …``: judge a request without the console, with the same evidence."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.common import (
    ago,
    approval_id,
    door,
    door_path,
    drop_typed_ahead,
    left,
    sandbox_id,
    show_fields,
    show_json,
    show_rows,
    show_text,
    span,
)
from backend.cli.options import ApprovalName, AsJson, SandboxName, Yes, confirm, examples, noun_app
from backend.cli.secret_values import secret_values
from backend.client import calls, operator_calls
from backend.errors import EXIT_OK, BadRequest, EvidenceIncomplete, TimedOut, WrongState
from backend.text import visible

app = noun_app("Requests for production.")

LOOK_S = 0.5
TELL_S = 10.0
DRY_RUN_S = 3600.0
"""A run ends after half an hour (runner: timeout_s); one of another group may come before it."""


@app.command("list", epilog=examples("fluid approvals list", "fluid approvals list --json"))
def list_approvals(as_json: AsJson = False) -> None:
    """Open requests first, then those that are over."""
    told = door().json(calls.approvals())
    if as_json:
        return show_json(told)
    rows = [
        (
            row["short_id"],
            row["id"],
            row["state"],
            row["sandbox_name"],
            ", ".join(row["targets"]),
            row["requester_name"],
            ago(row["created_at"]),
            left(row["expires_at"]) if row["state"] == "pending" else "",
            row["reason"],
        )
        for row in told["approvals"]
    ]
    titles = ("short", "id", "state", "sandbox", "targets", "from", "age", "left", "reason")
    return show_rows(titles, rows, empty="no request")


@app.command(epilog=examples("fluid approvals show 4f2a", "fluid approvals show APR-4f2a1c00 --json"))
def show(approval: ApprovalName, as_json: AsJson = False) -> None:
    """The request and its evidence, playbook included."""
    told = door().json(calls.approval(approval_id(approval)))
    if as_json:
        return show_json(told)
    _show(told)
    print()
    return show_text(_playbook(told)["yaml"])


@app.command(
    epilog=examples(
        "fluid approvals request web --playbook PBK-1f0c9a2b --target web-01 --reason 'serve the docs'"
    )
)
def request(
    sandbox: SandboxName,
    playbook: Annotated[str, typer.Option(metavar="PLAYBOOK", help="Its id, of `playbooks generate`.")],
    target: Annotated[list[str], typer.Option(help="A production machine; may be given again.")],
    reason: Annotated[str, typer.Option(help="What the operators are told.")],
    from_snapshot: Annotated[str | None, typer.Option(help="Compare from here; else the playbook's.")] = None,
    to_snapshot: Annotated[str | None, typer.Option(help="Compare to here, also `now`.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is over.")] = True,
    as_json: AsJson = False,
) -> int:
    """Ask for a playbook to reach production: it is rehearsed, then an operator decides. Exit 0 when it was
    applied, 4 when it was not, with the reason."""
    call = calls.request_approval(
        sandbox_id(sandbox),
        playbook=playbook,
        targets=target,
        reason=reason,
        from_snapshot=from_snapshot,
        to_snapshot=to_snapshot,
    )
    told = door().json(call)
    if wait:
        print(visible(f"{told['id']} is {told['state']} …"), file=sys.stderr)
        door().wait_approval(told["id"])
        told = door().json(calls.approval(told["id"]))
    show_json(told) if as_json else _decided(told)
    return EXIT_OK if not wait or told["state"] == "applied" else WrongState.exit_code


@app.command("dry-run", epilog=examples("fluid approvals dry-run 4f2a"))
def dry_run(approval: ApprovalName, as_json: AsJson = False) -> None:
    """Check mode on each target, now; the evidence when all have ended."""
    told = _dry_run(approval_id(approval))
    return show_json(told) if as_json else _show(told)


@app.command(
    epilog=examples("fluid approvals approve 4f2a", "fluid approvals approve APR-4f2a1c00 --digest D --json")
)
def approve(
    approval: ApprovalName,
    digest: Annotated[
        str | None, typer.Option(help="Of the evidence you judged; then nothing is asked.")
    ] = None,
    comment: Annotated[str, typer.Option(help="Kept in the audit.")] = "",
    secrets_file: Annotated[
        Path | None, typer.Option(help="Values of the playbook's secrets (mode 0600); else they are asked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what will run, ask, let it reach production."""
    id = approval_id(approval)
    chosen, names = (digest, []) if digest else _judged(id)
    secrets = secret_values(names, secrets_file)
    told = door().json(operator_calls.approve(id, chosen, comment, secrets))
    return show_json(told) if as_json else _decided(told)


@app.command(epilog=examples("fluid approvals reject 4f2a 'use the packaged unit' --changes"))
def reject(
    approval: ApprovalName,
    reason: Annotated[str, typer.Argument(help="What the agent is told.")],
    changes: Annotated[bool, typer.Option("--changes", help="Ask for changes: it may come back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say no, with the reason."""
    told = door().json(operator_calls.reject(approval_id(approval), reason, changes))
    return show_json(told) if as_json else _decided(told)


@app.command(epilog=examples("fluid approvals watch", "fluid approvals watch --once && notify-send fluid"))
def watch(
    once: Annotated[bool, typer.Option("--once", help="End when somebody waits.")] = False,
    bell: Annotated[bool, typer.Option("--bell/--no-bell", help="Ring for each that is new.")] = True,
    as_json: AsJson = False,
) -> None:
    """A line for each request or question that newly waits for you, until ctrl+c."""
    from backend.cli.watching import watch as follow
    from backend.client import AsyncFluid

    follow(AsyncFluid(door_path()), once=once, bell=bell, as_json=as_json)


@app.command(epilog=examples("fluid approvals pack 4f2a > evidence.json"))
def pack(approval: ApprovalName, as_json: AsJson = True) -> None:
    """All evidence of one request as JSON, to be kept elsewhere."""
    show_json(door().json(operator_calls.pack(approval_id(approval))))


def _dry_run(id: str) -> dict[str, Any]:
    """The request when a new dry run has ended on each target, or it is pending no more. Standard error is
    told each TELL_S how long it takes.

    Raises:
        TimedOut: it goes on after DRY_RUN_S.
    """
    told: dict[str, Any] = door().json(operator_calls.dry_run(id))
    before, began, told_s = told["evidence"]["dry_run"], time.monotonic(), 0.0
    words = f"dry run on {', '.join(visible(name) for name in told['targets'])}"
    print(f"{words} …", file=sys.stderr)
    while told["state"] == "pending" and any(
        told["evidence"]["dry_run"].get(name) == before.get(name) for name in told["targets"]
    ):
        waited_s = time.monotonic() - began
        if waited_s > DRY_RUN_S:
            raise TimedOut(
                f"the {words} goes on after {span(waited_s)}",
                remedy=f"`fluid approvals show {id}` says how it ends",
            )
        if waited_s - told_s > TELL_S:
            told_s = waited_s
            print(f"{words} … {span(waited_s)}", file=sys.stderr)
        time.sleep(LOOK_S)
        told = door().json(calls.approval(id))
    return told


def _judged(id: str) -> tuple[str, list[str]]:
    """The digest of the evidence that was shown and confirmed on this terminal; the secrets that it needs."""
    if not sys.stdin.isatty():
        raise BadRequest(
            f"nobody is there to judge {id}", remedy="add --digest, from `approvals show --json`"
        )
    told = door().json(calls.approval(id))
    if told["state"] == "pending" and not told["evidence"]["dry_run"]:
        told = _dry_run(id)
    playbook = _playbook(told)
    _show(told)
    print()
    show_text(playbook["yaml"])
    if not told["digest"]:
        raise EvidenceIncomplete(
            f"{id} cannot be approved: it is {told['state']}",
            remedy="`fluid approvals show` says what is missing",
        )
    drop_typed_ahead()
    typed = typer.prompt(question(told), default="", show_default=False)
    if typed != told["short_id"]:
        raise typer.Abort
    return told["digest"], [] if playbook["kept"] else playbook["secrets"]


def question(told: dict[str, Any]) -> str:
    """What typing the id does, with the count of what no dry run tries."""
    targets, opaque = ", ".join(visible(name) for name in told["targets"]), len(told["evidence"]["opaque"])
    more = f", with {opaque} opaque task{'s' if opaque > 1 else ''}" if opaque else ""
    return f"Type {told['short_id']} to run this on {targets}{more}"


@app.command(epilog=examples("fluid approvals abort 4f2a --yes"))
def abort(approval: ApprovalName, yes: Yes = False, as_json: AsJson = False) -> None:
    """End its running apply; what is done on the targets stays done."""
    told = door().json(calls.approval(approval_id(approval)))
    if told["state"] != "applying" or not told["apply_run"]:
        raise WrongState(f"{told['id']} is {told['state']}", remedy="only a running apply can be aborted")
    confirm(f"Abort the apply of {visible(told['short_id'])}?", yes)
    run = door().json(operator_calls.cancel_run(told["apply_run"]))
    return show_json(run) if as_json else print(visible(f"{run['id']} is {run['state']}"))


def _playbook(told: dict[str, Any]) -> dict[str, Any]:
    playbook: dict[str, Any] = door().json(calls.playbook(told["playbook_id"]))
    return playbook


def _decided(told: dict[str, Any]) -> None:
    print(visible(": ".join(filter(None, (f"{told['id']} is {told['state']}", _ending(told))))))


def _ending(told: dict[str, Any]) -> str:
    failure = told["evidence"]["failure"] if told["state"] == "drafting" else ""
    return ": ".join(filter(None, (failure, told["outcome"], told["said_by_targets"])))


def _show(told: dict[str, Any]) -> None:
    evidence = told["evidence"]
    residual = evidence["residual"]
    kinds = Counter(row["kind"] for row in residual)
    show_fields(
        [
            ("unrehearsed", ", ".join(evidence["unrehearsed"])),
            ("request", f"{told['short_id']} ({told['id']})"),
            ("state", told["state"]),
            ("doing", told["progress"]),
            ("outcome", _ending(told)),
            (
                "from",
                f"{told['requester_name']} (uid {told['requester_uid']}), agent {told['agent_id'] or '—'}",
            ),
            ("sandbox", f"{told['sandbox_name']} ({told['sandbox_id']})"),
            *(("target", _where(name, evidence["dry_run"])) for name in told["targets"]),
            ("reason", told["reason"]),
            ("left", left(told["expires_at"]) if told["state"] == "pending" else ""),
            ("changes", ", ".join(f"{count} {noun}" for noun, count in evidence["counts"].items() if count)),
            *(("diff", words) for words in evidence.get("notes") or ()),
            ("rehearsal", _recap(evidence["rehearsal"])),
            ("again", _again(evidence)),
            ("residual", ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"),
            *((row["kind"], f"{row['noun']} {row['name']}: {row['reason']}") for row in residual),
            ("running", _running(evidence)),
            *(
                ("running", f"{row['kind']} {row['noun']} {row['name']}: {row['reason']}")
                for row in evidence.get("running") or ()
            ),
            ("opaque", ", ".join(evidence["opaque"])),
            *(("risk", words) for words in evidence["risk"]),
            ("failure", evidence["failure"]),
            ("apply", told["apply_run"]),
            ("rolls back", told["rolls_back"]),
        ]
    )
    for name, target in evidence["dry_run"].items():
        print(visible(f"dry run on {name}: {target['error'] or _recap(target['result'])}"))
        for sentence in target["differs"]:
            print(visible(f"  differs: {sentence}"))
    if told["digest"]:
        print(f"digest     {visible(told['digest'])}")


def _where(name: str, dry_run: dict[str, Any]) -> str:
    """A target with the login that its dry run made."""
    return f"{name} {dry_run.get(name, {}).get('login', '')}".rstrip()


def _recap(result: dict[str, int] | None) -> str:
    return " ".join(f"{word}={count}" for word, count in result.items() if count) if result else ""


def _running(evidence: dict[str, Any]) -> str:
    from backend.models import FROM_GUEST, by_whom

    rows = evidence.get("running")
    if rows is None:
        return ""
    return f"{f'{len(rows)} differences' if rows else 'as in the sandbox'}, {by_whom(FROM_GUEST)}"


def _again(evidence: dict[str, Any]) -> str:
    from backend.models import by_whom

    changed, where = evidence["again_changed"], by_whom(evidence["read_from"])
    if changed is None:
        return ""
    return f"changed nothing {where}" if changed == 0 else f"changed {changed} paths {where}"
