"""What a hostile guest prints survives the way into jsonb and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from backend.models import Event
from backend.store.encoding import dump, escape, load, unescape

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]))


@given(ANY_TEXT)
def test_any_text_comes_back_and_holds_nothing_that_jsonb_refuses(text: str) -> None:
    safe = escape(text)
    assert unescape(safe) == text
    assert "\x00" not in safe
    safe.encode("utf-8")


@given(st.dictionaries(ANY_TEXT, st.one_of(ANY_TEXT, st.integers(), st.lists(ANY_TEXT)), max_size=4))
def test_a_noun_comes_back_as_it_was(data: dict[str, object]) -> None:
    event = Event(seq=1, at=datetime(2026, 1, 2, tzinfo=UTC), kind="k", noun="n", id="i", data=data)
    text = dump(event)
    json.loads(text.encode("utf-8"))
    assert "\\u0000" not in json.dumps(json.loads(text))
    assert load(Event, text) == event


def test_a_literal_backslash_u0000_is_not_taken_for_nul() -> None:
    event = Event(seq=1, at=datetime(2026, 1, 2, tzinfo=UTC), kind="k", noun="n", id="\\u0000")
    assert load(Event, dump(event)).id == "\\u0000"
