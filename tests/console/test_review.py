"""A review shows what an operator judges, and approving takes exactly: a, the short id, enter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic

import pytest
from textual import events
from textual.widgets import Input

from backend.errors import StaleDigest, WrongState
from backend.models import Approval, ApprovalState, Changes, Decision, Playbook, PlaybookTask, RunState, now
from fluid_tui.evidence import what_will_run
from fluid_tui.paint import plain
from fluid_tui.screens.ask import AskScreen
from fluid_tui.screens.confirm import ARMING_S
from fluid_tui.screens.review import ReviewScreen
from fluid_tui.widgets.text_view import TextView
from tests.console.conftest import Console
from tests.console.fake_backend import FakeBackend
from tests.console.sample import APPLY_RUN, APPROVAL_ID, DIGEST, fleet

SIZES = [(80, 24), (160, 48)]


def decisions(backend: FakeBackend) -> list[tuple[object, ...]]:
    return [call for call in backend.asked if call[0] in ("approve", "reject", "cancel_run")]


async def armed(seen) -> None:
    await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the dialog is armed")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_shows_request_and_evidence(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("enter")
        await seen.sees(
            "review 4f2a",
            "Serve the shop over TLS",
            "agent1 as claude-1",
            "web-01  deploy@10.20.0.1:22  group web",
            "✓ changes  4 files, 2 packages, 1 service, 1 user",
            "✓ rehearsal  ok=9 changed=9",
            "✓ again  changed=0 on the disk",
            "✓ residual  0 missing, 0 extra, 1 regenerated",
            "differs from",
        )
        if width == 80:
            await seen.press("end")
        await seen.sees("! risk  restarts nginx.service", "Ready: a, then 4f2a, enter.")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_tabs_show_what_it_stands_on(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("enter", "1")
        await seen.sees("+ nginx  added", "asked for by name", "read from the disk")
        await seen.press("n", "n", "n", "n")
        await seen.sees("worker_connections 768;", "worker_connections 4096;")
        await seen.press("2")
        await seen.sees("- name: Install nginx", "not in the playbook: /var/log is not managed")
        await seen.press("3")
        await seen.sees(
            "First run, on a pristine fork", "✓ changed  Install nginx", "Second run, on the same fork"
        )
        await seen.press("4")
        await seen.sees("≠ user ops exists", "web-01 in check mode", "+listen 443 ssl;")
        await seen.press("5")
        await seen.sees("apt-get install -y nginx", "✗ nginx -t", "exit 1", "␛]52;c;")
        assert all(line.isprintable() for line in seen.lines())


class Altered(FakeBackend):
    """Somebody wrote to its database."""

    async def changes(self, id: str, approval: str = "") -> Changes:
        raise WrongState(f"the rehearsal's change {id} of {approval} was altered")


async def test_a_diff_that_was_altered_is_not_shown_and_the_tab_says_why(console) -> None:
    async with console(160, 48, backend=Altered()) as seen:
        await seen.press("enter", "1")
        await seen.sees(f"✗ the rehearsal's change DIF-0000aaaa of {APPROVAL_ID} was altered")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_a_tab_plays_what_the_terminal_showed(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("enter", "6")
        await seen.sees("▸6 Recording", "fluid · approved ✓", "green words", "1x · ", "recording 2 of 2")
        await seen.press("end")
        await seen.sees("last words", "end · ")
        await seen.press("1")
        await seen.sees("+ nginx  added")
        assert [call for call in seen.backend.asked if call[0] == "recordings"] == [
            ("recordings", "SBX-00000001")
        ]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_approving_by_keys_sends_the_digest_shown(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("enter")
        await seen.sees("review 4f2a")
        await seen.press("a")
        await seen.sees(
            "Approve 4f2a for production",
            "on   web-01  deploy@10.20.0.1:22  group web  dry run: would change 8",
            "on   web-02  deploy@10.20.0.2:22  group web  dry run: would change 8",
            "run  Site with TLS  ansible.builtin.copy",
            DIGEST[:32],
            "Type 4f2a to approve",
        )
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.until(lambda: decisions(seen.backend) == [("approve", APPROVAL_ID, DIGEST)], "approved")
        await seen.sees("● applying", "✓ changed  web-01  Install nginx", "▸7 Apply")
        await seen.backend.finish_apply()
        await seen.sees(
            "✓ applied", "applied to 2 targets", "verified: checked again after the apply, changed=0", "ok=9"
        )
        await seen.until(lambda: "a approve" not in seen.text(), "no decision is offered any more")


async def test_every_target_of_many_is_named_with_its_address_and_what_runs_stays_in_sight(console) -> None:
    backend = FakeBackend()
    approval = backend.view.approvals[0]
    approval.targets = [f"web-{number:02}" for number in range(1, 13)]
    shown = approval.evidence.dry_run["web-01"]
    approval.evidence.dry_run = {
        name: shown.model_copy(update={"target": name, "login": f"deploy@10.20.0.{number}:2222"})
        for number, name in enumerate(approval.targets, start=1)
    }
    approval.evidence.dry_run["web-02"].login = "deploy@\x1b[31m10.20.0.2\u202e:22"
    approval.evidence.dry_run["web-03"].login = ""
    async with console(80, 24, backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("review 4f2a", "web-01  deploy@10.20.0.1:2222")
        await seen.press("a")
        await seen.sees("on   web-01  deploy@10.20.0.1:2222", "and 8 more, named at the end", "run  ")
        await seen.sees("on   web-02  deploy@␛[31m10.20.0.2", "on   web-03  address not noted")
        told = seen.text()
        for _ in range(6):
            await seen.press("pagedown")
            told += seen.text()
        assert told.index("run  ") < told.index("web-05")
        for number in range(5, 13):
            assert f"on   web-{number:02}  deploy@10.20.0.{number}:2222" in told
        await seen.sees("Type 4f2a to approve")


async def test_keys_that_waited_in_a_queue_while_the_dialog_was_armed_are_dropped(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        before = monotonic()
        await armed(seen)
        for key in (*"4f2a", "enter"):
            event = events.Key(key, None if key == "enter" else key)
            event.time = before  # read from the terminal before the field was armed
            seen.app.post_message(event)
        await seen.pilot.pause()
        assert seen.app.screen.focused.value == ""
        await seen.press("enter")
        await seen.sees("Nothing was typed")
        assert decisions(seen.backend) == []


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_secrets_are_asked_for_and_never_drawn(console, tmp_path, width: int, height: int) -> None:
    backend = FakeBackend()
    backend.secrets = ["password_hash_of_deploy", "content_of_etc_shop_ini"]
    file = tmp_path / "shop.ini"
    file.write_text("user = shop\npassword = hunter2\n")
    file.chmod(0o644)
    async with console(width, height, backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("review 4f2a", "Ready:" if width > 80 else "4f2a")
        await seen.press("a")
        await seen.sees("asks for the secrets password_hash_of_deploy")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.sees("secret 1 of 2", "password_hash_of_deploy (not shown):")
        await armed(seen)
        await seen.press("enter")
        await seen.sees("Nothing was typed.")
        await seen.press(*" $y$x ")
        await seen.sees("••••••")
        await seen.press("enter")
        await seen.sees("secret 2 of 2", "content_of_etc_shop_ini (not shown):")
        assert "$y$" not in seen.text()
        await armed(seen)
        seen.app.screen.query_one(Input).value = f"@{file}"
        await seen.press("enter")
        await seen.sees("others can read")
        assert decisions(backend) == []
        file.chmod(0o600)
        await seen.press("enter")
        given = {"password_hash_of_deploy": " $y$x ", "content_of_etc_shop_ini": file.read_text()}
        await seen.until(
            lambda: decisions(backend) == [("approve", APPROVAL_ID, DIGEST, given)], "approved with both"
        )
        assert "hunter2" not in seen.text()


async def test_a_secret_that_is_not_given_approves_nothing(console) -> None:
    backend = FakeBackend()
    backend.secrets = ["one", "two"]
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.sees("secret 1 of 2")
        await armed(seen)
        await seen.press("x", "enter")
        await seen.sees("secret 2 of 2")
        await seen.press("escape")
        await seen.sees("4f2a is not approved: two was not given.")
        assert decisions(backend) == []


@pytest.mark.parametrize("typed", ["4f2b", "", "4f2", "4F2A", "yes"])
async def test_a_wrong_id_approves_nothing(console, typed: str) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        await seen.sees("Type 4f2a to approve")
        await armed(seen)
        await seen.press(*typed, "enter")
        await seen.sees("That is not 4f2a" if typed else "Nothing was typed")
        await seen.press("escape")
        await seen.until(lambda: "Type 4f2a" not in seen.text(), "the dialog is closed")
        assert decisions(seen.backend) == []


async def test_keys_typed_before_the_dialog_are_dropped(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.screens.confirm.ARMING_S", 3 * ARMING_S)
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a", *"4f2a", "enter")
        await seen.sees("Type 4f2a to approve")
        await armed(seen)
        await seen.press("enter")
        await seen.sees("Nothing was typed")
        assert decisions(seen.backend) == []


async def test_without_a_digest_it_says_what_is_missing(console) -> None:
    backend = FakeBackend()
    approval = backend.view.approvals[0]
    approval.digest, approval.evidence.again_changed = "", None
    del approval.evidence.dry_run["web-02"]
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees(
            "Cannot be approved yet:", "the second run is not measured", "no dry run on web-02 yet"
        )
        await seen.until(lambda: ("dry_run", APPROVAL_ID) in backend.asked, "opening asks for the dry run")
        await seen.press("a")
        await seen.sees("This cannot be approved")
        assert decisions(backend) == []


@pytest.mark.parametrize(("key", "changes_requested"), [("r", False), ("c", True)])
async def test_rejecting_needs_a_reason(console, key: str, changes_requested: bool) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press(key)
        await seen.sees("enter sends it · escape goes back, nothing is sent")
        assert "escape is No" not in seen.text(), "it is a no that is being given"
        await armed(seen)
        await seen.press("enter")
        await seen.sees("A reason is needed")
        assert decisions(seen.backend) == []
        await seen.press(*"no", "space", *"cert", "enter")
        expected = [("reject", APPROVAL_ID, "no cert", changes_requested)]
        await seen.until(lambda: decisions(seen.backend) == expected, "rejected with the reason")
        await seen.sees("✗ rejected")


@pytest.mark.parametrize(
    ("down", "said"), [(False, "The agent is told."), (True, "no backend listens at operator.sock.")]
)
async def test_how_an_answer_went_is_told_also_to_who_has_left_the_review(
    console, down: bool, said: str
) -> None:
    async with console() as seen:
        seen.backend.may_answer.clear()
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("r")
        await armed(seen)
        await seen.press(*"no", "enter")
        await seen.until(lambda: bool(decisions(seen.backend)), "sent")
        await seen.press("escape")
        await seen.until(lambda: "review 4f2a" not in seen.text(), "left")
        seen.backend.down = down
        seen.backend.may_answer.set()
        await seen.sees(said)


async def test_an_answer_by_another_operator_shows_at_once(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.approve_state(ApprovalState.REJECTED, outcome="rejected by kim: not today")
        await seen.backend.tell("approval.changed", APPROVAL_ID)
        await seen.sees("✗ rejected", "not today")
        await seen.press("a")
        await seen.sees("This cannot be approved: it is rejected")


async def test_abort_wants_the_short_id(console) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.backend.approve(APPROVAL_ID, DIGEST)
        await seen.sees("● applying")
        await seen.press("x")
        await seen.sees("What is done on the targets stays done")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.until(lambda: ("cancel_run", APPLY_RUN) in seen.backend.asked, "aborted")


@pytest.mark.parametrize(
    ("typed", "target", "title"),
    [("all", "", "Take the apply back ─"), ("web-02", "web-02", "Take the apply back on web-02")],
)
async def test_a_failed_apply_offers_the_way_back(console, typed: str, target: str, title: str) -> None:
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("b")
        await seen.sees("Nothing to take back")
        await seen.backend.approve(APPROVAL_ID, DIGEST)
        await seen.sees("● applying")
        seen.backend.approve_state(
            ApprovalState.FAILED,
            outcome="the apply failed",
            said_by_targets="web-01: nginx did not start; web-02 untouched",
        )
        await seen.backend.tell("approval.changed", APPROVAL_ID)
        await seen.sees("✗ failed", "web-02 untouched", "b asks to take it back", "b roll back")
        await seen.press("b")
        await seen.sees("It was applied to web-01, web-02.", "One of them, or all:")
        await armed(seen)
        await seen.press(*"web-03", "enter")
        await seen.sees("That is none of: all, web-01, web-02.")
        await seen.press(*["backspace"] * 6, *typed, "enter")
        await seen.sees(title, "nothing reaches a target before that", "Type 4f2a to ask for it")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.sees("review 7be0", "◌ rehearsing", f"undoes {APPLY_RUN}")
        assert ("roll_back", APPLY_RUN, target) in seen.backend.asked
        await seen.press("q")
        await seen.sees("taken back by 7be0 ◌ rehearsing")
        assert "b asks to take it back" not in seen.text()


async def test_what_the_same_agent_was_refused_before_is_shown(console) -> None:
    backend = FakeBackend()
    one = backend.view.approvals[0]
    refused = {"sandbox_id": "SBX-0000000f", "sandbox_name": "nginx-old", "state": ApprovalState.REJECTED}
    backend.view.approvals += [
        one.model_copy(update={"id": "APR-11110000", "outcome": "the key was in the page", **refused}),
        one.model_copy(
            update={"id": "APR-22220000", "outcome": "of a stranger", "agent_id": "other", **refused}
        ),
    ]
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("before 1111 nginx-old rejected", ": the key")
        assert "of a stranger" not in seen.text()


async def test_a_refusal_of_long_ago_is_shown_and_opened_by_its_id(console) -> None:
    backend = FakeBackend()
    one = backend.view.approvals[0]
    old = {"id": "APR-33330000", "short_id": "3333", "outcome": "it opened port 23"}
    backend.ended = [one.model_copy(update={"state": ApprovalState.REJECTED, **old})]
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("before 3333 nginx-tls rejected", "it opened port")
        await seen.press(":", *"review APR-33330000", "enter")
        await seen.sees("review 3333", "✗ rejected")


class Moved(FakeBackend):
    """As the real one: a yes to other evidence than the present is refused."""

    async def approve(
        self, approval_id: str, digest: str, comment: str = "", secrets: Mapping[str, str] | None = None
    ) -> Approval:
        if digest != self.view.approvals[0].digest:
            self.asked.append(("approve", approval_id, digest))
            raise StaleDigest("the evidence moved since you saw it", remedy="read it again")
        return await super().approve(approval_id, digest, comment, secrets)


async def test_a_yes_is_to_the_evidence_that_stood_there_and_refused_if_it_moved(console) -> None:
    backend = Moved()
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        await seen.sees("Type 4f2a to approve")
        backend.approve_state(ApprovalState.PENDING, digest="f" * 64, updated_at=now() + timedelta(seconds=1))
        await backend.tell("approval.changed", APPROVAL_ID)
        await seen.until(lambda: _review(seen).data.approval.digest == "f" * 64, "the new evidence is read")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.sees("the evidence moved")
        assert [one for one in backend.asked if one[0] == "approve"] == [("approve", APPROVAL_ID, DIGEST)]
        assert backend.view.approvals[0].state is ApprovalState.PENDING


class OneOfTwo(FakeBackend):
    """Two operators must approve."""

    async def approve(
        self, approval_id: str, digest: str, comment: str = "", secrets: Mapping[str, str] | None = None
    ) -> Approval:
        given = Decision(verb="approve", uid=1000, name="ops", at=now(), digest=digest)
        return self.approve_state(ApprovalState.PENDING, threshold=2, decisions=[given])


async def test_the_first_of_two_yeses_is_told_as_one_and_opens_nothing(console) -> None:
    async with console(backend=OneOfTwo()) as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        await seen.press("a")
        await seen.sees("Type 4f2a to approve")
        await armed(seen)
        await seen.press(*"4f2a", "enter")
        await seen.sees("4f2a has 1 of 2 approvals.", "▸1 Diff")


def _review(seen: Console) -> ReviewScreen:
    return next(each for each in seen.app.screen_stack if isinstance(each, ReviewScreen))


async def test_read_only_opens_a_review_and_a_question_and_decides_nothing(console) -> None:
    async with console(read_only=True) as seen:
        await seen.press("enter")
        await seen.sees("review 4f2a", "Evidence")
        for key in ("a", "r", "c", "b", "x"):
            await seen.press(key)
            assert isinstance(seen.app.screen, ReviewScreen), key
        await seen.press("q", "j", "enter")
        await seen.sees("Drop the old cluster?")
        for key in ("y", "n"):
            await seen.press(key)
            assert isinstance(seen.app.screen, AskScreen), key
        assert "Answer:" not in seen.text()
        assert not {"approve", "reject", "answer", "dry_run", "roll_back", "cancel_run"} & {
            one[0] for one in seen.backend.asked
        }


def test_a_command_that_is_run_is_shown_before_the_yes() -> None:
    at = now()
    task = PlaybookTask(name="Make the key", module="command", opaque=True)
    yaml = """
