"""tmux: the only room that talks to it. libtmux makes panes, one control-mode client does the rest."""

from backend.tmux.client import Watch
from backend.tmux.keys import ALLOWED, check_key
from backend.tmux.server import HISTORY_LINES, Drawn, TmuxPane, TmuxServer

__all__ = ["ALLOWED", "HISTORY_LINES", "Drawn", "TmuxPane", "TmuxServer", "Watch", "check_key"]
