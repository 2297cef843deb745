"""Networks and addresses for guests."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from backend.errors import LimitReached, NoSpace
from backend.fleet.addresses import free_address, free_network


def test_a_network_that_the_host_uses_is_passed_over() -> None:
    assert free_network([IPv4Network("10.231.0.0/23")]) == "10.231.2.0/24"


def test_no_free_network_is_an_error_with_the_setting_to_change() -> None:
    with pytest.raises(NoSpace) as refused:
        free_network([IPv4Network("10.0.0.0/8")])
    assert "network_cidr" in refused.value.remedy


def test_the_lowest_free_address_is_taken() -> None:
    assert free_address("10.231.4.0/24", {"10.231.4.10", "10.231.4.12"}) == "10.231.4.11"


def test_a_full_network_is_an_error() -> None:
    with pytest.raises(LimitReached):
        free_address("10.231.4.0/28", {f"10.231.4.{n}" for n in range(10, 15)})
