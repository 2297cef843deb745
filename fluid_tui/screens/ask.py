"""A plain question of an agent: yes or no with a note; what cannot be undone wants its short id typed."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult

from backend.models import Ask, AskState, now
from fluid_tui.actions import bindings
from fluid_tui.fleet_rows import short_id
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.screens.base import EventArrived, FluidScreen
from fluid_tui.screens.confirm import ReasonDialog, TypedConfirm
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import ago, left

NEEDS_TYPING = ("destructive", "irreversible")


class AskScreen(FluidScreen):
    """One question, until it is answered here or elsewhere."""

    PLACE = "ask"
    BINDINGS = bindings("ask")
    FOOTER = (("ask.yes", "yes"), ("ask.no", "no"), ("ask.terminal", "terminal"), ("app.back", "back"))

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self._request_id = request_id
        self._last: Ask | None = None
        self._over = ""

    @property
    def looks_at(self) -> tuple[str, str]:
        return self.PLACE, self._request_id

    def again(self) -> FluidScreen:
        return AskScreen(self._request_id)

    def crumb(self) -> Line:
        return line(("question ", Role.MUTED), (short_id(self._request_id), Role.TITLE))

    def body(self) -> ComposeResult:
        yield TextView(id="question")

    def on_mount(self) -> None:
        self.titled(self.query_one(TextView), "The agent asks")
        self.query_one(TextView).focus()
        self.refresh_data()

    def _ask(self) -> Ask | None:
        return self.fluid.mirror.ask(self._request_id)

    def refresh_data(self) -> None:
        ask = self._last = self._ask() or self._last
        if ask is None:
            self.query_one(TextView).set_lines([line(("This question is no longer there.", Role.MUTED))])
            return
        at = now()
        sandbox = self.fluid.mirror.sandbox(ask.sandbox_id or "")
        name = sandbox.sandbox_name if sandbox else ask.sandbox_id or ""
        lines = [
            *self.as_it_was(),
            line(said(ask.prompt, Role.TITLE)),
            BLANK,
            *[line(said(each)) for each in ask.context.split("\n") if each],
            BLANK,
            line(("who     ", Role.MUTED), said(ask.requester_name or f"uid {ask.requester_uid}")),
            *([line(("sandbox ", Role.MUTED), said(name))] if name else []),
            line(
                ("kind    ", Role.MUTED),
                said(ask.action_type, Role.WARN if ask.action_type in NEEDS_TYPING else Role.TEXT),
            ),
            line(("urgency ", Role.MUTED), said(ask.urgency)),
            line(
                ("asked   ", Role.MUTED),
                (f"{ago(ask.created_at, at)}, {left(ask.expires_at, at)} left", Role.TEXT),
            ),
            *[line(("or      ", Role.MUTED), said(each)) for each in ask.alternatives],
        ]
        if ask.status is not AskState.PENDING:
            words = f"{ask.status} {ask.approved_by or ''} {ask.comment}".strip()
            lines += [BLANK, line(said(words, Role.GOOD if ask.approved else Role.WARN))]
        elif self._over or self._ask() is None:
            lines += [BLANK, line(said(self._over or "This question is no longer there.", Role.WARN))]
        elif not (self.fluid.read_only or self.is_lost):
            lines += [BLANK, self._how_to_answer(ask)]
        self.query_one(TextView).set_lines(lines)

    def _how_to_answer(self, ask: Ask) -> Line:
        yes, no = (self.fluid.key_of(id) for id in ("ask.yes", "ask.no"))
        typed = (
            f", then {short_id(ask.request_id)}, enter"
            if ask.action_type in NEEDS_TYPING
            else ", with a note"
        )
        return line(("Answer: ", Role.GOOD), (f"{yes}{typed}; or {no}, with a note.", Role.TEXT))

    @on(EventArrived)
    def _event(self, message: EventArrived) -> None:
        """Answered elsewhere: said at once, with who it was."""
        event = message.event
        status = str(event.data.get("status", ""))
        if event.kind != "ask.changed" or event.id != self._request_id or status == AskState.PENDING:
            return
        by = str(event.data.get("by", ""))
        self._over = f"{by} {status} it just now" if by else f"it is {status}"
        if by != self.fluid.mirror.me:
            self.say_decided(f"{self._over}: nothing is left to decide")
        self.refresh_data()

    def action_terminal(self) -> None:
        if self._last is not None and self._last.sandbox_id:
            self.app.push_screen(TerminalScreen(self._last.sandbox_id))
        else:
            self.say("This question is of no sandbox.")

    def action_yes(self) -> None:
        ask = self._pending()
        if ask is None:
            return
        question = [line(said(ask.prompt, Role.TITLE))]
        if ask.action_type in NEEDS_TYPING:

            def sure(yes: bool | None) -> None:
                if yes:
                    self._answer(True, "")

            word = short_id(ask.request_id)
            self.app.push_screen(
                TypedConfirm(f"Yes, and it is {ask.action_type}", question, word, "say yes", bad=True), sure
            )
        else:
            self._with_note("Yes", question, True)

    def action_no(self) -> None:
        ask = self._pending()
        if ask is not None:
            self._with_note("No", [line(said(ask.prompt, Role.TITLE))], False)

    def _with_note(self, title: str, question: list[Line], approved: bool) -> None:
        def answer(note: str | None) -> None:
            if note is not None:
                self._answer(approved, note)

        self.app.push_screen(
            ReasonDialog(title, question, "A note for the agent, or nothing:", optional=True), answer
        )

    def _pending(self) -> Ask | None:
        if self.is_lost:
            self.say("The backend does not answer: what you see may be old.", bad=True)
            return None
        ask = self._ask()
        if ask is None or ask.status is not AskState.PENDING:
            self.say("This question is already answered.")
            return None
        return ask

    def _answer(self, approved: bool, note: str) -> None:
        client = self.fluid.client
        self.do(lambda: client.answer(self._request_id, approved, note), "answering", "The agent is told.")
