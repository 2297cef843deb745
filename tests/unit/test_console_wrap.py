"""Wrapping: every cell is shown, no line is too wide, and no width makes it fail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fluid_tui.paint import Role, width_of, wrap

texts = st.text(alphabet="ab  \u00e9\u6f22-", max_size=40)


@given(st.lists(texts, max_size=4), st.integers(0, 30), st.integers(0, 4))
def test_nothing_is_lost_and_nothing_is_too_wide(parts: list[str], width: int, indent: int) -> None:
    runs = tuple((part, Role.TEXT) for part in parts)
    lines = wrap(runs, width, indent)
    widest = max(width, indent + 8)
    shown = "".join(text for line in lines for text, _ in line).replace(" ", "")
    assert shown == "".join(parts).replace(" ", "")
    assert all(width_of(line) <= widest or "".join(text for text, _ in line).isspace() for line in lines)


def test_a_word_that_just_fits_may_be_followed_by_a_space() -> None:
    runs = (("✓ ", Role.GOOD), ("residual  ", Role.TITLE), ("0 missing", Role.TEXT))
    assert wrap(runs, 11, 2)
