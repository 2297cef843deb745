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


DEFAULT = ("192.168.122.2", "192.168.122.254")


def test_a_guest_on_somebody_elses_network_is_outside_of_what_its_dhcp_gives() -> None:
    reserved = [("10.9.0.2", "10.9.0.12"), ("10.9.0.14", "10.9.0.14")]
    assert free_address("10.9.0.0/24", {"10.9.0.1"}, reserved, name="lan") == "10.9.0.13"
    assert free_address("10.9.0.0/24", {"10.9.0.1", "10.9.0.13"}, reserved, name="lan") == "10.9.0.15"


def test_a_network_that_dhcp_has_whole_is_refused_with_the_command_that_mends_it() -> None:
    with pytest.raises(LimitReached) as refused:
        free_address("192.168.122.0/24", {"192.168.122.1"}, [DEFAULT], name="default")
    assert "192.168.122.2-192.168.122.254" in refused.value.message
    assert refused.value.remedy.startswith("virsh net-edit default")
