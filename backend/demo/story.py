"""The demo from start to end: a machine that plays production, an agent that works, a person who decides."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from backend.client import Fluid
from backend.demo import report, users
from backend.demo.home import DemoHome
from backend.demo.production import Production, page_status
from backend.demo.progress import Progress
from backend.demo.scenario import Scenario, draw
from backend.errors import BackendDown, EvidenceFailed, EvidenceIncomplete, HypervisorDown, TimedOut
from backend.hypervisor import Hypervisor
from backend.images import BuiltImage, Images
from backend.models import Approval, ApprovalState, Changes, Run
from backend.models.approval import APPROVAL_OVER
from backend.text import visible

AGENT_TIMEOUT_S = 900
TEMPLATE_TIMEOUT_S = 120
EVIDENCE_TIMEOUT_S = 900
APPLY_TIMEOUT_S = 900
POLL_S = 0.5
T = TypeVar("T")


class Story:
    """One run of the demo. The stages leave their figures in ``progress.seconds``."""

    def __init__(self, home: DemoHome, seed: int) -> None:
        self.home = home
        self.progress = Progress()
        self.scenario: Scenario = draw(seed)
        self.fluid: Fluid
        self.address = ""
        self._former: set[str] = set()  # requests of runs before this one

    # --- setting up -----------------------------------------------------------------------------------

    def set_up(self) -> BuiltImage:
        """Users, image, backend, production. Every wait says what it waits for."""
        say = self.progress.say
        say(f"seed {self.scenario.seed}: {self.scenario.server}, user {self.scenario.user}")
        started = time.monotonic()
        users.ensure(say)
        self.home.prepare()
        with self.progress.stage("image", "building the guest image, from this host's own package sources"):
            image = self._image()
        self.address = asyncio.run(self._plan())
        self.home.write_config(self.address)
        with self.progress.stage("backend", "starting PostgreSQL, libvirt and the backend"):
            self.fluid = self.home.start_backend()
        host = self.fluid.fleet().hosts[0]
        if host.status != "up":
            raise HypervisorDown(host.last_error, remedy="fluid doctor")
        virt = "KVM" if host.virt_type == "kvm" else "emulation (no working KVM here)"
        say(f"libvirt {host.libvirt_version}, QEMU {host.qemu_version}, on {virt}")
        with self.progress.stage("template", f"freezing a running {image.name}, to fork sandboxes from"):
            self._wait_for_template(image.name)
        with self.progress.stage("production", f"booting {self.scenario.target}, which plays production"):
            asyncio.run(self._production(image, host.uri, host.virt_type))
        self.progress.seconds["setup"] = round(time.monotonic() - started, 2)
        return image

    def _wait_for_template(self, name: str) -> None:
        """The backend makes it once for each image; a host that cannot fork boots sandboxes cold instead."""
        deadline = time.monotonic() + TEMPLATE_TIMEOUT_S
        while time.monotonic() < deadline:
            if any(source.name == name and source.template_ready for source in self.fluid.sources()):
                return
            time.sleep(POLL_S)
        self.progress.say("no template within 2 minutes: sandboxes will boot cold")

    def _image(self) -> BuiltImage:
        images = Images(self.home.paths.images)
        image = asyncio.run(images.build(progress=lambda words: self.progress.say(f"  image: {words}")))
        self.progress.seconds["image_build"] = image.build_s
        return image

    async def _plan(self) -> str:
        return await Production(self.home.production).plan()

    async def _production(self, image: BuiltImage, uri: str, virt_type: str) -> None:
        hypervisor = Hypervisor(
            uri, folder=self.home.production / "domains", virt_type=virt_type, prefix=users.DEMO
        )
        await hypervisor.open()
        try:
            production = Production(self.home.production)
            seconds = await production.create(hypervisor, image, self.scenario)
        finally:
            await hypervisor.close()
        self.progress.seconds["cold_boot"] = seconds

    # --- the work -------------------------------------------------------------------------------------

    def start_agent(self, image: BuiltImage) -> None:
        self._forget_former()
        self.progress.say(f"the agent starts as user {users.AGENT}; its terminal: {self.home.agent_log}")
        self.home.start_agent(image.name, self.scenario.seed)

    def _forget_former(self) -> None:
        """The sandbox of a former run with this seed would hold the name that the agent asks for, and its
        request is not this run's."""
        self._former = {approval.id for approval in self.fluid.approvals()}
        for box in self.fluid.fleet().sandboxes:
            if box.sandbox_name == self.scenario.sandbox_name:
                self.progress.say(f"destroying {box.sandbox_name} of a former run")
                self.fluid.destroy(box.id)

    def wait_for_request(self) -> Approval:
        """The agent's request, once its rehearsal has ended; the agent's words are shown meanwhile."""
        shown = 0
        deadline = time.monotonic() + AGENT_TIMEOUT_S + EVIDENCE_TIMEOUT_S
        said = ""
        while time.monotonic() < deadline:
            shown = self._relay(shown)
            for approval in self._patiently(self.fluid.approvals):
                if approval.progress and approval.progress != said:
                    said = approval.progress
                    self.progress.say(f"{approval.id}: {visible(said)}")
                if self._mine(approval) and approval.state is ApprovalState.PENDING:
                    return approval
                if self._mine(approval) and approval.state is ApprovalState.DRAFTING:
                    raise EvidenceFailed(f"{approval.id}: {approval.outcome}")
            if not self.home.agent_running():
                self._relay(shown)
                raise EvidenceFailed("the agent ended before it asked", remedy=f"read {self.home.agent_log}")
            time.sleep(POLL_S)
        limit_s = AGENT_TIMEOUT_S + EVIDENCE_TIMEOUT_S
        raise TimedOut(f"no request within {limit_s} s", remedy=f"read {self.home.agent_log}")

    def _mine(self, approval: Approval) -> bool:
        return (
            approval.sandbox_name == self.scenario.sandbox_name
            and approval.id not in self._former
            and approval.state not in APPROVAL_OVER
        )

    def _relay(self, shown: int) -> int:
        if not self.home.agent_log.exists():
            return shown
        lines = self.home.agent_log.read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            self.progress.say(f"  {visible(line)}")
        return len(lines)

    # --- deciding, as the operator, on the operator door -----------------------------------------------

    def review(self, approval: Approval) -> Approval:
        """Open the review: the dry run starts, and its evidence is waited for."""
        self.progress.say(f"reviewing {approval.id}: dry run on {', '.join(approval.targets)}")
        self._patiently(lambda: self.fluid.dry_run(approval.id))
        return self._until(
            approval.id,
            lambda row: (
                row.state is not ApprovalState.PENDING
                or (not row.progress and all(name in row.evidence.dry_run for name in row.targets))
            ),
            EVIDENCE_TIMEOUT_S,
        )

    def tell(self, approval: Approval) -> None:
        """What an operator reads, as a transcript."""
        evidence, say = approval.evidence, self.progress.say
        counted = ", ".join(
            f"{count} {what.replace('_', ' ')}" for what, count in evidence.counts.items() if count
        )
        say(f"  changes: {counted}")
        if evidence.rehearsal and evidence.again:
            say(
                f"  rehearsal: ok={evidence.rehearsal.ok} changed={evidence.rehearsal.changed}; again: "
                f"changed={evidence.again.changed}, on the disk {evidence.again_changed}"
            )
        for row in evidence.residual:
            say(f"  {row.kind}: {row.noun} {visible(row.name)} {visible(row.reason)}")
        for name, seen in evidence.dry_run.items():
            say(
                f"  dry run on {name}: would change {seen.result.changed}, failed {seen.result.failed}"
                f" {visible(seen.error)}"
            )
            for words in seen.differs:
                say(f"    differs: {visible(words)}")

    def approve(self, approval: Approval) -> tuple[Approval, float]:
        """Yes to exactly this digest; returns the end of the apply, and how long the decision took (ms).
        Evidence that cannot be approved ends here, and the report says what was not held."""
        self.progress.say(f"approving {approval.id}, digest {approval.digest[:16]}…, as the operator")
        began = time.monotonic()
        try:
            self.fluid.approve(approval.id, approval.digest, comment="demo")
        except EvidenceIncomplete as refused:
            self.progress.say(f"refused: {refused.message}")
            return approval, 0.0
        decision_ms = (time.monotonic() - began) * 1000
        over = self._until(approval.id, lambda row: row.state in APPROVAL_OVER, APPLY_TIMEOUT_S)
        self.progress.say(f"{over.id} is {over.state}: {over.ending}")
        return over, decision_ms

    def _patiently(self, call: Callable[[], T]) -> T:
        """``call()``, over the death of a backend: nobody supervises the demo's, so it is started again here,
        as systemd would."""
        while True:
            try:
                return call()
            except BackendDown:
                self.progress.say("the backend is gone; starting it again")
                self.home.start_backend()

    def _until(self, approval_id: str, done: Callable[[Approval], bool], seconds: float) -> Approval:
        deadline, said = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            approval = self._patiently(lambda: self.fluid.approval(approval_id))
            if approval.progress and approval.progress != said:
                said = approval.progress
                self.progress.say(f"  {visible(said)}")
            if done(approval):
                return approval
            time.sleep(POLL_S)
        raise TimedOut(
            f"{approval_id} is still {approval.state} {approval.progress} after {seconds:.0f} s",
            remedy=f"read {self.home.paths.log / 'backend.log'}",
        )

    # --- the end --------------------------------------------------------------------------------------

    def figures(self, approval: Approval, decision_ms: float) -> dict[str, Any]:
        """The report of ``--json``."""
        with self.progress.stage("page", f"asking https://{self.scenario.target}/"):
            status = asyncio.run(page_status(self.address, self.scenario))
        self.progress.seconds["total"] = self.progress.total()
        evidence = approval.evidence
        changes: Changes = self.fluid.changes(evidence.sandbox_changes_id)
        runs: dict[str, Run] = {}
        if approval.apply_run:
            runs["apply"] = self.fluid.run_of(approval.apply_run)
        agent: dict[str, Any] = {}
        if self.home.facts_file.exists():
            agent = json.loads(self.home.facts_file.read_text())
        seconds = {**self.progress.seconds, "image": self.progress.seconds.get("image_build", 0.0)}
        return report.build(
            self.scenario,
            seconds,
            agent,
            changes,
            approval,
            runs,
            decision_ms,
            status,
            self.fluid.verify_audit(),
        )

    def conclude(self, figures: dict[str, Any], json_file: Path | None) -> int:
        """Write the report and say whether every promise was kept."""
        if json_file is not None:
            json_file.write_text(json.dumps(figures, indent=2) + "\n")
        missed = report.shortfalls(figures)
        for words in missed:
            self.progress.say(f"NOT HELD: {words}")
        if not missed:
            self.progress.say(f"https://{self.scenario.target}/ answers 200; every promise was kept")
        return 9 if missed else 0
