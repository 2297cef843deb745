"""The language of ``/``. Pure.

Words are separated by spaces and all must hold; ``"…"`` keeps spaces together.

- ``nginx``          stands in any field
- ``host:kvm-02``    stands in that field; ``host=kvm-02`` is all of it
- ``-nginx``         does not hold (also ``!nginx``)
- ``error|lost``     one of these, also after ``field:``
- ``ttl<30m``        a measure below or above: a number, or a time in s, m, h, d
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_WORD = re.compile(r'[^\s"]*"[^"]*"?|\S+')
_NAME = re.compile(r"([a-z]+)([:=<>])(.*)", re.DOTALL)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


@dataclass(frozen=True, slots=True)
class Term:
    """One word. ``by``: empty (any field), ``:``, ``=``, ``<`` or ``>``."""

    field: str
    by: str
    values: tuple[str, ...]
    amount: float = 0.0
    negated: bool = False

    def holds(self, texts: Mapping[str, str], measures: Mapping[str, float]) -> bool:
        return self._holds(texts, measures) is not self.negated

    def _holds(self, texts: Mapping[str, str], measures: Mapping[str, float]) -> bool:
        if self.by in ("<", ">"):
            found = measures.get(self.field)
            return found is not None and (found < self.amount if self.by == "<" else found > self.amount)
        if self.by == "=":
            return any(value in texts[self.field].lower().split() for value in self.values)
        fields = [texts[self.field]] if self.field else list(texts.values())
        return any(value in field.lower() for value in self.values for field in fields)


@dataclass(frozen=True, slots=True)
class Filter:
    """What was understood; ``problem`` says what was not, and that part is then looked for as plain words."""

    terms: tuple[Term, ...] = ()
    problem: str = ""

    def matches(self, texts: Mapping[str, str], measures: Mapping[str, float]) -> bool:
        """Whether a row with these fields is shown."""
        return all(term.holds(texts, measures) for term in self.terms)


def parse(words: str, fields: Collection[str], measures: Collection[str] = ()) -> Filter:
    """A filter over rows that have these fields and measures. Whatever is typed is a filter: it is read at
    every key."""
    terms: list[Term] = []
    problem = ""
    for word in _WORD.findall(words.lower()):
        negated = len(word) > 1 and word[0] in "-!"
        bare = word[1:] if negated else word
        if bare in ("-", "!"):
            continue
        term, wrong = _term(bare, negated, fields, measures)
        problem = problem or wrong
        if term is not None:
            terms.append(term)
    return Filter(tuple(terms), problem)


def _term(
    word: str, negated: bool, fields: Collection[str], measures: Collection[str]
) -> tuple[Term | None, str]:
    plain = Term("", "", _values(word), negated=negated)
    found = _NAME.fullmatch(word)
    if found is None:
        return (plain if plain.values else None), ""
    name, by, value = found.groups()
    if by in ("<", ">") and name in measures:
        amount = _AMOUNT.fullmatch(value)
        if amount is None:
            return None, f"{name}{by} wants a number or a time, such as 30m" if value else ""
        return Term(name, by, (), float(amount[1]) * UNITS_S[amount[2]], negated), ""
    if by in (":", "=") and name in fields:
        values = _values(value)
        return (Term(name, by, values, negated=negated) if values else None), ""
    known = ", ".join([*fields, *measures])
    return plain, f"no field {name!r}; there are {known}"


def _values(word: str) -> tuple[str, ...]:
    return tuple(part for part in word.replace('"', "").split("|") if part)
