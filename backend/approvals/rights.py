"""Who may say yes: asked when an operator says it, and of each who did once more before the apply begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.errors import RoleDenied, SelfApproval
from backend.models import Approval, Identity
from backend.policy import operators_only
from backend.targets import ResolvedTarget


def refuse_approver(actor: Identity, approval: Approval, targets: Iterable[ResolvedTarget]) -> None:
    """Raise unless ``actor`` may approve for ``targets``.

    Raises:
        SelfApproval, RoleDenied
    """
    operators_only(actor)
    if actor.uid == approval.requester_uid:
        raise SelfApproval(
            f"{actor.name} (uid {actor.uid}) made {approval.id} and may not approve it",
            remedy="another operator must decide",
        )
    if actor.uid == 0 and approval.threshold > 1:
        raise RoleDenied("root does not count where two approvals are needed", remedy="approve as yourself")
    for target in targets:
        if "*" not in target.approvers and not _listed(actor, target.approvers):
            raise RoleDenied(
                f"{actor.name} is no approver of {target.group}",
                remedy=f"approvers are {', '.join(target.approvers)}",
            )


def _listed(actor: Identity, names: Sequence[str]) -> bool:
    return actor.name in names or any(f"@{group}" in names for group in actor.groups)
