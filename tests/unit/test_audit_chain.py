"""Whatever is done to a chain afterwards is found."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.audit.chain import EMPTY, ChainCheck, Link, canonical, digest, link, plain, timestamp
from backend.models import AuditRow

Row = tuple[str, str]


def chain(length: int) -> list[Row]:
    drafts = [
        {
            "at": timestamp(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)),
            "actor_uid": 1000,
            "actor_name": "ann",
            "role": "agent",
            "action": "command.run",
            "step": "intent",
            "noun": "command",
            "id": f"CMD-{number}",
            "sandbox_id": "SBX-1",
            "data": {"command": f"echo {number}"},
        }
        for number in range(length)
    ]
    links, _ = link(drafts, EMPTY)
    return [(one.line, one.hash) for one in links]


def check(rows: list[Row], anchors: dict[int, str] | None = None) -> ChainCheck:
    checked = ChainCheck(anchors)
    checked.feed(rows)
    checked.finish()
    return checked


def test_a_chain_as_it_was_made_holds() -> None:
    rows = chain(20)
    checked = check(rows, {20: rows[-1][1], 7: rows[6][1]})
    assert (checked.ok, checked.rows, checked.reason) == (True, 20, "")


@given(st.integers(1, 12), st.data())
def test_any_edit_of_a_line_is_found_at_its_row(length: int, data: st.DataObject) -> None:
    rows = chain(length)
    at = data.draw(st.integers(0, length - 1))
    line, stored = rows[at]
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != line[place]))
    rows[at] = (line[:place] + other + line[place + 1 :], stored)
    assert check(rows).first_bad == at + 1


@given(st.integers(1, 12), st.data())
def test_any_deleted_row_is_found(length: int, data: st.DataObject) -> None:
    rows = chain(length)
    head = {length: rows[-1][1]}
    del rows[data.draw(st.integers(0, length - 1))]
    checked = check(rows, head)
    assert not checked.ok


@given(st.permutations(range(8)))
def test_any_other_order_is_found(order: list[int]) -> None:
    rows = chain(8)
    assert check([rows[index] for index in order]).ok == (order == sorted(order))


@given(st.integers(0, 9))
def test_a_cut_tail_is_found_by_the_signed_head(kept: int) -> None:
    rows = chain(10)
    checked = check(rows[:kept], {10: rows[-1][1]})
    assert checked.first_bad == kept + 1
    assert "cut" in checked.reason


@given(st.integers(0, 9))
def test_a_chain_rewritten_with_right_hashes_is_found_by_the_signed_head(at: int) -> None:
    rows = chain(10)
    head = {10: rows[-1][1]}
    drafts = []
    for line, _ in rows:
        fields = json.loads(line)
        drafts.append({key: value for key, value in fields.items() if key not in ("seq", "prev")})
    drafts[at]["actor_uid"] = 0
    forged = [(one.line, one.hash) for one in link(drafts, EMPTY)[0]]
    assert check(forged).ok
    checked = check(forged, head)
    assert checked.first_bad == 10
    assert "rewritten" in checked.reason


def test_a_row_put_in_between_is_found() -> None:
    rows = chain(5)
    assert check([*rows[:2], rows[2], rows[2], *rows[3:]]).first_bad == 4


ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]))
JSONISH = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(ANY_TEXT, JSONISH, max_size=4))
def test_a_line_reads_back_to_the_same_line_and_a_reader_sees_what_was_hashed(
    data: dict[str, object],
) -> None:
    draft = plain(
        {
            "at": "2026-01-01T00:00:00.000000Z",
            "actor_uid": 1,
            "action": "a",
            "noun": "",
            "id": "",
            "data": data,
        }
    )
    (made,), _ = link([draft], EMPTY)
    assert made.line.isascii()
    assert canonical(json.loads(made.line)) == made.line
    row = Link(1, made.line, made.hash).row()
    assert canonical(row.data) == canonical(json.loads(made.line)["data"])


def test_the_hash_of_a_row_is_over_the_canonical_json_of_its_other_fields() -> None:
    line, stored = chain(1)[0]
    row = Link(1, line, stored).row()
    fields = {**row.model_dump(exclude={"hash"}), "at": timestamp(row.at)}
    assert digest(canonical(fields)) == row.hash
    assert set(fields) | {"hash"} == set(AuditRow.model_fields)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\x00b", "a␀b"),
        ("\udc80", "\\udc80"),
        (float("inf"), "inf"),
        ((1, 2.5), [1, 2.5]),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-01T00:00:00.000000Z"),
        ({1: b"x"}, {"1": "eA=="}),
    ],
)
def test_values_become_plain_and_visible(value: object, expected: object) -> None:
    assert plain(value) == expected
