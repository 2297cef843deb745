"""What an approval binds: one SHA-256 over everything the operator was shown (DESIGN §7.5).

The digest is recomputed under the targets' lock before the apply; whatever moved in between changes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from backend.models import Approval, Playbook


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no white space, UTF-8: the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(approval: Approval, playbook: Playbook, targets: Mapping[str, Any], policy: str) -> str:
    """SHA-256 (hex) of playbook, files, targets as resolved (address, port, host key), evidence with the
    hashes of both changes, who asked and why, threshold.

    ``targets`` maps a target's name to what identifies it on the wire. Times and run ids are left out: they
    say when evidence was made, not what it says.
    """
    evidence = approval.evidence.model_dump(mode="json")
    for row in evidence["dry_run"].values():
        del row["run_id"], row["at"]
        if not row["login"]:
            del row["login"]  # an older version's digest stands
    for name in ("running", "quiesced", "notes"):
        if evidence[name] is None:
            del evidence[name]  # likewise
    for name in ("changes_sha256", "sandbox_changes_sha256"):
        if not evidence[name]:
            del evidence[name]  # likewise
    for name in ("rehearsal_run", "repeat_run", "changes_id", "sandbox_changes_id"):
        del evidence[name]
    bound = {
        "approval": approval.id,
        "playbook": playbook.digest,
        "files": playbook.files,
        "secrets": playbook.secrets,
        "targets": dict(targets),
        "source": approval.source,
        "evidence": evidence,
        "threshold": approval.threshold,
        "rolls_back": approval.rolls_back,
        "policy": policy,
    }
    if approval.evidence.changes_sha256:  # likewise
        bound["reason"] = approval.reason
        bound["requester"] = [approval.requester_uid, approval.requester_name, approval.agent_id]
    return hashlib.sha256(canonical(bound)).hexdigest()
