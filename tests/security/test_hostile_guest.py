"""Root inside a guest finds nothing but its proxy: scans in a network without a route out, packets counted.

Each guard has a scan without it that finds something: a scan that could find nothing proves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.images import Images
from backend.paths import Paths
from tests.security.hostile_network import BEYOND, GUARDS, NEAR, NETWORK, NOTHING, PRODUCTION, SYSCTL

CHECKOUT = Path(__file__).parents[2]
LIMIT_S = 900
HELD_BACK = {
    *("tcp to the host", "icmp to the host", "tcp to every port of the host"),
    *("tcp from the port of ssh", "tcp ack of no connection", "tcp fin of no connection"),
    *("unmarked arp", "unmarked ip protocol 6 to the host"),
}
"""What is well formed, and looks like an answer to the host until connection tracking has looked at it."""
FOUND = {
    "arp: the frame is its own": ("bridge", "arp in another's frame"),
    "arp: the hardware is its own": ("bridge", "arp with another's hardware"),
    "arp: the address is its own": ("bridge", "arp says as the neighbour"),
    "arp: about the host": ("bridge", f"arp who has {PRODUCTION.partition('/')[0]}"),
    "ip: the frame is its own": ("bridge", "tcp in another's frame"),
    "ip: the address is its own": ("bridge", "tcp as the neighbour"),
    "ip: to the host": ("bridge", f"tcp to {BEYOND}"),
    "ip: tcp and icmp": ("bridge", "udp to the host"),
    "frames: no others": ("bridge", "tcp in vlan 1"),
    "packets: answers only": ("answered", f"tcp {NETWORK.host_address}:80 answers"),
    "the bridge is seen by iptables": ("answered", f"tcp {NETWORK.host_address}:80 answers"),
    "the filter": ("answered", f"tcp {NEAR['metadata'].partition('/')[0]}:80 answers"),
    # To its own address a frame may not come: others said to be from it, and the bridge believes the last.
    "the filter, and the ports apart": ("neighbour", "tcp to everybody"),
}
"""What a scan finds where one guard is missing."""

Report = dict[str, Any]


@pytest.fixture(scope="module")
async def image() -> str:
    return (await Images(Paths.default().images).build(progress=print)).name


def scan(image: str, folder: Path, without: Sequence[str]) -> dict[str, Report]:
    """A scan with every guard, and one without each of these; their reports by guard."""
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", sys.executable, "-P", "-m", "tests.security.hostile_network"),
            *(str(folder), image, *without),
        ],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = {report["guard"]: report for report in map(json.loads, done.stdout.splitlines())}
    for report in reports.values():
        print(table(report))
    return reports


def table(report: Report) -> str:
    """What was tried, packets a try, and where it was seen."""
    rows = [f"without {report['guard']}: {sum(report['tried'].values())} frames, {report['took_s']} s"]
    rows.append(f"{'tried':<44}{'sent':>6}{'bridge':>8}{'neighb.':>8}{'prod.':>6}")
    for label in sorted({*report["tried"], *report["bridge"], *report["neighbour"], *report["production"]}):
        cells = [report[where].get(label, 0) for where in ("tried", "bridge", "neighbour", "production")]
        rows.append(f"{label:<44}{cells[0]:>6}{cells[1]:>8}{cells[2]:>8}{cells[3]:>6}")
    names = ("passed", "visitors", "answered", "heard", "listens", "inside_neighbour", "neighbour_is")
    rows += [f"  {name}: {report[name]}" for name in names]
    slow = f"{report['neighbour_commands']} commands, {report['neighbour_slowest_s']} s at most, "
    slow += f"{report['neighbour_failed']} failed"
    return "\n".join([*rows, f"  the neighbour meanwhile: {slow}"])


def assert_nothing_found(report: Report) -> None:
    # It was tried: each frame was seen as it left the guest.
    assert report["sent"].items() <= report["tried"].items()
    assert set(report["bridge"]) <= HELD_BACK
    assert report["neighbour"] == report["production"] == {}
    assert report["inside_neighbour"] == 0
    assert report["passed"] == {"INPUT": 0, "FORWARD": 0}  # not a first packet
    assert report["visitors"] == report["answered"] == report["heard"] == []


def assert_the_proxy_is_all_there_is(report: Report) -> None:
    """Its own sshd listens, and the proxy, which leads to none of these places."""
    assert report["listens"] == [22, 3128]
    assert len(report["proxy"]) == 2 + len(NEAR) + 2
    for place, answer in report["proxy"].items():
        assert answer.startswith("HTTP/1.1 403 ") and "rule egress." in answer, (place, answer)


def assert_the_neighbour_goes_on(report: Report, mac: str) -> None:
    assert report["neighbour_is"] == mac
    assert report["neighbour_failed"] == 0
    assert report["neighbour_commands"] >= 3 and report["neighbour_slowest_s"] < 10


def test_root_in_a_guest_finds_nothing_but_its_proxy(image: str, tmp_path: Path) -> None:
    last = "the filter, and the ports apart"
    reports = scan(image, tmp_path, [last])
    held, open_ = reports[NOTHING], reports[last]
    assert_nothing_found(held)
    assert_the_proxy_is_all_there_is(held)
    assert_the_neighbour_goes_on(held, held["neighbour_mac"])
    # The same scan, where nothing holds it, finds the host, production, the neighbour and takes its address.
    assert open_["visitors"] and open_["heard"] and open_["inside_neighbour"] > 0
    assert {label for label in held["tried"] if "neighbour" in label and "host" not in label} & {
        *open_["neighbour"]
    }


@pytest.mark.full
def test_without_any_one_guard_a_scan_finds_something(image: str, tmp_path: Path) -> None:
    assert set(FOUND) == set(GUARDS)
    reports = scan(image, tmp_path, [SYSCTL, *GUARDS])
    assert_nothing_found(reports[SYSCTL])
    found = {guard: label in reports[guard][where] for guard, (where, label) in FOUND.items()}
    assert found == dict.fromkeys(FOUND, True)
    assert reports["arp: the address is its own"]["neighbour_is"] != reports[NOTHING]["neighbour_mac"]
