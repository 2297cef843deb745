"""Options and arguments that the nouns share, and how a noun's command is declared."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from backend.cli.common import drop_typed_ahead
from backend.errors import BadRequest

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SandboxName = Annotated[str, typer.Argument(metavar="SANDBOX", help="Its id or its name.")]
ApprovalName = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id or its short id.")]


def noun_app(summary: str) -> typer.Typer:
    """The command group of one noun."""
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def verb_app() -> typer.Typer:
    """A noun that is a single command."""
    return typer.Typer(rich_markup_mode=None, add_completion=False)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)])


def confirm(question: str, yes: bool, otherwise: str = "--yes") -> None:
    """Ask, default No. Without a terminal the option ``otherwise`` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadRequest(f"{question} nobody is there to answer", remedy=f"add {otherwise}")
    drop_typed_ahead()
    typer.confirm(question, abort=True)