- hosts: all
  tasks:
    - name: Make the key
      ansible.builtin.command:
        argv: [openssl, req, -subj, "/CN=a b\\e[2J"]
"""
    told = [
        plain(each)
        for each in what_will_run(
            fleet(at).approvals[0],
            Playbook(
                id="PBK-1", name="x", sandbox_id="SBX-1", yaml=yaml, tasks=[task], digest="d", created_at=at
            ),
        )
    ]
    assert "     $ openssl req -subj '/CN=a b␛[2J'" in told
    assert told[0].endswith("would change 8; differs from the rehearsal in 2 places"), "where it will run"
    assert told[1].endswith("would change 8")
    assert all(each.isprintable() for each in told)


async def test_the_rules_that_concern_this_operator_are_said(console) -> None:
    backend = FakeBackend()
    given = Decision(verb="approve", uid=1000, name="ops", at=backend.at, digest=DIGEST)
    backend.approve_state(ApprovalState.PENDING, threshold=2, requester_uid=1000, decisions=[given])
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees(
            "! policy  2 operators must approve; so far ops",
            "! policy  you asked for this yourself",
            "! policy  you have approved it",
        )


async def test_readiness_is_told_as_it_is_for_who_looks(console) -> None:
    own = FakeBackend()
    own.approve_state(ApprovalState.PENDING, requester_uid=1000)
    async with console(80, 24, backend=own) as seen:
        await seen.press("enter")
        await seen.sees("! policy  you asked for this yourself", "a approve")
        assert "Ready:" not in seen.text(), "below the evidence"
        await seen.press("end")
        await seen.sees("Ready: another operator approves it.")
    async with console(read_only=True) as seen:
        await seen.press("enter")
        await seen.sees("Ready: this console is read-only")
    async with console(keys={"review.approve": "f5"}) as seen:
        await seen.press("enter")
        await seen.sees("Ready: f5, then 4f2a, enter.")


@pytest.mark.parametrize("state", [ApprovalState.DRAFTING, ApprovalState.REHEARSING])
async def test_what_is_not_rehearsed_offers_no_approval(console, state: ApprovalState) -> None:
    backend = FakeBackend()
    backend.approve_state(state, digest="")
    async with console(80, 24, backend=backend) as seen:
        await seen.press("colon", *"review 4f2a", "enter")
        await seen.sees("fluid › review 4f2a", " r reject  c ask changes  n next change")
        assert "a approve" not in seen.lines()[-1]


async def test_a_yes_to_other_evidence_is_told_and_not_counted(console) -> None:
    backend = FakeBackend()
    stale = Decision(verb="approve", uid=1000, name="ops", at=backend.at, digest="e" * 64)
    backend.approve_state(ApprovalState.PENDING, threshold=2, decisions=[stale])
    async with console(backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("(0 of 2)", "approved other evidence by ops", "must approve; so far none")
        assert "you have approved it" not in seen.text()


async def test_a_run_under_way_says_for_how_long(console) -> None:
    backend = FakeBackend()
    run = backend._runs["RUN-00000002"]
    run.state, run.ended_at, run.started_at = RunState.RUNNING, None, backend.at - timedelta(seconds=95)
    async with console(backend=backend) as seen:
        await seen.press("enter", "3")
        await seen.sees("Second run, on the same fork  ● running  for 1 m")


async def test_a_dry_run_under_way_says_for_how_long_beside_the_evidence_and_in_its_tab(
    console, monkeypatch
) -> None:
    monkeypatch.setattr("fluid_tui.screens.base.TICK_S", 0.05)
    backend = FakeBackend()
    backend.approve_state(
        ApprovalState.PENDING,
        evidence=backend.view.approvals[0].evidence.model_copy(update={"dry_run": {}}),
        progress="dry run on web-01, web-02",
        progress_since=backend.at,
        digest="",
    )
    async with console(backend=backend) as seen:
        await seen.press("enter", "4")
        await seen.sees("web-02  dry run on web-01, web-02 ")
        assert "for 20 s" not in seen.text()
        monkeypatch.setattr("fluid_tui.screens.review.now", lambda: now() + timedelta(seconds=25))
        views = [seen.app.screen.query_one(place, TextView) for place in ("#evidence", "#dry_run")]
        told = "dry run on web-01, web-02 for 20 s"
        await seen.until(lambda: all(told in view.taken()[1] for view in views), told)


async def test_the_evidence_pack_is_written_to_a_private_file_and_none_is_overwritten(
    console, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fluid-4f2a-evidence.json"
    async with console() as seen:
        await seen.press("enter")
        await seen.sees("Ready:")
        seen.backend.down = True
        await seen.press("w")
        await seen.sees("no backend listens")
        assert not path.exists()
        seen.backend.down = False
        await seen.press("w")
        await seen.sees("The evidence pack is in")
        assert path.stat().st_mode & 0o777 == 0o600
        pack = json.loads(path.read_text())
        assert pack["approval"]["digest"] == DIGEST
        assert [row["action"] for row in pack["audit"]] == ["approval.request"], "as `approvals pack` has it"
        path.write_text("mine")
        await seen.press("w")
        await seen.sees("Could not write", "File exists")
        assert path.read_text() == "mine"


async def test_an_irreversible_question_wants_its_short_id(console) -> None:
    async with console() as seen:
        await seen.press("j", "enter")
        await seen.sees("Drop the old cluster?", "pg_dropcluster 13 main", "irreversible")
        await seen.press("y")
        await seen.sees("Type 5b11 to say yes")
        await armed(seen)
        await seen.press(*"5b11", "enter")
        await seen.until(lambda: ("answer", "ASK-5b11aa00", True, "") in seen.backend.asked, "answered")


@pytest.mark.parametrize("note", ["on Sunday", ""])
async def test_a_plain_question_is_said_yes_to_with_a_note_or_without(console, note: str) -> None:
    backend = FakeBackend()
    backend.view.asks[0].action_type = "question"
    async with console(80, 24, backend=backend) as seen:
        await seen.press("j", "enter")
        await seen.sees("Answer: y, with a note; or n, with a note.")
        await seen.press("y")
        await seen.sees("A note for the agent")
        await armed(seen)
        await seen.press(*note, "enter")
        await seen.until(lambda: ("answer", "ASK-5b11aa00", True, note) in backend.asked, "answered")


async def test_a_question_is_refused_with_a_note(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("j", "enter")
        await seen.sees("Drop the old cluster?")
        await seen.press("n")
        await seen.sees("A note for the agent")
        await armed(seen)
        await seen.press(*"later", "enter")
        await seen.until(lambda: ("answer", "ASK-5b11aa00", False, "later") in seen.backend.asked, "answered")
