"""What a console looks like, to be read: every screen by keys, its text, its picture in every theme."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from rich.color import Color as RichColor
from rich.style import Style
from textual.color import Color

from backend.models import now
from fluid_tui.screens.base import NARROW_BELOW
from fluid_tui.themes import THEMES
from fluid_tui.widgets.command_bar import CommandBar
from fluid_tui.widgets.live_list import LiveList
from tests.console.conftest import Console
from tests.console.sample import fleet

SCREENS: dict[str, tuple[list[str], str]] = {
    "fleet": ([], "kernel-cve"),
    "review": (["enter"], "asks   Serve the shop"),
    "approve": (["enter", "2", "a"], "Type 4f2a to approve"),
    "question": (["j", "enter"], "The new one is 15/main"),
    "diff": (["j", "j", "d"], "read from the disk"),
    "terminal": (["j", "j", "t"], "systemctl reload nginx"),
    "wall": (["w"], "15  main 5433 online"),
    "timeline": (["l"], "chain holds"),
    "replay": (["l", "r", "end"], "last words"),
    "hosts": (["h"], "No create is on its way"),
    "help": (["question_mark"], "Open what is under the cursor"),
    "command": (["colon", *"sandbox ", *"nginx-tls "], "freeze it as it is"),
    "panic": (["exclamation_mark", "exclamation_mark"], "No apply starts"),
}
"""The keys from the fleet, and words that stand there in the end. The panic is last: it changes things."""
BEFORE = {("approve", "a"): "Site with TLS", ("replay", "end"): "pauses cut to"}
"""What a key waits for: the request and its playbook are read, the film is there."""
SETTLED_S = 0.1
DAY = re.compile(r"\b20\d\d-\d\d-\d\d\b")
CLOCK = re.compile(r"\b\d\d:\d\d\b(:\d\d)?")
AGO = re.compile(r"\b\d+ [sm] ago|just now")
FRAME = re.compile(r"[─│╭╮╰╯┬┴├┤┼━┃▌▁▂▃▄▅▆▇█▎▊\s]*")
CELL, LINE, BASE, FONT = 8, 17, 13, 13.33
"""Of a picture: the size of a cell, where letters stand in it, and their size, of which 0.6 is a cell."""
Cell = tuple[Style, ...]
"""How one character is drawn, theme by theme."""


async def opened(seen: Console, name: str) -> None:
    """This screen, from wherever the console is."""
    for bar in seen.app.screen.query(CommandBar):
        await bar.remove()
    seen.backend.at = now()
    seen.backend.view = fleet(seen.backend.at)  # as old as it was when the first one was opened
    seen.app.mirror.touch()
    at = seen.backend.at
    await seen.until(lambda: seen.app.mirror.fleet.at == at, "the fleet, read anew")
    seen.app.show_fleet()
    await seen.pilot.pause()
    needs = seen.app.screen.query_one("#needs", LiveList)
    seen.app.screen.set_focus(needs)
    needs.action_top()
    if seen.app.size.width >= NARROW_BELOW:
        await seen.sees("systemctl reload nginx")  # in the pane beside the list
    keys, words = SCREENS[name]
    for key in keys:
        if (name, key) in BEFORE:
            await seen.sees(BEFORE[name, key])
        await seen.press(key)
    await seen.sees(words)
    if name == "panic":
        await seen.sees("panic ON")  # in the headline, too
    if seen.app.screen.query("#dialog"):
        await seen.until(lambda: bool(seen.app.screen.query("#dialog.-armed")), "the dialog is armed")
    before = ""
    while (after := text_of(seen)) != before:  # whatever else was on its way
        before = after
        await seen.pilot.pause(SETTLED_S)


def text_of(seen: Console) -> str:
    """The lines of the screen, without the day, the hour and ages."""
    return "\n".join(_timeless(line).rstrip() for line in seen.lines())


def _timeless(line: str) -> str:
    """As wide as it was."""
    return AGO.sub(_aged, CLOCK.sub(_same_width, DAY.sub("2026-11-29", line)))


def _same_width(found: re.Match[str]) -> str:
    return "14:02:00"[: len(found[0])]


def _aged(found: re.Match[str]) -> str:
    return f"{'…':<{len(found[0]) - 4}} ago"


def runs_of(seen: Console) -> Iterator[tuple[str, Style]]:
    """The words of the screen with their styles; frames and blanks left out."""
    for strip in seen.app.screen._compositor.render_strips():
        for segment in strip:
            if segment.style is not None and not FRAME.fullmatch(segment.text):
                yield segment.text.strip(), segment.style


# --- pictures --------------------------------------------------------------------------------------------


async def picture_of(seen: Console) -> str:
    """The screen as an SVG that holds each cell in every theme; the class of its root chooses one. Textual's
    own picture is made of the same cells, but is four times as large and holds one theme. Empty if the words
    changed meanwhile."""
    texts: list[list[str]] = []
    styles: list[list[list[Style]]] = []  # by theme, line and character
    kept = seen.app.theme
    for theme in THEMES:
        seen.app.theme = theme.name
        await seen.pilot.pause()
        strips = seen.app.screen._compositor.render_strips()
        texts.append([_timeless(strip.text) for strip in strips])
        styles.append([[part.style or Style() for part in strip for _ in part.text] for strip in strips])
    seen.app.theme = kept
    if any(text != texts[0] for text in texts):
        return ""
    return _svg(texts[0], [list(zip(*line, strict=True)) for line in zip(*styles, strict=True)])


def _svg(lines: Sequence[str], cells: Sequence[Sequence[Cell]]) -> str:
    inks, grounds = _Classes("i", _ink), _Classes("g", _ground)
    below = Counter(grounds.of(cell) for row in cells for cell in row).most_common(1)[0][0]
    width, height = len(lines[0]) * CELL, len(lines) * LINE
    drawn = [f'<rect class="{below}" width="{width}" height="{height}"/>']
    for at, (line, row) in enumerate(zip(lines, cells, strict=True)):
        for name, start, end in _runs(row, grounds):
            if name != below:
                place = f'x="{start * CELL}" y="{at * LINE}" width="{(end - start) * CELL}" height="{LINE}"'
                drawn.append(f'<rect class="{name}" {place}/>')
        spans = [
            f'<tspan class="{name}">{escape(line[start:end])}</tspan>'
            for name, start, end in _runs(row, inks)
        ]
        drawn.append(f'<text y="{at * LINE + BASE}" textLength="{width}">{"".join(spans)}</text>')
    space = f'xml:space="preserve" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="{THEMES[0].name}" {space}>'
    font = f"text{{font:{FONT}px monospace;white-space:pre}}"
    return "\n".join([head, "<style>", font, *inks.rules(), *grounds.rules(), "</style>", *drawn, "</svg>\n"])


class _Classes:
    """A class for each look that differs from the others in any theme, in the order in which they are met."""

    def __init__(self, letter: str, rule: Callable[[Style], str]) -> None:
        self._letter, self._rule = letter, rule
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, cell: Cell) -> str:
        look = tuple(self._rule(style) for style in cell)
        return self._known.setdefault(look, f"{self._letter}{len(self._known)}")

    def rules(self) -> list[str]:
        """A line a theme."""
        named = list(self._known.items())
        return [
            " ".join(f".{theme.name} .{name}{{{look[at]}}}" for look, name in named)
            for at, theme in enumerate(THEMES)
        ]


def _runs(row: Sequence[Cell], classes: _Classes) -> Iterator[tuple[str, int, int]]:
    """Class, start and end of what looks the same."""
    start = 0
    for name, run in groupby(row, classes.of):
        end = start + len(list(run))
        yield name, start, end
        start = end


def _ink(style: Style) -> str:
    words = [_fill(style.bgcolor if style.reverse else style.color)]
    words += ["font-weight:bold"] if style.bold else []
    words += ["font-style:italic"] if style.italic else []
    words += ["text-decoration:underline"] if style.underline else []
    words += ["opacity:.6"] if style.dim else []
    return ";".join(words)


def _ground(style: Style) -> str:
    return _fill(style.color if style.reverse else style.bgcolor)


def _fill(colour: RichColor | None) -> str:
    return f"fill:{colour.get_truecolor().hex if colour else 'none'}"


# --- contrast --------------------------------------------------------------------------------------------


def contrast(style: Style) -> float:
    """WCAG 2 contrast ratio of ink and ground, 1 to 21; 21 where one is left to the terminal."""
    if style.color is None or style.bgcolor is None or style.color.is_default or style.bgcolor.is_default:
        return 21.0
    light, dark = sorted(
        (_luminance(Color.from_rich_color(each)) for each in (style.color, style.bgcolor)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: Color) -> float:
    parts = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
