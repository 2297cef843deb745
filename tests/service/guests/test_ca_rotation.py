"""A CA key is changed while guests run: everybody can log in before, meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from backend.errors import GuestDown, WrongState
from backend.fleet import Fleet, FleetParts
from backend.guests import CertificateAuthority, GuestConnections, TrustedKeys
from backend.models import Phase, Sandbox, now
from backend.store import Store
from tests.service.guests.conftest import SshServer, start_sshd
from tests.service.guests.rotating import KEYS_FILE, OPERATOR, PORT, Lab, opened

CHECKOUT = Path(__file__).parents[3]
READY_S, REFUSED_S, CHILD_S = 20.0, 3.0, 60
STEPS = ("next key", "taught", "old kept", "switched")


def row_of(number: int, sshd: SshServer, mark: str, phase: Phase = Phase.RUNNING) -> Sandbox:
    return Sandbox(
        id=f"SBX-0000000{number}",
        sandbox_name=f"box-{number}",
        base_image="i",
        phase=phase,
        host_key=sshd.guest.host_key_public,
        ca=mark,
        labels={PORT: str(sshd.guest.port), KEYS_FILE: str(sshd.folder / "ca.pub")},
        created_at=now(),
        updated_at=now(),
    )


def sshd_at(folder: Path, authority: CertificateAuthority) -> SshServer:
    folder.mkdir()
    return start_sshd(folder, authority)


@pytest.fixture
async def lab(store: Store, tmp_path: Path) -> AsyncIterator[Lab]:
    async with opened(store, tmp_path) as lab:
        yield lab


@pytest.fixture
def first(lab: Lab, tmp_path: Path) -> Iterator[CertificateAuthority]:
    """The key as it is now, for who still holds a certificate of it afterwards."""
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "ca", copy)
    yield CertificateAuthority(copy)


@pytest.fixture
def sshd(lab: Lab, tmp_path: Path) -> Iterator[SshServer]:
    server = sshd_at(tmp_path / "sshd", lab.authority)
    yield server
    server.stop()


@pytest.fixture
async def row(lab: Lab, sshd: SshServer) -> Sandbox:
    row = row_of(1, sshd, lab.authority.trusted.mark)
    await lab.connections.ready(lab.guest(row), timeout_s=READY_S)
    return await lab.store.sandboxes.insert(row)


async def lets_in(authority: CertificateAuthority, lab: Lab, row: Sandbox) -> bool:
    """Whether a certificate that ``authority`` signs now opens the guest."""
    others = GuestConnections(authority)
    try:
        await others.ready(lab.guest(row), timeout_s=REFUSED_S)
    except GuestDown as error:
        assert "refuses our certificate" in error.message
        return False
    finally:
        await others.close()
    return True


def keys_in(row: Sandbox) -> list[str]:
    return Path(row.labels[KEYS_FILE]).read_text().splitlines()


async def pass_ten_minutes(lab: Lab, tmp_path: Path) -> Lab:
    """A backend that is started when no certificate of the old key can be valid any more."""
    file = tmp_path / "ca/user_ca.old"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "trusted_until": (now() - timedelta(seconds=1)).isoformat()}))
    return Lab(lab.store, tmp_path)


async def test_both_keys_open_a_guest_until_the_old_one_has_ended(
    lab: Lab, first: CertificateAuthority, row: Sandbox, tmp_path: Path
) -> None:
    told = await lab.trust.rotate(OPERATOR)
    assert told.current.public_key == lab.authority.public_key != first.public_key
    assert told.old is not None and told.old.public_key == first.public_key
    assert told.old.trusted_until is not None
    assert timedelta(minutes=9) < told.old.trusted_until - now() <= timedelta(minutes=10)
    assert (told.pending, told.behind) == (None, [])
    assert sorted(keys_in(row)) == sorted([first.public_key, lab.authority.public_key])
    assert await lets_in(lab.authority, lab, row) and await lets_in(first, lab, row)
    outcome = await lab.commands.run(lab.guest(row), "echo still here", timeout_s=READY_S)
    assert outcome.stdout == b"still here\n"

    later = await pass_ten_minutes(lab, tmp_path)
    await later.trust.keep()
    assert keys_in(row) == [lab.authority.public_key]
    assert not await lets_in(first, lab, row)
    assert await lets_in(later.authority, lab, row)
    assert (await later.trust.view(OPERATOR)).old is None
    await later.close()


async def test_what_was_signed_before_a_revocation_opens_no_guest_that_learns_it(
    lab: Lab, row: Sandbox, first: CertificateAuthority, tmp_path: Path
) -> None:
    await lab.trust.rotate(OPERATOR)  # two keys are trusted
    second = lab.authority.public_key
    await lab.trust.revoke(OPERATOR)
    assert lab.authority.public_key not in (first.public_key, second)
    assert (await lab.trust.view(OPERATOR)).behind == ["box-1"]
    assert await lets_in(first, lab, row)  # it runs, and is told next
    await lab.trust.keep()
    assert keys_in(row) == [lab.authority.public_key]
    assert not await lets_in(first, lab, row)
    assert await lets_in(lab.authority, lab, row)
    told = await lab.trust.view(OPERATOR)
    assert (told.old, told.pending, told.behind) == (None, None, [])
    assert CertificateAuthority(tmp_path / "ca").trusted == lab.authority.trusted
    assert {file.name for file in (tmp_path / "ca").iterdir()} == {"user_ca"}


async def test_a_rotation_that_a_revocation_overtakes_fails_and_brings_back_no_key(
    lab: Lab, row: Sandbox, first: CertificateAuthority
) -> None:
    await lab.store.sandboxes.save(row.model_copy(update={"phase": Phase.CREATING}))  # it waits for this one
    rotating = asyncio.create_task(lab.trust.rotate(OPERATOR))
    while lab.authority.pending is None:
        await asyncio.sleep(0)
    await lab.trust.revoke(OPERATOR)
    await lab.store.sandboxes.save(row)
    with pytest.raises(WrongState, match="no next CA key"):
        await rotating
    assert lab.authority.trusted.text == lab.authority.public_key
    assert not await lets_in(first, lab, row), "the rotation taught it what is trusted now"


async def test_the_keys_lie_there_for_us_alone(lab: Lab, row: Sandbox, tmp_path: Path) -> None:
    await lab.trust.rotate(OPERATOR)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "ca").iterdir()}
    assert modes == {"user_ca": 0o600, "user_ca.old": 0o600}
    assert b"PRIVATE" not in (tmp_path / "ca/user_ca.old").read_bytes()


async def test_a_second_change_waits_until_the_first_is_over(lab: Lab, row: Sandbox) -> None:
    await lab.trust.rotate(OPERATOR)
    with pytest.raises(WrongState, match="is trusted until"):
        await lab.trust.rotate(OPERATOR)


async def test_a_guest_that_is_away_holds_up_nobody_and_is_named(
    lab: Lab, row: Sandbox, first: CertificateAuthority, tmp_path: Path
) -> None:
    away = sshd_at(tmp_path / "away", lab.authority)
    away.stop()
    await lab.store.sandboxes.insert(row_of(2, away, lab.authority.trusted.mark))
    told = await lab.trust.rotate(OPERATOR)
    assert told.behind == ["box-2"]
    assert await lets_in(lab.authority, lab, row)


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.STOPPED, Phase.LOST])
async def test_a_guest_that_stands_still_is_told_when_it_wakes(
    lab: Lab, row: Sandbox, sshd: SshServer, phase: Phase
) -> None:
    await lab.store.sandboxes.save(row.model_copy(update={"phase": phase}))
    assert (await lab.trust.rotate(OPERATOR)).behind == []
    assert len(keys_in(row)) == 1


async def test_a_guest_that_is_being_made_is_waited_for(
    lab: Lab, row: Sandbox, first: CertificateAuthority
) -> None:
    being_made = row.model_copy(update={"phase": Phase.CREATING})
    await lab.store.sandboxes.save(being_made)
    rotating = asyncio.create_task(lab.trust.rotate(OPERATOR))
    while lab.authority.pending is None:
        await asyncio.sleep(0)
    done, _ = await asyncio.wait([rotating], timeout=1)
    assert not done and lab.authority.public_key == first.public_key
    await lab.store.sandboxes.save(row)
    await rotating
    assert await lets_in(lab.authority, lab, row)


def killed(operation: str, step: str, dsn: str, folder: Path) -> None:
    """A process that changes the key, and dies there."""
    argv = [sys.executable, "-P", "-m", "tests.service.guests.rotating", dsn, str(folder), operation]
    environment = {**os.environ, "FLUID_KILL_AT": f"{operation}.{step}", "PYTHONPATH": str(CHECKOUT)}
    assert subprocess.run(argv, env=environment, timeout=CHILD_S, check=False).returncode == -9


@pytest.mark.parametrize("step", ["next key", "revoked"])
async def test_a_revocation_that_was_cut_off_is_whole_when_it_is_made_again(
    lab: Lab, first: CertificateAuthority, tmp_path: Path, empty_dsn: str, step: str
) -> None:
    await asyncio.to_thread(killed, "revoke", step, empty_dsn, tmp_path)
    async with opened(lab.store, tmp_path) as next_start:
        await next_start.trust.revoke(OPERATOR)  # as a release of the panic does
        assert next_start.authority.trusted.text == next_start.authority.public_key != first.public_key
    assert {file.name for file in (tmp_path / "ca").iterdir()} == {"user_ca"}


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_any_step_leaves_a_change_that_the_next_start_finishes(
    lab: Lab, row: Sandbox, first: CertificateAuthority, tmp_path: Path, empty_dsn: str, step: str
) -> None:
    await asyncio.to_thread(killed, "rotate", step, empty_dsn, tmp_path)
    async with opened(lab.store, tmp_path) as next_start:
        assert await lets_in(next_start.authority, lab, row)  # whichever signs: nobody is locked out
        await next_start.trust.keep()
        told = await next_start.trust.view(OPERATOR)
        assert told.current.public_key != first.public_key
        assert told.old is not None and told.old.public_key == first.public_key
        assert (told.pending, told.behind) == (None, [])
        assert sorted(keys_in(row)) == sorted([first.public_key, told.current.public_key])
        assert await lets_in(next_start.authority, lab, row) and await lets_in(first, lab, row)
    assert {file.name for file in (tmp_path / "ca").iterdir()} == {"user_ca", "user_ca.old"}


async def test_a_guest_whose_ssh_refuses_us_learns_by_the_channel_of_its_host(
    store: Store, sshd: SshServer
) -> None:
    told: list[tuple[str, str]] = []

    async def trust(domain: str, text: str) -> None:
        told.append((domain, text))

    async def write(*_: object, **__: object) -> None:
        raise GuestDown("it refuses our certificate", remedy="")

    hypervisor = SimpleNamespace(trust=trust)
    host = SimpleNamespace(require=lambda: hypervisor, way=SimpleNamespace(link=None))
    parts = SimpleNamespace(
        config=None,
        store=store,
        events=None,
        audit=None,
        policy=None,
        hosts=SimpleNamespace(named=lambda _: host),
        guests=None,
        commands=None,
        files=SimpleNamespace(write=write),
    )
    row = await store.sandboxes.insert(row_of(1, sshd, "old").model_copy(update={"domain": "d-1"}))
    await Fleet(cast("FleetParts", parts)).teach(row, keys := TrustedKeys("a\nb"))
    assert told == [("d-1", "a\nb")]
    assert (await store.sandboxes.get(row.id)).ca == keys.mark
