"""tmux: the only room that talks to it. libtmux makes panes, one control-mode client does the rest."""

from backend.tmux.client import Watch
from backend.tmux.keyboard import Keyboard
from backend.tmux.keys import ALLOWED, check_key
from backend.tmux.pane import TmuxPane, TmuxScreen
from backend.tmux.server import Drawn, TmuxServer
from backend.tmux.settings import HISTORY_LINES

__all__ = [
    "ALLOWED",
    "HISTORY_LINES",
    "Drawn",
    "Keyboard",
    "TmuxPane",
    "TmuxScreen",
    "TmuxServer",
    "Watch",
    "check_key",
]
