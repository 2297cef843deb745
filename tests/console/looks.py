"""What a console looks like, to be read: its text, and the colours in which it is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.style import Style
from textual.color import Color

from tests.console.conftest import Console

DAY = re.compile(r"\b20\d\d-\d\d-\d\d\b")
CLOCK = re.compile(r"\b\d\d:\d\d\b(:\d\d)?")
AGO = re.compile(r"\b\d+ [sm] ago|just now")
FRAME = re.compile(r"[─│╭╮╰╯┬┴├┤┼━┃▌▁▂▃▄▅▆▇█▎▊\s]*")


def text_of(seen: Console) -> str:
    """The lines of the screen, without the day, the hour and ages."""
    text = "\n".join(line.rstrip() for line in seen.lines())
    return AGO.sub(_aged, CLOCK.sub(_same_width, DAY.sub("2026-11-29", text)))


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


def colours_of(seen: Console) -> str:
    """A line for each look that is there, with the first words that have it."""
    known: dict[str, str] = {}
    for words, style in runs_of(seen):
        known.setdefault(_look(style), CLOCK.sub(_same_width, words)[:30])
    return "\n".join(f"{look:<32} {words}" for look, words in sorted(known.items()))


def _look(style: Style) -> str:
    ground = style.bgcolor.get_truecolor() if style.bgcolor else None
    ink = style.color.get_truecolor() if style.color else None
    words = [f"{ink.hex if ink else 'default'} on {ground.hex if ground else 'default'}"]
    words += [name for name in ("bold", "dim", "italic", "underline", "reverse") if getattr(style, name)]
    return " ".join(words)


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
