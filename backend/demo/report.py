"""The demo's figures, and whether they keep the promise."""

from __future__ import annotations

from typing import Any

from backend.demo.scenario import Scenario
from backend.models import Approval, Changes, Run, RunKind, TargetResult


def build(
    scenario: Scenario,
    seconds: dict[str, float],
    agent: dict[str, Any],
    changes: Changes,
    approval: Approval,
    runs: dict[str, Run],
    decision_ms: float,
    http_status: int,
    audit: dict[str, Any],
) -> dict[str, Any]:
    """The JSON of ``--json FILE``. All figures of this machine; ``virt`` says whether they are emulated."""
    evidence = approval.evidence
    applied = runs.get(RunKind.APPLY)
    counted = [change for change in changes.shown() if not change.package]
    return {
        "seed": scenario.seed,
        "server": scenario.server,
        "setup_s": seconds.get("setup", 0.0),
        "image_build_s": seconds.get("image", 0.0),
        "sandbox_ready_s": agent.get("sandbox_ready_s"),
        "created_by": agent.get("created_by"),
        "cold_boot_s": seconds.get("cold_boot"),
        "snapshot_s": agent.get("snapshot_s"),
        "diff": {
            "read_from": changes.read_from,
            "quiesced": changes.quiesced,
            "files_added": sum(change.verb == "added" for change in counted),
            "files_modified": sum(change.verb in ("modified", "metadata") for change in counted),
            "files_removed": sum(change.verb == "removed" for change in counted),
            "packages_added": sum(package.verb == "added" for package in changes.packages),
            "services_changed": len(changes.units),
            "hidden_as_noise": sum(changes.hidden.values()),
        },
        "playbook_tasks": agent.get("playbook_tasks"),
        "opaque": len(evidence.opaque),
        "unrehearsed": len(evidence.unrehearsed),
        "rehearsal": _recap(evidence.rehearsal) | {"again_changed": evidence.again_changed},
        "residual": {kind: len(evidence.rows(kind)) for kind in ("missing", "extra", "regenerated")},
        "dry_run": {
            name: {"changed": seen.result.changed, "failed": seen.result.failed, "differs": seen.differs}
            for name, seen in evidence.dry_run.items()
        },
        "decision_ms": round(decision_ms, 1),
        "apply": {name: _recap(result) for name, result in (applied.results if applied else {}).items()},
        "verified_changed": approval.verified_changed,
        "http_status": http_status,
        "audit_rows": audit.get("rows"),
        "audit_ok": audit.get("ok"),
        "total_s": seconds.get("total"),
        "state": approval.state,
    }


def shortfalls(report: dict[str, Any]) -> list[str]:
    """What the run did not hold, a sentence each. Empty: every promise was kept."""
    rehearsal, residual = report["rehearsal"], report["residual"]
    differs = sum(len(row["differs"]) for row in report["dry_run"].values())
    rules = (
        (report["state"] == "applied", f"the request is {report['state']}, not applied"),
        (report["http_status"] == 200, f"the page answers {report['http_status']}"),
        (rehearsal["again_changed"] == 0, f"the second rehearsal changed {rehearsal['again_changed']}"),
        (rehearsal["failed"] == 0, f"{rehearsal['failed']} tasks failed in the rehearsal"),
        (residual["missing"] == 0, f"{residual['missing']} changes are missing from the rehearsal"),
        (residual["extra"] == 0, f"{residual['extra']} changes are extra in the rehearsal"),
        (report["diff"]["read_from"] == "disk", f"the diff was read from the {report['diff']['read_from']}"),
        (differs >= 2, f"the dry run called out {differs} differences of the drifted target, not 2"),
        (report["audit_ok"] is True, "the audit does not verify"),
    )
    return [words for holds, words in rules if not holds]


def _recap(result: TargetResult | None) -> dict[str, int]:
    result = result or TargetResult()
    return {"ok": result.ok, "changed": result.changed, "failed": result.failed}
