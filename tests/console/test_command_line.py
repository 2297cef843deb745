"""The command line: what it completes, where it leads, and what it says when it does not understand."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from backend.models import ApprovalState, now
from fluid_tui import memory
from fluid_tui.commands import VERBS, complete, completed, parse
from tests.console.fake_backend import FakeBackend
from tests.console.sample import APPROVAL_ID, fleet

SIZES = [(80, 24), (120, 36)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["approve", "reject", "review", "answer", "sandbox", "compare", "host"]),
        ("ho", ["host", "hosts"]),
        ("approve ", ["4f2a"]),
        ("sandbox ng", ["nginx-tls"]),
        ("sandbox tls", ["tls-renew", "nginx-tls"]),
        ("sandbox nginx-tls de", ["destroy"]),
        ("host kvm-02 ", ["drain", "resume"]),
        ("theme co", ["contrast", "colour-blind"]),
        ("answer ", ["5b11"]),
        ("hosts kvm", []),
        ("nonsense ", []),
    ],
)
def test_completion_offers_what_may_stand_there(text: str, words: list[str]) -> None:
    found = [choice.word for choice in complete(text, fleet())]
    assert found[: len(words)] == words
    assert len(found) == len(words) or not text


def test_no_commands_words_are_cut_off_in_80_columns() -> None:
    assert [verb.name for verb in VERBS if 24 + 20 + len(verb.words) > 80 or len(verb.usage) > 20] == []


async def test_a_high_screen_offers_all_commands_at_once(console) -> None:
    async with console(160, 48) as seen:
        await seen.press("colon")
        await seen.sees(*(f"   {verb.name} " for verb in VERBS))


def test_completion_replaces_the_last_word() -> None:
    assert completed("sandbox ng", complete("sandbox ng", fleet())[0]) == "sandbox nginx-tls "
    assert completed("", complete("hosts", fleet())[0]) == "hosts "


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hos", "'hos' may be host, hosts"),
        ("fly", "no command 'fly'"),
        ("", "nothing typed"),
        ("approve", "approve wants REQUEST"),
        ("approve 9999", "no request '9999'"),
        ("host kvm-09 drain", "no host 'kvm-09'"),
        ("host kvm-02 fly", "no drain|resume 'fly'"),
        ("theme dark now", "too many words"),
    ],
)
def test_what_is_not_understood_is_said(text: str, problem: str) -> None:
    parsed = parse(text, fleet())
    assert parsed.verb is None
    assert problem in parsed.problem


@pytest.mark.parametrize(("text", "verb"), [("q", "quit"), ("san", "sandbox"), ("host", "host")])
def test_a_beginning_is_enough_when_no_other_verb_has_it(text: str, verb: str) -> None:
    found = parse(text, fleet()).verb
    assert found is not None
    assert found.name == verb


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_it_opens_at_the_foot_and_moves_nothing(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("colon")
        await seen.sees("approve", "REQUEST", "Open the review and approve it there", "more")
        assert "Needs you" in seen.lines()[1], "nothing has moved"
        await seen.press(*"ho")
        await seen.until(lambda: "REQUEST" not in seen.text(), "narrowed")
        assert seen.lines()[-1].startswith(" :ho")
        await seen.press("escape")
        await seen.until(lambda: "? help" in seen.lines()[-1], "the keys are back")
        assert seen.app.screen.focused.id == "needs", "the cursor is where it was"


async def test_a_host_is_drained(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("colon", *"host", "space", *"kvm-02", "space", *"dr", "tab", "enter")
        await seen.sees("kvm-02 takes no new sandboxes.")
        assert ("drain_host", "kvm-02") in seen.backend.asked


async def test_a_sandbox_is_found_and_acted_on(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("colon", *"sandbox", "space", *"tls-r", "tab", "enter")
        await seen.sees("▌ tls-renew")
        await seen.press("colon", *"sandbox", "space", *"dns-audit", "space", *"pause", "enter")
        await seen.until(lambda: ("pause", "SBX-00000003") in seen.backend.asked, "paused")


async def test_approve_leads_through_the_review_and_still_asks(console) -> None:
    async with console() as seen:
        await seen.press("colon", *"approve", "space", *"4f2a", "enter")
        await seen.sees("Type 4f2a to approve")
        assert not [call for call in seen.backend.asked if call[0] == "approve"]
        await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the field is armed")
        await seen.press("escape")
        await seen.sees("Serve the shop over TLS", "fluid › review 4f2a")


async def test_a_short_id_means_the_one_open_request_that_has_it(console) -> None:
    async with console() as seen:
        view = seen.backend.view
        newer = {"id": "APR-4f2a0001", "created_at": now(), "reason": "Another one"}
        view.approvals.append(view.approvals[0].model_copy(update=newer | {"state": ApprovalState.REJECTED}))
        await seen.backend.tell("approval.changed", "APR-4f2a0001")
        await seen.until(lambda: len(seen.app.mirror.fleet.approvals) == len(view.approvals), "read")
        await seen.press("colon", *"review", "space", *"4f2a", "enter")
        await seen.sees("Serve the shop over TLS", "fluid › review 4f2a")
        view.approvals[-1] = view.approvals[0].model_copy(update=newer)
        await seen.backend.tell("approval.changed", "APR-4f2a0001")
        await seen.until(lambda: seen.app.mirror.fleet.approvals[-1].state is ApprovalState.PENDING, "read")
        await seen.press("colon", *"review", "space", *"4f2a", "enter")
        await seen.sees(f"2 requests are called '4f2a', open one from the fleet: {APPROVAL_ID}, APR-4f2a0001")


async def test_a_mistake_is_said_and_kept(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("colon", *"hots", "enter")
        await seen.sees("✗ no command 'hots'")
        assert seen.lines()[-1].startswith(" :hots")


async def test_arrows_choose_and_go_through_the_history(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("colon", *"theme", "space", "down", "down", "enter")
        await seen.sees("Theme fluid-light.")
        await seen.press("colon", "up")
        await seen.until(lambda: seen.lines()[-1].startswith(" :theme light"), "the line before")


async def test_read_only_runs_nothing_that_changes(console) -> None:
    async with console(read_only=True) as seen:
        await seen.press("colon", *"host", "space", *"kvm-02", "space", *"drain", "enter")
        await seen.sees("✗ this console is read-only")
        assert ("drain_host", "kvm-02") not in seen.backend.asked


async def test_hostile_words_in_a_choice_draw_no_control(console) -> None:
    view = fleet()
    view.asks[0].prompt = "\x1b]0;owned\x07\u202egpj"
    async with console(backend=FakeBackend(view)) as seen:
        await seen.press("colon", *"answer", "space")
        await seen.sees("␛]0;owned")
        assert all(line.isprintable() for line in seen.lines())


def test_the_layout_is_remembered_and_a_broken_file_costs_nothing(tmp_path) -> None:
    path = tmp_path / "fluid" / "console.json"
    layout = memory.load(path)
    layout.theme, layout.preview_percent = "fluid-light", 35
    layout.remember("hosts")
    layout.remember("fleet")
    layout.remember("hosts")
    memory.save(layout, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert memory.load(path) == layout
    assert memory.load(path).history == ["fleet", "hosts"]
    path.write_text('{"preview_percent": 900}')
    assert memory.load(path) == memory.Layout()
    memory.save(layout, tmp_path / "fluid" / "console.json" / "no-folder")
