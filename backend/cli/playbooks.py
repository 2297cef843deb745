"""``fluid playbooks …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.common import door, sandbox_id, show_json, show_rows, show_text
from backend.cli.options import AsJson, SandboxName, examples, noun_app
from backend.client import calls
from backend.errors import Conflict
from backend.text import visible

app = noun_app("Generated playbooks.")

PlaybookId = Annotated[str, typer.Argument(metavar="PLAYBOOK")]


@app.command("list", epilog=examples("fluid playbooks list"))
def list_playbooks(as_json: AsJson = False) -> None:
    """Every playbook that you may see."""
    told = door().json(calls.playbooks())
    if as_json:
        return show_json(told)
    rows = [(row["id"], row["name"], row["sandbox_id"], len(row["tasks"])) for row in told["playbooks"]]
    return show_rows(("id", "name", "sandbox", "tasks"), rows, empty="no playbook")


@app.command(epilog=examples("fluid playbooks generate web before after"))
def generate(
    sandbox: SandboxName,
    from_: Annotated[str | None, typer.Argument(metavar="FROM")] = None,
    to: Annotated[str | None, typer.Argument(metavar="TO")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the playbook of what changed."""
    told = door().json(calls.generate_playbook(sandbox_id(sandbox), from_, to))
    if as_json:
        return show_json(told)
    print(visible(f"{told['id']}: {len(told['tasks'])} tasks, {len(told['files'])} files"))
    for note in told["notes"]:
        print(visible(f"left out: {note}"))
    return None


@app.command(epilog=examples("fluid playbooks show PBK-1f0c9a2b"))
def show(playbook: PlaybookId, as_json: AsJson = False) -> None:
    """The playbook's YAML."""
    told = door().json(calls.playbook(playbook))
    return show_json(told) if as_json else show_text(told["yaml"])


@app.command(epilog=examples("fluid playbooks export PBK-1f0c9a2b ./nginx-tls"))
def export(playbook: PlaybookId, folder: Annotated[Path, typer.Argument()], as_json: AsJson = False) -> None:
    """Write it as a folder that plain ansible-playbook runs."""
    from backend.playbooks import export as write

    told = door().playbook(playbook)
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", remedy="name a new folder")
    write(told.yaml, {sha256: door().playbook_file(told.id, sha256) for sha256 in told.files}, folder)
    done = {"folder": str(folder), "files": len(told.files)}
    return (
        show_json(done) if as_json else print(visible(f"{folder}: playbook.yml and {len(told.files)} files"))
    )
