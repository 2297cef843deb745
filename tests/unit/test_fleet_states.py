"""What libvirt shows, as a phase and a reason that its reader can act on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backend.fleet.states import DIED, GONE, before, judge
from backend.hypervisor import DomainInfo
from backend.hypervisor.nouns import State, Why
from backend.models import Phase, Sandbox

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
NAME = "fluid-1-sbx-00000001"


def row(phase: Phase = Phase.RUNNING, **fields: Any) -> Sandbox:
    known = {"created_at": NOON, "updated_at": NOON, "last_activity_at": NOON, "domain": NAME, **fields}
    return Sandbox(
        id="SBX-00000001", sandbox_name="box", base_image="i", host_name="far", phase=phase, **known
    )


def shown(state: State, why: Why = "", name: str = NAME) -> DomainInfo:
    return DomainInfo(name, "u", state, {}, why)


@pytest.mark.parametrize(
    ("info", "phase", "words"),
    [
        (shown("running"), Phase.RUNNING, None),
        (shown("paused", "asked"), Phase.PAUSED, "somebody paused it on far, not by Fluid"),
        (shown("paused", "disk full"), Phase.PAUSED, "the disk of far was full when it wrote"),
        (shown("paused", "disk error"), Phase.PAUSED, "its disk on far failed"),
        (shown("paused", "watchdog"), Phase.PAUSED, "stuck"),
        (shown("paused", "at work"), Phase.PAUSED, "saves, dumps or migrates"),
        (shown("paused", "asleep"), Phase.PAUSED, "sleep"),
        (shown("paused", "guest crashed"), Phase.ERROR, "the kernel inside crashed"),
        (shown("shutoff", "switched off"), Phase.STOPPED, "somebody switched it off on far, not by Fluid"),
        (shown("shutoff", "shut down"), Phase.STOPPED, "it shut down: from inside"),
        (shown("shutoff", "saved"), Phase.STOPPED, "saved its memory"),
        (shown("shutoff", "reverted"), Phase.STOPPED, "reverted"),
        (shown("shutoff"), Phase.STOPPED, "the libvirt of far does not know why"),
        (shown("shutoff", "died"), Phase.ERROR, DIED),
        (shown("shutoff", "migrated"), Phase.ERROR, "migrated it away"),
        (shown("shutoff", "did not start"), Phase.ERROR, "did not start"),
        (shown("crashed", "guest crashed"), Phase.ERROR, "the kernel inside crashed"),
        (shown("running", name="web"), Phase.ERROR, "the name web; switch it off on far, and it"),
        (None, Phase.ERROR, f"{GONE}: somebody removed it on far, not by Fluid"),
    ],
)  # fmt: skip
def test_each_state_has_its_phase_and_says_why(
    info: DomainInfo | None, phase: Phase, words: str | None
) -> None:
    verdict = judge(row(), info)
    assert verdict.phase is phase
    assert verdict.reason == "" if words is None else words in verdict.reason
    assert "{" not in verdict.reason


@pytest.mark.parametrize("state", ["paused", "shutoff"])
def test_why_we_paused_or_stopped_it_ourselves_stays(state: State) -> None:
    phase = Phase.PAUSED if state == "paused" else Phase.STOPPED
    why: Why = "asked" if state == "paused" else "switched off"
    for reason in ("", "nobody worked in it"):
        assert judge(row(phase, reason=reason), shown(state, why)).reason == reason
    lost = row(Phase.LOST, reason="far is silent", lost_phase=phase, lost_reason="the disk is full")
    found = judge(lost, shown(state, why))
    assert (found.phase, found.reason) == (phase, "the disk is full")


def test_one_that_was_lost_and_changed_meanwhile_says_what_it_is_now() -> None:
    lost = row(Phase.LOST, reason="far is silent", lost_phase=Phase.PAUSED, lost_reason="the disk is full")
    assert judge(lost, shown("running")).phase is Phase.RUNNING
    assert "switched it off" in judge(lost, shown("shutoff", "switched off")).reason
    assert before(lost).reason == "the disk is full"


def test_a_host_that_was_restarted_is_named_and_not_guessed() -> None:
    booted = NOON + timedelta(minutes=5)
    for why in ("", "died"):
        verdict = judge(row(), shown("shutoff", why), booted_at=booted)  # type: ignore[arg-type]
        assert (
            verdict.phase is Phase.STOPPED
            and "far was restarted at 2026-01-01 12:05:00 UTC" in verdict.reason
        )
    later = row(last_activity_at=NOON + timedelta(minutes=6))
    assert "restarted" not in judge(later, shown("shutoff"), booted_at=booted).reason
    assert judge(row(Phase.STOPPED), shown("shutoff"), booted_at=booted).reason == ""


@pytest.mark.parametrize(
    ("died_of", "words"),
    [
        ("memory", "the kernel of far killed it for want of memory"),
        ("not memory", "not for want of memory"),
        ("unknown", "may say why"),
    ],
)
def test_a_death_says_what_is_known_and_no_more(died_of: str, words: str) -> None:
    died = judge(row(), shown("shutoff", "died"), died_of=died_of)
    assert died.phase is Phase.ERROR and died.reason.startswith(DIED) and words in died.reason
    # Another libvirtd has forgotten why.
    known = row(Phase.ERROR, reason=died.reason)
    for info in (shown("shutoff"), shown("shutoff", "died")):
        assert judge(known, info) == died
    assert judge(known, shown("running")).phase is Phase.RUNNING


def test_one_that_was_gone_and_is_found_again_is_off() -> None:
    gone = row(Phase.ERROR, reason=judge(row(), None).reason)
    assert judge(gone, shown("shutoff")).phase is Phase.STOPPED
