"""``fluid help``: the manual's pages, in ``backend/docs``."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import typer

from backend.cli.options import examples, verb_app
from backend.errors import NotFound

app = verb_app()


@app.command("help", epilog=examples("fluid help", "fluid help agents"))
def show(topic: Annotated[str | None, typer.Argument(help="A page; else the list of pages.")] = None) -> None:
    """A page of the manual."""
    folder = resources.files("backend") / "docs"
    pages = {
        page.name.removesuffix(".md"): page
        for page in (folder.iterdir() if folder.is_dir() else ())
        if page.name.endswith(".md")
    }
    if topic is None:
        for name in sorted(pages):
            print(f"{name:<14} {pages[name].read_text().splitlines()[0].lstrip('# ')}")
        return
    if topic not in pages:
        raise NotFound(f"the manual has no page {topic!r}", remedy="`fluid help` lists its pages")
    print(pages[topic].read_text())
