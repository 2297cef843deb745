"""What hostile programs write at terminals, and a reader of what the console writes instead."""

from __future__ import annotations

import re

LONG_LINE = "A" * 1_000_000
CORPUS = (
    "\x1b]52;c;cm0gLXJmIC8=\x07",  # into the clipboard
    "\x1b]52;c;?\x1b\\",  # out of the clipboard, typed back
    "\x1b]8;;http://evil.example/\x1b\\approve\x1b]8;;\x1b\\",
    "\x1b]0;owned\x07\x1b]2;owned\x1b\\\x1b]1;owned\x07",
    "\x1b[21t\x1b[22;0t\x1b[23;0t\x1b[8;1;1t",  # title reported, stacked; window resized
    "\x1b]4;1;#000000\x07\x1b]10;#000000\x07\x1b]11;?\x07\x1b]104\x07",  # colours
    "\x1b]9;you won\x07\x1b]777;notify;a;b\x07\x1b]1337;File=name=YQ==;inline=1:AAAA\x07",
    '\x1bP$q"p\x1b\\\x1bP+q544e\x1b\\',  # DECRQSS, XTGETTCAP: answers are typed
    "\x1bPp\x1b\\S(I)\x1b\\",  # ReGIS
    "\x1bPq#0;2;0;0;0#0~~@@vv\x1b\\",  # sixel
    "\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\\x1bPtmux;\x1b\x1b[2J\x1b\\",
    "\x1b[201~\rrm -rf /\r\x1b[200~\x1b[?2004l",  # the end of a paste that is none
    "\x9b2J\x9d0;owned\x9c\x90q\x9c\x9b31m\x85\x84",  # C1
    "\u202egpj.exe\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c",  # bidi
    "ad\u200bmin\u200c\u200d\u2060\ufeff\u00ad\u180e\u3164\U000e0041\ufe0f",  # not to be seen
    "e" + "\u0301" * 200,
    "\x1b[1;1H\x1b[2J\x1b[3Jfluid · approved ✓\x1b[K\x1b[10A\x1b[5D\x1b[s\x1b[u\x1b7\x1b8",
    "\x1b[?1049h\x1b[?47l\x1b[?1049l\x1bc\x1b[!p\x1b[?3h\x1b#8\x1b(0",
    "\x1b[?1000l\x1b[?1003h\x1b[?25h\x1b[?7h\x1b[20h\x1b[4h\x1b[12l\x1b[?2026h",
    "\x1b[5n\x1b[6n\x1b[c\x1b[>c\x1b[=c\x1b[x\x05\x1bZ",  # questions
    "\x1b[5i\x1b[4i\x1b[8mhidden\x1b[5;6mblink\x1b[38;5;0;48;5;0mblack on black",
    "\x1b[>4;2m\x1b[>1u\x1b[=5u\x1b[1;1r\x1b[?69h\x1b[5;5s\x1b[2 q\x1b[3g",
    "\x1b_Ga=T,f=100;AAAA\x1b\\\x1b^secret\x1b\\\x1bXsos\x1b\\",  # kitty graphics, PM, SOS
    "a\x08\x08\x08b\rc\x0b\x0c\x0e\x0f\x00\x07\x7f\x1a\x18\x1b",
    "one\ntwo\r\nthree\u2028four\u2029five\x1dsix\x1eseven",
    "[red]markup[/] [@click=app.quit]here[/] {digest} %(name)s $(id) `id`",
    "日本語 ｶﾞ 👩‍👩‍👧 🇩🇪 ❤️ \U0001f3fb",
    "\udc9b2J\ud800",
    "\x1b" * 50 + "[31m" * 50 + "\x1b[" + "1;" * 500 + "m",
)

_OURS = re.compile(
    r"\x1b\[(?P<colours>[0-9;]*)m"
    r"|\x1b\[\d+;\d+H"
    r"|\x1b\[\?(?:7|25|1000|1003|1004|1006|1015|1016|1049|2004|2026|2048)[hl]"
    r"|\x1b\[\?(?:2026|2048)\$p"
    r"|\x1b\[>\d+u|\x1b\[<u"
    r"|(?P<question>\x1b\[6n)(?=\Z|[\x1b\x07])"  # is it drawn? No text is written with it
    r"|\x1b\[2[23];2t|\x1b\]2;fluid(?:: \d+ needs? you)?\x07"
    r"|\x1b\]52;c;(?P<clipboard>[A-Za-z0-9+/]*=*)\x07"
    r"|\x07|\r?\n"
)
_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\ufff0-\ufffb\U000e0000-\U000e0fff]|[\u0300-\u036f]{4}"
)
_SGR = {*range(5), 7, 9, 21, 22, 23, 24, 27, 29, *range(30, 50), *range(90, 108)}


def foreign(output: bytes) -> list[str]:
    """What of these bytes is neither text nor a sequence of the console's own; with what follows.

    The console's own question stands alone, directly behind what it asks about: a move, a mode, a title.
    """
    text = output.decode()  # strictly: no byte that is not UTF-8 is ours
    found: list[str] = []
    at, may_ask = 0, True  # what came before may have been looked at already
    while hit := _ACTS.search(text, at):
        ours = _OURS.match(text, hit.start())
        if ours is None or (ours["question"] and not (may_ask and hit.start() == at)):
            found.append(repr(text[hit.start() : hit.start() + 40]))
        elif unknown := _codes(ours["colours"] or "") - _SGR:
            found.append(f"colours {unknown}")
        at = ours.end() if ours else hit.end()
        may_ask = ours is not None and not (ours["question"] or ours[0].endswith(("m", "\n")))
    return found


def copied(output: bytes) -> int:
    """How often something was sent to the clipboard."""
    return sum(found["clipboard"] is not None for found in _OURS.finditer(output.decode()))


def _codes(parameters: str) -> set[int]:
    """The switches of one SGR sequence, without the numbers of its colours."""
    numbers = [int(part or 0) for part in parameters.split(";")]
    codes = set()
    while numbers:
        code = numbers.pop(0)
        codes.add(code)
        if code in (38, 48) and numbers:
            del numbers[: {5: 2, 2: 4}[numbers[0]]]
    return codes
