"""One request: what is asked and the evidence on the left, what it stands on in tabs on the right.

Approving is bound to the digest that was on the screen when the dialog opened: if the evidence moves
meanwhile, the backend refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher

from backend.models import Approval, ApprovalState, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.evidence import (
    checklist,
    may_approve,
    obstacles,
    policy_lines,
    request_lines,
    what_will_run,
    yes_to,
)
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.screens.base import NARROW_BELOW, EventArrived, FluidScreen
from fluid_tui.screens.confirm import ChoiceDialog, ReasonDialog, SecretDialog, TypedConfirm, consequences
from fluid_tui.screens.review_data import ReviewData, ReviewRead
from fluid_tui.screens.review_tabs import TABS, TEXT_TABS, draw_tab
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.widgets.diff_view import DiffView
from fluid_tui.widgets.replay_view import ReplayView
from fluid_tui.widgets.tab_bar import TabBar
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import after_yes, approval_mark, timed

MOVING = (ApprovalState.APPROVED, ApprovalState.APPLYING)
DECIDABLE = (ApprovalState.DRAFTING, ApprovalState.REHEARSING, ApprovalState.PENDING)
ENDED = (ApprovalState.APPLIED, ApprovalState.FAILED)
REFUSED = (ApprovalState.REJECTED, ApprovalState.VOIDED, ApprovalState.FAILED)
EARLIER_SHOWN = 5
ALL_TARGETS = "all"
DECIDING = (("review.approve", "approve"), ("review.reject", "reject"), ("review.changes", "ask changes"))


class ReviewScreen(FluidScreen):
    """The request, its evidence, its decision and its apply: all on one screen."""

    PLACE = "review"
    BINDINGS = bindings("review")
    FOOTER = (
        ("review.next_change", "next change"),
        ("review.write", "write"),
        ("app.back", "back"),
    )

    def __init__(self, approval_id: str, *, begin: str = "") -> None:
        super().__init__()
        self._begin = begin  # approve or reject: as soon as the request has been read
        self._approval_id = approval_id
        self._noise = False
        self._shown_state: ApprovalState | None = None
        self._shown_decisions = 0

    @property
    def approval(self) -> Approval | None:
        """The request: as read for this screen, or as the fleet tells it if that is newer."""
        known = (self.data.approval, self.fluid.mirror.approval(self._approval_id))
        return max((one for one in known if one), key=lambda one: one.updated_at, default=None)

    @property
    def looks_at(self) -> tuple[str, str]:
        return self.PLACE, self._approval_id

    def again(self) -> FluidScreen:
        return ReviewScreen(self._approval_id)

    def crumb(self) -> Line:
        approval = self.approval
        if approval is None:
            return line(("review", Role.MUTED))
        return line(
            ("review ", Role.MUTED),
            (visible(approval.short_id), Role.TITLE),
            said(f"  {approval.sandbox_name}  "),
            approval_mark(approval).run,
        )

    def footer(self) -> Sequence[tuple[str, str]]:
        """What can still be decided comes first; what is not rehearsed yet can only be refused."""
        state = self.approval.state if self.approval else None
        if state in DECIDABLE:
            return (*(DECIDING if state is ApprovalState.PENDING else DECIDING[1:]), *self.FOOTER)
        if state in ENDED:
            return (("review.roll_back", "roll back"), *self.FOOTER)
        return (("review.abort", "abort"), *self.FOOTER) if state is ApprovalState.APPLYING else self.FOOTER

    def body(self) -> ComposeResult:
        self.data = ReviewData(self, self.fluid.client, self._approval_id)
        yield TabBar(TABS, id="tabs")
        with Horizontal(id="middle"):
            yield TextView(id="evidence")
            with Vertical(id="right"), ContentSwitcher(initial="diff", id="switch"):
                yield DiffView(id="diff")
                yield ReplayView(id="recording")
                for tab in TEXT_TABS:
                    yield TextView(id=tab.id)

    def on_mount(self) -> None:
        self.titled(self.query_one("#evidence"), "Request and evidence")
        self._show("evidence" if self.size.width < NARROW_BELOW else "diff")
        self.data.read()
        self._draw()

    # --- drawing ----------------------------------------------------------------------------------------

    def refresh_data(self) -> None:
        """The fleet moved: relative times, and a state that another operator may have changed."""
        self.data.told(self.fluid.mirror.approval(self._approval_id))
        self._draw()

    @on(EventArrived)
    def _event(self, message: EventArrived) -> None:
        self.data.heard(message.event)

    @on(ReviewRead)
    def _read(self, message: ReviewRead) -> None:
        approval = self.data.approval
        if approval and self.data.wants_dry_run(self.fluid.read_only):
            self.data.start_dry_run()
        if approval and self._shown_state in DECIDABLE and (words := self._news(approval)):
            self.say_decided(words)
        if approval:
            self._shown_decisions = len(approval.decisions)
        if approval and approval.state is not self._shown_state:
            if approval.state in MOVING or (self._shown_state in DECIDABLE and approval.state in ENDED):
                self._show("apply")
            self._shown_state = approval.state
        self._draw()
        known = self.data.playbook is not None or "playbook" in self.data.problems
        if approval and self._begin and (known or self._begin != "approve"):
            begin, self._begin = self._begin, ""
            self.action_approve() if begin == "approve" else self.action_reject()

    def _news(self, approval: Approval) -> str:
        """What somebody else has decided since it was drawn last, or that it is over without them."""
        left = "" if approval.state in DECIDABLE else ": nothing is left to decide"
        if len(approval.decisions) > self._shown_decisions:
            last = approval.decisions[-1]
            done = "approved" if last.verb == "approve" else "rejected"
            return (
                ""
                if last.uid == self.fluid.mirror.uid
                else f"{last.name} {done} {approval.short_id} just now{left}"
            )
        ended = approval.state in (ApprovalState.EXPIRED, ApprovalState.WITHDRAWN, ApprovalState.VOIDED)
        return f"{approval.short_id} is {approval_mark(approval).word}{left}" if ended else ""

    def _draw(self) -> None:
        approval = self.approval
        self.draw_bars()
        if approval is None:
            words = self.data.problem or "Reading the request …"
            self.query_one("#evidence", TextView).set_lines([line(said(words, Role.MUTED))])
            return
        self.query_one("#evidence", TextView).set_lines(self._evidence(approval))
        self.query_one("#tabs", TabBar).set_off({"apply"} if not approval.apply_run else set())
        self._draw_tab(approval)
        document = self.data.document(noise=self._noise)
        view = self.query_one("#diff", DiffView)
        if view.document is not document:
            view.show(document)
        self._draw_titles(approval)

    def _draw_tab(self, approval: Approval) -> None:
        """The lines of the text tab that is seen."""
        current = self._current()
        if current in [tab.id for tab in TEXT_TABS]:
            lines = draw_tab(current, timed(approval, now()), self.data, now())
            above = self._way_back(approval) if current == "apply" else []
            self.query_one(f"#{current}", TextView).set_lines([*above, *lines])

    def _evidence(self, approval: Approval) -> list[Line]:
        lines = [
            *self.as_it_was(),
            *request_lines(timed(approval, now()), self._earlier(approval), now()),
            *policy_lines(approval, self.fluid.mirror.uid),
            BLANK,
            line(("Evidence", Role.HEAD)),
            *checklist(approval),
        ]
        if approval.state is ApprovalState.PENDING and not self.is_lost:
            missing = obstacles(approval)
            lines.append(BLANK)
            if missing:
                lines.append(line(("Cannot be approved yet:", Role.WARN)))
                lines += [line(("  ", Role.TEXT), said(words, Role.WARN)) for words in missing]
            else:
                lines.append(self._ready(approval))
        if self.data.problem:
            lines += [BLANK, line(said(f"✗ {self.data.problem}", Role.BAD))]
        return lines

    def _ready(self, approval: Approval) -> Line:
        """What an approval takes, by whoever may give it."""
        uid, key = self.fluid.mirror.uid, self.fluid.key_of("review.approve")
        if self.fluid.read_only:
            words = "this console is read-only: another one approves it."
        elif not may_approve(approval, uid):
            words = "another operator approves it."
        else:
            words = f"{key}, then {visible(approval.short_id)}, enter."
        return line(("Ready: ", Role.GOOD), (words, Role.TEXT))

    def _earlier(self, approval: Approval) -> list[Approval]:
        """What the same agent was refused before, the newest first."""
        fleet = self.fluid.mirror.fleet
        who = (approval.requester_uid, approval.agent_id)
        known = {
            one.id: one for one in (*(self.data.asked_before or ()), *(fleet.approvals if fleet else ()))
        }
        found = [
            one
            for one in known.values()
            if one.id != approval.id
            and one.state in REFUSED
            and ((one.requester_uid, one.agent_id) == who or one.sandbox_id == approval.sandbox_id)
        ]
        return sorted(found, key=lambda one: one.created_at, reverse=True)[:EARLIER_SHOWN]

    def _draw_titles(self, approval: Approval) -> None:
        right, current = self.query_one("#right"), self.query_one("#switch", ContentSwitcher).current
        words = next((tab.words for tab in TABS if tab.id == current), "")
        below = {"diff": self.data.how, "recording": self.query_one(ReplayView).words}
        key = self.fluid.key_of("review.noise")
        hidden = self.data.hidden(key) if current == "diff" else ""
        self.titled(right, f"{words}{hidden}", below[current]() if current in below else "")

    # --- tabs -------------------------------------------------------------------------------------------

    def _show(self, id: str) -> None:
        narrow = self.size.width < NARROW_BELOW
        self.set_class(id == "evidence", "-evidence")
        if id != "evidence":
            self.query_one("#switch", ContentSwitcher).current = id
        self.query_one("#tabs", TabBar).choose(id if narrow or id != "evidence" else self._current())
        self.query_one(f"#{id}").focus()
        if id == "recording" and self.approval:
            self.query_one(ReplayView).show(self.fluid.client, self.approval.sandbox_id)
        if approval := self.approval:
            self._draw_tab(approval)
            self._draw_titles(approval)

    @on(ReplayView.Moved)
    def _moved(self) -> None:
        if approval := self.approval:
            self._draw_titles(approval)

    def _current(self) -> str:
        return self.query_one("#switch", ContentSwitcher).current or "diff"

    def on_resize(self) -> None:
        if self.is_mounted and self.size.width >= NARROW_BELOW:
            self.query_one("#tabs", TabBar).choose(self._current())

    @on(TabBar.Chosen)
    def _tab_clicked(self, message: TabBar.Chosen) -> None:
        self._show(message.id)

    def action_tab_evidence(self) -> None:
        self._show("evidence")

    def action_tab_diff(self) -> None:
        self._show("diff")

    def action_tab_playbook(self) -> None:
        self._show("playbook")

    def action_tab_rehearsal(self) -> None:
        self._show("rehearsal")

    def action_tab_dry_run(self) -> None:
        self._show("dry_run")

    def action_tab_commands(self) -> None:
        self._show("commands")

    def action_tab_recording(self) -> None:
        self._show("recording")

    def action_tab_apply(self) -> None:
        self._show("apply")

    def action_next_change(self) -> None:
        self._show("diff")
        self.query_one("#diff", DiffView).step(1)

    def action_previous_change(self) -> None:
        self._show("diff")
        self.query_one("#diff", DiffView).step(-1)

    def action_noise(self) -> None:
        self._noise = not self._noise
        self._draw()

    def action_terminal(self) -> None:
        if approval := self.approval:
            self.app.push_screen(TerminalScreen(approval.sandbox_id))

    # --- decisions --------------------------------------------------------------------------------------

    def action_approve(self) -> None:
        approval = self.data.approval
        if approval is None:
            self.say("The evidence is still being read.")
            return
        if self.is_lost:
            self.say("The backend does not answer: what you see may be old.", bad=True)
            return
        if missing := obstacles(approval):
            self.say("This cannot be approved: " + "; ".join(missing), bad=True)
            return
        playbook = self.data.playbook
        if playbook is None:
            self.say(self.data.problems.get("playbook", "The playbook is still being read."))
            return
        digest, client, short_id = approval.digest, self.fluid.client, visible(approval.short_id)

        def approve(secrets: dict[str, str]) -> None:
            self.do(
                lambda: client.approve(self._approval_id, digest, "", secrets),
                f"approving {short_id}",
                lambda told: f"{short_id} {after_yes(told)}.",
            )

        def confirmed(yes: bool | None) -> None:
            if yes:
                self._ask_secrets(short_id, playbook.asked, {}, approve)

        what = what_will_run(approval, playbook)
        title = f"Approve {short_id} for production"
        self.app.push_screen(TypedConfirm(title, what, short_id, yes_to(approval.evidence)), confirmed)

    def _ask_secrets(
        self,
        short_id: str,
        names: Sequence[str],
        given: dict[str, str],
        then: Callable[[dict[str, str]], None],
    ) -> None:
        """A value for each name, one dialog each; refusing one refuses all."""
        if len(given) == len(names):
            then(given)
            return
        name = names[len(given)]

        def typed(value: str | None) -> None:
            if value is None:
                self.say(f"{short_id} is not approved: {visible(name)} was not given.")
            else:
                self._ask_secrets(short_id, names, {**given, name: value}, then)

        place = f"{len(given) + 1} of {len(names)}"
        what = [
            line(("secret ", Role.MUTED), said(name, Role.TITLE), (f"  {place}", Role.MUTED)),
            *consequences(
                "It goes to the run and is kept nowhere. @/FILE takes what a file of yours holds.",
                role=Role.MUTED,
            ),
        ]
        prompt = f"{visible(name)} (not shown):"
        self.app.push_screen(SecretDialog(f"Approve {short_id}: secret {place}", what, prompt), typed)

    def action_reject(self) -> None:
        self._reject("Reject", "Why (the agent reads it):", changes_requested=False)

    def action_changes(self) -> None:
        self._reject("Ask for changes", "What should the agent mend:", changes_requested=True)

    def _reject(self, title: str, prompt: str, *, changes_requested: bool) -> None:
        approval, client = self.approval, self.fluid.client
        if approval is None or approval.state not in DECIDABLE:
            self.say(f"Nothing to reject: it is {approval_mark(approval).word if approval else 'not read'}.")
            return
        kept = "The sandbox is kept." if changes_requested else "The request ends here."

        def reject(reason: str | None) -> None:
            if reason:
                self.do(
                    lambda: client.reject(self._approval_id, reason, changes_requested),
                    f"rejecting {approval.short_id}",
                    "The agent is told.",
                )

        what = [line(("asks  ", Role.MUTED), said(approval.reason)), *consequences(kept, role=Role.MUTED)]
        self.app.push_screen(ReasonDialog(f"{title}: {visible(approval.short_id)}", what, prompt), reject)

    def action_abort(self) -> None:
        approval, client = self.approval, self.fluid.client
        if approval is None or not approval.apply_run or approval.state is not ApprovalState.APPLYING:
            self.say("No apply is running.")
            return

        def abort(yes: bool | None) -> None:
            if yes:
                self.do(
                    lambda: client.cancel_run(approval.apply_run), "aborting", "The apply is told to stop."
                )

        what = consequences(
            "The running task is ended, no further one is started.",
            "What is done on the targets stays done; the result says where it stopped.",
        )
        word = visible(approval.short_id)
        self.app.push_screen(TypedConfirm("Abort the apply", what, word, "abort", bad=True), abort)

    # --- the way back -----------------------------------------------------------------------------------

    def _taken_back_by(self, approval: Approval) -> Approval | None:
        """The newest request that takes this apply back."""
        fleet = self.fluid.mirror.fleet
        found = [one for one in fleet.approvals if one.rolls_back == approval.apply_run] if fleet else []
        return max(found, key=lambda one: one.created_at, default=None)

    def _way_back(self, approval: Approval) -> list[Line]:
        """Of an apply that is over: how it is taken back, or what does."""
        if not approval.apply_run or approval.state not in ENDED:
            return []
        if by := self._taken_back_by(approval):
            mark = approval_mark(by)
            return [
                line(("taken back by ", Role.MUTED), said(f"{by.short_id} ", Role.TITLE), mark.run),
                BLANK,
            ]
        key = self.fluid.key_of("review.roll_back")
        words = "asks to take it back: a request of its own, rehearsed and approved like any other"
        return [line((f"{key} ", Role.ACCENT), (words, Role.TEXT)), BLANK]

    def action_roll_back(self) -> None:
        approval = self.approval
        if approval is None or not approval.apply_run or approval.state not in ENDED:
            self.say("Nothing to take back: no apply of this request is over.")
            return
        if len(approval.targets) < 2:
            self._roll_back(approval, ALL_TARGETS)
            return
        names = [visible(target) for target in approval.targets]

        def chosen(word: str | None) -> None:
            if word is not None:
                self._roll_back(approval, word)

        what = consequences(
            f"It was applied to {', '.join(names)}.",
            "Targets that had different things before are taken back one by one.",
        )
        prompt = f"One of them, or {ALL_TARGETS}:"
        self.app.push_screen(ChoiceDialog("Take the apply back", what, prompt, [ALL_TARGETS, *names]), chosen)

    def _roll_back(self, approval: Approval, on: str) -> None:
        """Ask for it, on one target (as it is shown) or on all of them."""
        client = self.fluid.client
        named = [] if on == ALL_TARGETS else [one for one in approval.targets if visible(one) == on]
        target = named[0] if named else ""

        async def ask() -> None:
            made = await client.roll_back(approval.apply_run, target)
            if self.is_current:
                self.app.push_screen(ReviewScreen(made.id))

        def sure(yes: bool | None) -> None:
            if yes:
                self.do(ask, "asking for it", "It is asked for. Another operator approves it.")

        what = consequences(
            "A playbook is made that leads back to what was there before. It is rehearsed first and",
            "waits for approval like any other: nothing reaches a target before that.",
        )
        word, where = visible(approval.short_id), f" on {on}" if target else ""
        self.app.push_screen(TypedConfirm(f"Take the apply back{where}", what, word, "ask for it"), sure)

    def action_write(self) -> None:
        """The evidence pack: all that was shown, with the audit of this request."""
        approval = self.approval
        if approval is None:
            self.say("The request is still being read.")
            return
        path = Path.cwd() / f"fluid-{visible(approval.short_id)}-evidence.json"
        self.do(lambda: self.data.write(path), "reading the evidence pack", f"The evidence pack is in {path}")
