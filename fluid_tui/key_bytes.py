"""The keys of this terminal as the bytes that a terminal sends for them (xterm's ctlseqs). Pure."""

from __future__ import annotations

import unicodedata

CSI = b"\x1b["
_PLAIN = {
    "enter": b"\r",
    "tab": b"\t",
    "shift+tab": b"\x1b[Z",
    "backspace": b"\x7f",
    "escape": b"\x1b",
    "shift+escape": b"\x1b",
    "space": b" ",
    "ctrl+@": b"\0",
    "ctrl+space": b"\0",
    "ctrl+backslash": b"\x1c",
    "ctrl+right_square_bracket": b"\x1d",
    "ctrl+circumflex_accent": b"\x1e",
    "ctrl+underscore": b"\x1f",
}
_LETTERS = {"up": "A", "down": "B", "right": "C", "left": "D", "end": "F", "home": "H"}
_FUNCTIONS = {"f1": "P", "f2": "Q", "f3": "R", "f4": "S"}
_NUMBERS = {
    "insert": 2,
    "delete": 3,
    "pageup": 5,
    "pagedown": 6,
    **{
        f"f{number}": code
        for number, code in zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True)
    },
}
_MODIFIERS = {"shift": 1, "alt": 2, "ctrl": 4}
PASTE_BEGINS, PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"


def key_bytes(key: str, character: str | None) -> bytes:
    """A key by Textual's name, with the character that it stands for; empty for what no terminal sends."""
    if plain := _PLAIN.get(key):
        return plain
    *modifiers, name = key.split("+") if len(key) > 1 else [key]
    if not set(modifiers) <= set(_MODIFIERS):
        return b""
    if found := _special(name, 1 + sum(_MODIFIERS[each] for each in set(modifiers))):
        return found
    escape = b"\x1b" if "alt" in modifiers else b""
    if plain := _PLAIN.get(name):
        return escape + plain
    if "ctrl" in modifiers:
        is_letter = len(name) == 1 and name.isascii() and name.isalpha()
        return escape + bytes([ord(name.lower()) & 0x1F]) if is_letter else b""
    text = character if character and character.isprintable() else name if len(name) == 1 else ""
    if "shift" in modifiers:
        text = text.upper()
    return escape + text.encode("utf-8", "replace") if text else b""


def paste_bytes(text: str) -> bytes:
    """Pasted text as one paste: it ends where we say, whatever stands in it."""
    lines = text.replace("\r\n", "\r").replace("\n", "\r")
    clean = "".join(each for each in lines if each in "\t\r" or unicodedata.category(each) != "Cc")
    return PASTE_BEGINS + clean.encode("utf-8", "replace") + PASTE_ENDS


def _special(name: str, modifier: int) -> bytes:
    if letter := _LETTERS.get(name):
        return CSI + (f"1;{modifier}{letter}" if modifier > 1 else letter).encode()
    if letter := _FUNCTIONS.get(name):
        return CSI + f"1;{modifier}{letter}".encode() if modifier > 1 else b"\x1bO" + letter.encode()
    if number := _NUMBERS.get(name):
        return CSI + (f"{number};{modifier}~" if modifier > 1 else f"{number}~").encode()
    return b""
