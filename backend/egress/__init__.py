"""Egress: the proxy that is a sandbox's only way out, its policy and its records."""

from backend.egress.policy import EgressPolicy, split_authority
from backend.egress.proxy import EgressProxy, EgressRecord
from backend.egress.sources import default_allow

__all__ = ["EgressPolicy", "EgressProxy", "EgressRecord", "default_allow", "split_authority"]
