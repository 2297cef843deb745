"""Requests for approval, the evidence behind them, and the decisions on them."""

from backend.approvals.apply import Pipeline
from backend.approvals.asks import Asks
from backend.approvals.book import ApprovalBook
from backend.approvals.onlookers import Onlookers
from backend.approvals.panic import Panic
from backend.approvals.service import Approvals
from backend.approvals.ways_back import WaysBack

__all__ = ["ApprovalBook", "Approvals", "Asks", "Onlookers", "Panic", "Pipeline", "WaysBack"]
