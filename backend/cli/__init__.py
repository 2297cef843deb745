"""``fluid …``: one file a noun, each on the client. Exit codes are the table of :mod:`backend.errors`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The program ``fluid``. A plain ``fluid status`` and the console do without the command line library,
    whose import takes longer than all the rest of the one, and delays the other."""
    words = sys.argv[1:]
    if not words:
        from backend.cli.console import open_console
        from backend.cli.guard import guarded

        sys.exit(guarded(open_console))
    if words in (["status"], ["status", "--json"]):
        from backend.cli.guard import guarded
        from backend.cli.overview import print_status

        sys.exit(guarded(lambda: print_status("--json" in words)))
    if words == ["status", "--line"]:
        from backend.cli.guard import guarded
        from backend.cli.overview import print_line

        sys.exit(guarded(print_line))
    from backend.cli.app import run

    sys.exit(run(words))
