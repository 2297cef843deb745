"""``fluid recordings …``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, show_json, show_rows, span
from backend.cli.options import AsJson, examples, noun_app
from backend.client import operator_calls
from backend.errors import BadRequest, RecordingNotFound
from backend.text import visible

app = noun_app("What agents' terminals showed.")

MIB = 1 << 20
RAW = (
    "its events are raw output of a guest: a player hands them to your terminal as they are. "
    "`fluid replay` draws them safely"
)
RecordingName = Annotated[
    str, typer.Argument(metavar="RECORDING", help="Its id, or a sandbox's name or id: its newest.")
]


@app.command("list", epilog=examples("fluid recordings list", "fluid recordings list --sandbox web"))
def list_recordings(
    sandbox: Annotated[str | None, typer.Option(help="Of this one only, by id or name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every recording that is kept, newest first; those of destroyed sandboxes too."""
    told = of_sandbox(sandbox) if sandbox else _all()
    if as_json:
        return show_json({"recordings": told})
    rows = [
        (
            row["id"],
            row["sandbox_name"],
            row["sandbox_id"],
            row["pane_id"],
            ago(row["started_at"]),
            span(row["duration_s"]),
            f"{row['size_bytes'] / MIB:.1f} MB",
            "live" if row["ended_at"] is None else "its middle is gone" if row["is_cut"] else "",
        )
        for row in told
    ]
    titles = ("id", "name", "sandbox", "pane", "began", "length", "size", "")
    return show_rows(titles, rows, empty="no recording: no agent has opened a terminal")


@app.command(epilog=examples("fluid recordings export REC-1f0c9a2b --to session.cast"))
def export(
    recording: RecordingName,
    to: Annotated[Path | None, typer.Option(help="A new file, 0600; without it standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write it as an asciicast of version 2, for any player. Secrets that are known by their look are
    withheld; apart from that it is a guest's raw output."""
    found = newest(recording)
    if to is None and sys.stdout.isatty():
        raise BadRequest(
            "a guest's raw output does not go to a terminal",
            remedy=f"--to FILE, or `fluid replay {visible(found['id'])}`",
        )
    data: bytes = door().send(operator_calls.recording_cast(found["id"]))
    if to is None:
        sys.stdout.buffer.write(data)
    else:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        told = {"id": found["id"], "file": str(to), "bytes": len(data)}
        show_json(told) if as_json else print(visible(f"{to}: {len(data)} bytes"))
    print(RAW, file=sys.stderr)


def newest(name: str) -> dict[str, Any]:
    """The recording of this id, or the newest of the sandbox of this id or name.

    Raises:
        RecordingNotFound: there is none.
    """
    if name.startswith("REC-"):
        told: dict[str, Any] = door().json(operator_calls.recording(name))
        return told
    if found := of_sandbox(name):
        return found[0]
    raise RecordingNotFound(
        f"no terminal of {name!r} was recorded", remedy="`fluid recordings list` shows what there is"
    )


def of_sandbox(name: str) -> list[dict[str, Any]]:
    """Those of the sandbox of this id or name, newest first, whatever else had the name."""
    recordings = _all()
    if name.startswith("SBX-"):
        return [one for one in recordings if one["sandbox_id"] == name]
    return [one for one in recordings if one["sandbox_name"] == name]


def _all() -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = door().json(operator_calls.recordings())["recordings"]
    return told
