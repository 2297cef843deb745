"""Which commands ran when something changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backend.changes.attribution import COMMAND_SLACK_S, MAX_COMMANDS, Timeline
from backend.models import Command

START = datetime(2026, 1, 1, tzinfo=UTC)
ENOUGH = 100_000


def command(number: int, start: float, length: float | None) -> Command:
    began = START + timedelta(seconds=start)
    ended = None if length is None else began + timedelta(seconds=length)
    return Command(id=f"CMD-{number}", sandbox_id="SBX-1", command="x", started_at=began, ended_at=ended)


HALVES = st.integers(0, 40).map(lambda number: number / 2)


@given(st.lists(st.tuples(HALVES, st.none() | HALVES), max_size=60), HALVES)
def test_all_that_ran_at_a_moment_are_named_in_their_order_up_to_a_limit(spans, moment: float):
    commands = [command(number, *span) for number, span in enumerate(spans)]
    at = (START + timedelta(seconds=moment)).timestamp()
    expected = [
        one.id
        for one in commands
        if one.started_at.timestamp() - COMMAND_SLACK_S <= at
        and (one.ended_at is None or at <= one.ended_at.timestamp() + COMMAND_SLACK_S)
    ]
    assert Timeline(commands).at(int(at * 1e9)) == expected[:MAX_COMMANDS]


class Counted:
    """A command that counts how often anybody looks when it ran."""

    looked = 0

    def __init__(self, number: int) -> None:
        self.id, self._start = f"CMD-{number}", START + timedelta(seconds=2 * number)

    @property
    def started_at(self) -> datetime:
        Counted.looked += 1
        assert Counted.looked < ENOUGH, "all commands are walked for each change"
        return self._start

    @property
    def ended_at(self) -> datetime:
        return self._start + timedelta(seconds=20_000)


def test_the_commands_of_5_000_changes_are_found_without_walking_10_000_for_each():
    commands = Timeline([Counted(number) for number in range(10_000)])
    moments = [(START + timedelta(seconds=4 * number)).timestamp() for number in range(5_000)]
    named = [commands.at(int(at * 1e9)) for at in moments]
    assert [len(ids) for ids in named[:12]] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 20]
