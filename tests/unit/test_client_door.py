"""What a client takes for a door."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.client import Fluid
from backend.client.door import DoorAddress, door_address
from backend.errors import InvalidValue


@pytest.mark.parametrize(
    ("at", "address"),
    [
        ("/run/fluid/agent.sock", DoorAddress(Path("/run/fluid/agent.sock"))),
        ("http://127.0.0.1:8080", DoorAddress(None, "127.0.0.1", 8080)),
        ("http://localhost", DoorAddress(None, "localhost", 80)),
        ("http://[::1]:8080/", DoorAddress(None, "::1", 8080)),
        ("http://127.0.0.1:8080/t/word/", DoorAddress(None, "127.0.0.1", 8080, "/t/word")),
    ],
)
def test_a_path_or_a_url_is_a_door(at: str, address: DoorAddress) -> None:
    assert door_address(at) == address


@pytest.mark.parametrize("at", ["https://127.0.0.1:8080", "http://127.0.0.1:99999/t/secret", "http://[::1/x"])
def test_what_is_no_door_is_told_without_a_token(at: str) -> None:
    with pytest.raises(InvalidValue, match="no door") as refused:
        door_address(at)
    assert "secret" not in refused.value.message
    assert "http://HOST:PORT" in refused.value.remedy


def test_the_address_is_one_that_another_client_takes() -> None:
    assert Fluid("http://[::1]:8080/t/word").address == "http://[::1]:8080/t/word"
    assert str(door_address("http://[::1]:8080/t/word")) == "[::1]:8080", "no token where a person reads"
