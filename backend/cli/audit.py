"""``fluid audit …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.common import door, sandbox_id, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import operator_calls
from backend.errors import AuditBroken
from backend.text import visible

HEAD_CHARS = 1024

app = noun_app("The hash-chained record.")


@app.command("list", epilog=examples("fluid audit list --sandbox web", "fluid audit list --limit 20"))
def list_rows(
    sandbox: Annotated[
        str | None, typer.Option(help="Of one sandbox, by id or name; a destroyed one by id.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Such as approval.approve.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Rows after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 200,
    as_json: AsJson = False,
) -> None:
    """Who did what, and when."""
    of = sandbox_id(sandbox) if sandbox else None
    told = door().json(operator_calls.audit(sandbox_id=of, action=action, after=after, limit=limit))
    if as_json:
        return show_json(told)
    rows = [
        (
            row["seq"],
            row["at"][:19],
            row["actor_name"] or row["actor_uid"],
            row["action"],
            row["step"],
            row["id"],
        )
        for row in told["rows"]
    ]
    return show_rows(("row", "time", "who", "action", "step", "of"), rows, empty="no row")


@app.command(epilog=examples("fluid audit verify", "fluid audit verify --head audit.head.monday"))
def verify(
    head: Annotated[
        Path | None,
        typer.Option(
            help="A copy of audit.head that you kept: what was recorded then must still be there.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Walk the whole chain and its signed head. Exit 9 when a row does not hold or nothing is signed."""
    told = door().json(operator_calls.verify_audit(_kept(head) if head else None))
    if as_json:
        show_json(told)
    where, reason = f"row {told['first_bad']}: " if told["first_bad"] else "", told["reason"]
    if not told["ok"]:
        raise AuditBroken(
            f"{where}{reason or 'the chain does not hold'}",
            remedy="keep the database and the head file as they are, and compare with an export",
        )
    if reason and told["rows"]:
        raise AuditBroken(reason, remedy="compare with an export, or with a kept copy of audit.head")
    if not as_json:
        print(visible("; ".join(filter(None, (f"{told['rows']} rows, the chain holds", reason)))))


@app.command(epilog=examples("fluid audit export audit.jsonl"))
def export(
    file: Annotated[Path, typer.Argument(help="Made with mode 0600; one JSON object a line.")],
    as_json: AsJson = False,
) -> None:
    """Write every row to a file."""
    data = door().export_audit()
    file.touch(mode=0o600, exist_ok=False)
    file.write_bytes(data)
    rows = data.count(b"\n")
    return show_json({"file": str(file), "rows": rows}) if as_json else print(visible(f"{file}: {rows} rows"))


def _kept(file: Path) -> str:
    """Enough to see that it is no signed head, if it is not."""
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(HEAD_CHARS)
