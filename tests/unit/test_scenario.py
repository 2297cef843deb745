"""The demo's work, drawn from a seed."""

from __future__ import annotations

from backend.demo.production import drift
from backend.demo.scenario import SERVERS, draw


def test_a_seed_always_draws_the_same_work() -> None:
    assert draw(7) == draw(7)


def test_seeds_differ_and_reach_every_server() -> None:
    drawn = [draw(seed) for seed in range(40)]
    assert {scenario.server for scenario in drawn} == set(SERVERS)
    assert len({scenario.files for scenario in drawn}) > 30


def test_names_with_a_space_utf8_and_braces_are_always_there() -> None:
    for seed in range(10):
        names = " ".join(file.path for file in draw(seed).files)
        assert "release notes" in names and "prüfung-✓" in names and "{{ price }}" in names


def test_production_drifts_in_two_files_that_the_agent_writes_otherwise() -> None:
    scenario = draw(3)
    written = {file.path: file.content for file in scenario.files}
    for path, (content, _) in drift(scenario).items():
        assert written[path].encode() != content
    assert len(drift(scenario)) == 2
