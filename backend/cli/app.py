"""The program: its nouns, each imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from backend import __version__
from backend.cli.common import behind
from backend.cli.console import open_console
from backend.cli.guard import guarded
from backend.cli.plain import print_plain
from backend.errors import BadRequest

NOUNS = {
    "status": ("status", "What runs, who waits, and how each part is."),
    "serve": ("serve", "Run the backend in the foreground."),
    "doctor": ("doctor", "Look for what is wrong here, with the command that mends it."),
    "sandboxes": (
        "sandboxes",
        "Agents' machines: list, create, show, exec, ssh, follow, attach, hand-back, stop, start, pause, "
        "resume, extend, destroy.",
    ),
    "commands": ("commands", "What agents ran, and what it printed: list, show."),
    "snapshots": ("snapshots", "Points in time of a sandbox: list, create, restore, branch, delete, diff."),
    "playbooks": ("playbooks", "Generated playbooks: list, generate, show, export."),
    "approvals": (
        "approvals",
        "Requests for production: list, show, request, watch, dry-run, approve, reject, abort, pack.",
    ),
    "recordings": ("recordings", "What agents' terminals showed: list, export."),
    "replay": ("replay", "Play what an agent's terminal showed."),
    "panic": ("panic", "Pause every sandbox, revoke certificates, block every apply; release it."),
    "runs": ("runs", "Rehearsals, dry runs, applies: show, cancel, rollback."),
    "asks": ("asks", "Agents' questions: list, answer."),
    "hosts": ("hosts", "Hypervisors: list, add, remove, drain, resume."),
    "targets": ("targets", "Production machines: list, check."),
    "ca": ("ca", "The SSH CA that guests trust: show, rotate; install prints how."),
    "sources": ("sources", "What sandboxes are forked from: list; domains: check, prepare."),
    "images": ("images", "Guest images: list, build, import, remove."),
    "audit": ("audit", "The hash-chained record: list, verify, export."),
    "gc": ("gc", "What nobody needs any more: shown with --dry-run, else removed."),
    "config": ("config", "The settings: show, schema."),
    "demo": ("demo", "The whole path of one change on this machine, with nothing mocked."),
    "check": ("developing", "Lint, types and import floors of a checkout."),
    "test": ("developing", "The tests of a checkout."),
    "bench": ("developing", "The benchmarks of a checkout."),
    "help": ("manual", "A page of the manual."),
}

ABOUT_THIS_MACHINE = frozenset({"serve", "doctor", "config", "demo", "check", "test", "bench", "help"})


class Nouns(TyperGroup):
    """Commands by name; the file of a noun is imported when the noun is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in NOUNS:
            return None
        module, summary = NOUNS[cmd_name]
        loaded = importlib.import_module(f"backend.cli.{module}")
        command = get_command(loaded.apps[cmd_name] if hasattr(loaded, "apps") else loaded.app)
        command.name = cmd_name
        command.help = command.help or summary
        command.short_help = summary
        return command


app = typer.Typer(
    cls=Nouns,
    name="fluid",
    help="Fluid: AI agents work on disposable machines; you approve what reaches production.\n\n"
    "Without a command: the console.",
    epilog="`fluid help TOPIC` shows the manual, `fluid NOUN VERB --help` examples.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fluid {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
    read_only: bool = typer.Option(False, "--read-only", help="A console that looks and cannot touch."),
    plain: bool = typer.Option(False, "--plain", help="What the console shows, as sentences."),
    no_mouse: bool = typer.Option(
        False, "--no-mouse", help="A console that leaves the mouse to the terminal; also FLUID_MOUSE=0."
    ),
    connect: str | None = typer.Option(
        None, "--connect", metavar="[USER@]HOST", help="The backend of that machine, through SSH."
    ),
) -> int:
    """Options of the program itself."""
    if context.invoked_subcommand is not None:
        if read_only or plain or no_mouse:
            raise BadRequest(
                "--read-only, --no-mouse and --plain go without a command",
                remedy="they are the console's own",
            )
        if connect is not None:
            _connect(context, connect)
        return 0
    if plain:
        if connect is not None:
            _connect(context, connect)
        print_plain()
        return 0
    return open_console(read_only=read_only, connect=connect, mouse=not no_mouse)


def _connect(context: typer.Context, login: str) -> None:
    if (noun := context.invoked_subcommand) in ABOUT_THIS_MACHINE:
        raise BadRequest(f"`fluid {noun}` is about this machine", remedy="run it there, without --connect")
    context.with_resource(behind(login))


def run(words: list[str]) -> int:
    """Run the program with these words; its exit code."""
    return guarded(lambda: app(words, prog_name="fluid", standalone_mode=False))
