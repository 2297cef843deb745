"""Command lines of an agent, split into simple commands: only what needs no shell to be understood.

A command that uses expansion, a pipe, a background job or a redirection (other than to /dev/null) is told as
not simple, and nobody replays it. The grammar is the quoting of POSIX sh, section 2.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_EXPANDS = frozenset("$`*?[]{}()<>|&~!#")
_QUOTED_EXPANDS = frozenset("$`")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")  # runs that mean themselves: a word may be very long
_QUOTED_PLAIN = re.compile(r'[^"\\$`]+')
_SILENCE = re.compile(r"\s*(?:[12]?>{1,2}\s*/dev/null|2>&1|&>\s*/dev/null|<\s*/dev/null)(?=\s|;|&&|$)")
_HEREDOC = re.compile(r"(?<!<)<<(?P<strip>-?)\s*(?P<quote>['\"]?)(?P<word>[A-Za-z0-9_]+)(?P=quote)")
_ANY_HEREDOC = re.compile(r"(?<!<)<<(?!<)")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass
class SimpleCommand:
    """The words of one command; ``simple`` is false where a shell would have changed them."""

    argv: list[str] = field(default_factory=list)
    simple: bool = True
    folder: str = ""  # of a `cd /folder &&` before it on the same line


class _Splitter:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: list[SimpleCommand] = []
        self.current = SimpleCommand()
        self.word: str | None = None
        self.heredocs: list[tuple[str, bool]] = []

    def run(self) -> list[SimpleCommand]:
        while self.at < len(self.text):
            self._step()
        self._end_command()
        return self.found

    def _step(self) -> None:
        char = self.text[self.at]
        if self.word is None and self._skip_redirection():
            return
        if char in " \t":
            self._end_word()
        elif char in ";\n":
            self._end_command()
            if char == "\n":
                self.at += 1
                self._skip_heredocs()
                return
        elif self.text.startswith("&&", self.at):
            self._end_command()
            self.at += 1
        elif self.text.startswith("||", self.at):
            self.current.simple = False
            self._end_command()
            self.at += 1
        elif char == "#" and self.word is None:
            self.at = (self.text + "\n").index("\n", self.at)
            return
        else:
            self._letter(char)
        self.at += 1

    def _letter(self, char: str) -> None:
        """One character of a word, with its quoting, or a run of plain ones."""
        self.word = self.word or ""
        if run := _PLAIN.match(self.text, self.at):
            self.word += run[0]
            self.at = run.end() - 1
        elif char == "'":
            end = self.text.find("'", self.at + 1)
            end = len(self.text) if end < 0 else end
            self.word += self.text[self.at + 1 : end]
            self.at = end
        elif char == '"':
            self._double_quoted()
        elif char == "\\":
            self.at += 1
            following = self.text[self.at : self.at + 1]
            self.word = (self.word or None) if following == "\n" else self.word + following
        else:
            if char in _EXPANDS:
                self.current.simple = False
            self.word += char
            if char == "|":
                self._end_command()

    def _double_quoted(self) -> None:
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != '"':
            char = self.text[self.at]
            if run := _QUOTED_PLAIN.match(self.text, self.at):
                char = run[0]
                self.at = run.end() - 1
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] in ("$", "`", '"', "\\", "\n"):
                self.at += 1
                char = "" if self.text[self.at] == "\n" else self.text[self.at]
            elif char in _QUOTED_EXPANDS:
                self.current.simple = False
            self.word = (self.word or "") + char
            self.at += 1

    def _skip_redirection(self) -> bool:
        if found := _HEREDOC.match(self.text, self.at):
            self.heredocs.append((found["word"], bool(found["strip"])))
            self.current.simple = False
            self.at = found.end()
            return True
        if found := _SILENCE.match(self.text, self.at):
            self.at = found.end()
            return True
        return False

    def _skip_heredocs(self) -> None:
        for word, strip in self.heredocs:
            while self.at < len(self.text):
                line, _, _ = self.text[self.at :].partition("\n")
                self.at += len(line) + 1
                if (line.lstrip("\t") if strip else line) == word:
                    break
        self.heredocs = []

    def _end_word(self) -> None:
        if self.word is not None:
            self.current.argv.append(self.word)
            self.word = None

    def _end_command(self) -> None:
        self._end_word()
        if self.current.argv:
            if _ASSIGNMENT.match(self.current.argv[0]):
                self.current.simple = False
            self.found.append(self.current)
        self.current = SimpleCommand()


def command_lines(text: str) -> list[str]:
    """The lines of a command, at least one, each whole, without the bodies of its here documents and what a
    quote carries on to the next line."""
    found, ends, quote = [], list[tuple[str, bool]](), ""
    for line in text.strip().replace("\\\n", "").split("\n"):
        if ends:
            if (line.lstrip("\t") if ends[0][1] else line) == ends[0][0]:
                ends.pop(0)
            continue
        before, (quote, at) = quote, _open_quote(line, quote)
        if before:
            continue
        found.append(f"{line[:at]}…" if quote else line)
        ends = [(one["word"], bool(one["strip"])) for one in _HEREDOC.finditer(line)]
        if len(ends) < len(_ANY_HEREDOC.findall(line)):
            break  # ends with a word that is not known: all that follows may be its body
    return found


def _open_quote(line: str, quote: str) -> tuple[str, int]:
    """The quote that is open at the end of a line which begins inside ``quote``, and where it was opened."""
    at, opened = 0, 0
    while at < len(line):
        char = line[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char == "#" and (at == 0 or line[at - 1] in " \t;"):
            break
        elif char in ("'", '"'):
            quote, opened = char, at
        at += 1
    return quote, opened


def simple_commands(line: str) -> list[SimpleCommand]:
    """The commands of a line, in order, without ``sudo`` in front; each knows where a ``cd`` led."""
    folder = ""
    commands = _Splitter(line).run()
    for command in commands:
        while command.argv[:1] == ["sudo"] and len(command.argv) > 1 and not command.argv[1].startswith("-"):
            command.argv.pop(0)
        command.folder = folder
        if command.argv[0] == "cd":
            target = command.argv[1] if len(command.argv) == 2 and command.simple else ""
            folder = target if target.startswith("/") else ""
    return commands
