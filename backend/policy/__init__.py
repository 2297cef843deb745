"""What may be done: pure functions over a frozen input. A refusal names its rule.

A deny list inside a root VM is a guard rail, not a wall; the wall is the VM and its network.
"""

from backend.policy.rights import operators_only, refuse_agents
from backend.policy.rules import Policy, Refusal

__all__ = ["Policy", "Refusal", "operators_only", "refuse_agents"]
