"""Who did what, before and after each effect, in a chain that shows any edit."""

from backend.audit.chain import ChainCheck, Link, canonical
from backend.audit.head import SignedHead, Signer, verify_signature
from backend.audit.service import Audit, AuditReport, Step

__all__ = [
    "Audit",
    "AuditReport",
    "ChainCheck",
    "Link",
    "SignedHead",
    "Signer",
    "Step",
    "canonical",
    "verify_signature",
]
