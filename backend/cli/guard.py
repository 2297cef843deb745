"""How a command ends: errors as one line with the remedy, exit codes from one table, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from backend.errors import EXIT_BUG, EXIT_OK, EXIT_USAGE, FluidError

INTERRUPTED = 130


def guarded(work: Callable[[], Any]) -> int:
    """The exit code of some work: the number it returns, or that of its error, which is told on stderr."""
    try:
        answer = work()
    except FluidError as error:
        _quote(error.details.get("console"))
        return _tell(error.message, error.remedy, error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is None:
            return _unforeseen(error)
        path = os.fsdecode(error.filename)
        return _tell(f"{path}: {error.strerror}", "give another path, or check owner and mode", EXIT_USAGE)
    except Exception as error:
        return _unforeseen(error)
    return answer if isinstance(answer, int) else EXIT_OK


def _quote(console: Any) -> None:
    """The end of a guest's console stands above the error that it explains."""
    from backend.text import visible

    for line in console if isinstance(console, list) else ():
        print(f"  | {visible(str(line))}", file=sys.stderr)


def _unforeseen(error: Exception) -> int:
    """The command line library's errors have messages of their own; anything else is a bug."""
    kind = type(error).__name__
    if kind == "Abort":
        return _tell("not done", "", EXIT_USAGE)
    if kind == "NoArgsIsHelpError":  # its message is the whole help
        print(error, file=sys.stderr)
        return EXIT_USAGE
    told = getattr(error, "format_message", None)
    if callable(told):
        return _tell(str(told()).rstrip("."), "`--help` shows what goes here", EXIT_USAGE)
    if os.environ.get("FLUID_DEBUG"):
        import traceback

        traceback.print_exc()
    return _tell(f"{kind}: {error}", "a bug; FLUID_DEBUG=1 shows where", EXIT_BUG)


def _tell(message: str, remedy: str, exit_code: int) -> int:
    from backend.text import visible

    line = visible(" ".join(message.split("\n")))
    print(f"fluid: {line}" + (f" — {visible(remedy)}" if remedy else ""), file=sys.stderr)
    return exit_code
