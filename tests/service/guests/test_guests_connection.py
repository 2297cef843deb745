"""Who is answered: our host key only, and only while the certificate lives; a dead guest is told soon."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from backend.errors import CommandLost, ConfigError, GuestDown, InvalidValue
from backend.guests import (
    CertificateAuthority,
    Guest,
    GuestCommands,
    GuestConnections,
    GuestFiles,
    make_client_key,
    make_host_key,
    shell_argv,
    sweep_keys,
)

LIMIT_S = 20.0


async def test_a_guest_is_ready_when_its_first_command_works(
    connections: GuestConnections, guest: Guest
) -> None:
    await connections.drop(guest.name)
    assert 0 < await connections.ready(guest, timeout_s=LIMIT_S) < LIMIT_S


async def test_another_host_key_is_refused_with_words(connections: GuestConnections, guest: Guest) -> None:
    other = dataclasses.replace(guest, name="other", host_key_public=make_host_key()[1])
    with pytest.raises(GuestDown, match="another host key") as caught:
        await connections.connect(other, timeout_s=1)
    assert "fluid sandboxes show other" in caught.value.remedy


async def test_a_host_key_that_changes_is_refused_on_the_next_dial(
    own_sshd: Any, connections: GuestConnections, commands: GuestCommands
) -> None:
    guest = own_sshd.guest
    await connections.connect(guest, timeout_s=LIMIT_S)
    expected = dataclasses.replace(guest, host_key_public=make_host_key()[1])
    with pytest.raises(GuestDown, match="another host key"):
        await commands.run(expected, "true", timeout_s=LIMIT_S)


async def test_a_stranger_to_the_ca_is_not_let_in(guest: Guest, tmp_path: Path) -> None:
    stranger = GuestConnections(CertificateAuthority(tmp_path / "other"))
    with pytest.raises(GuestDown, match="refuses our certificate"):
        await stranger.connect(guest, timeout_s=1)


def ssh_with(folder: Path, guest: Guest, certificate: str, private: str, *extra: str) -> list[str]:
    """OpenSSH's own client with one certificate, as an outsider would use it."""
    for name, text in (("k", private), ("k-cert.pub", certificate + "\n")):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    (folder / "hosts").write_text(f"[127.0.0.1]:{guest.port} {guest.host_key_public}\n")
    return [
        *("ssh", "-F", "none", "-i", str(folder / "k"), "-o", f"UserKnownHostsFile={folder / 'hosts'}"),
        *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
        *("-p", str(guest.port), *extra, "root@127.0.0.1"),
    ]


async def test_a_certificate_opens_the_guest_until_it_expires(
    guest: Guest, ca: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = make_client_key()
    good = ca.certify(public, ttl_s=60, key_id="test")
    argv = ssh_with(tmp_path, guest, good, private)
    assert subprocess.run([*argv, "echo in"], capture_output=True, timeout=LIMIT_S).stdout == b"in\n"
    monkeypatch.setattr(time, "time", lambda: time.clock_gettime(time.CLOCK_REALTIME) - 120)
    old = ca.certify(public, ttl_s=60, key_id="test")
    argv = ssh_with(tmp_path, guest, old, private)
    refused = subprocess.run([*argv, "echo in"], capture_output=True, timeout=LIMIT_S)
    assert (refused.returncode, refused.stdout) == (255, b"")
    assert b"Permission denied" in refused.stderr


async def test_a_certificate_permits_nothing_that_it_does_not_name(
    guest: Guest, ca: CertificateAuthority, tmp_path: Path
) -> None:
    private, public = make_client_key()
    (tmp_path / "cert.pub").write_text(ca.certify(public, ttl_s=60, key_id="test") + "\n")
    shown = subprocess.run(["ssh-keygen", "-L", "-f", tmp_path / "cert.pub"], capture_output=True, check=True)
    assert b"Extensions: (none)" in shown.stdout
    assert b"Principals: \n                root\n" in shown.stdout
    argv = ssh_with(tmp_path, guest, (tmp_path / "cert.pub").read_text(), private, "-tt")
    no_pty = subprocess.run([*argv, "tty"], capture_output=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)
    assert b"PTY allocation request failed" in no_pty.stderr


@pytest.mark.parametrize("ttl_s", [0, 59, 601])
def test_a_certificate_lives_one_to_ten_minutes(ca: CertificateAuthority, ttl_s: int) -> None:
    with pytest.raises(InvalidValue, match=str(ttl_s)):
        ca.certify(make_client_key()[1], ttl_s=ttl_s, key_id="test")


@pytest.mark.parametrize("key", ["", "junk", "ssh-ed25519 AAAA", "ssh-ed25519 \n"])
def test_a_key_that_is_none_is_refused(ca: CertificateAuthority, key: str) -> None:
    with pytest.raises(InvalidValue, match="public key"):
        ca.certify(key, ttl_s=60, key_id="test")


def test_the_ca_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = CertificateAuthority(tmp_path / "ca")
    assert CertificateAuthority(tmp_path / "ca").public_key == first.public_key
    assert [(f.name, f.stat().st_mode & 0o777) for f in (tmp_path / "ca").iterdir()] == [("user_ca", 0o600)]
    (tmp_path / "ca/user_ca").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        CertificateAuthority(tmp_path / "ca")


async def test_a_guest_that_is_not_there_is_told_in_time(connections: GuestConnections) -> None:
    nobody = Guest(name="gone", address="127.0.0.1", port=1, host_key_public=make_host_key()[1])
    started = time.monotonic()
    with pytest.raises(GuestDown, match=r"127\.0\.0\.1:1: Connection refused"):
        await connections.connect(nobody, timeout_s=0.5)
    assert time.monotonic() - started < 2


async def test_who_still_dials_for_a_guest_that_was_replaced_hangs_up(
    own_sshd: Any, connections: GuestConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, dialled, made = own_sshd.guest, asyncio.Event(), []
    dial = connections._dial

    async def slowly(to: Guest, timeout_s: float | None) -> Any:
        made.append(await dial(to, timeout_s))
        await dialled.wait()
        return made[0]

    monkeypatch.setattr(connections, "_dial", slowly)
    waiting = asyncio.create_task(connections.connection(guest, timeout_s=LIMIT_S))
    async with asyncio.timeout(LIMIT_S):
        while not made:
            await asyncio.sleep(0.01)
        connections._link(dataclasses.replace(guest, host_key_public=make_host_key()[1]))
        dialled.set()
        with pytest.raises(GuestDown, match="stopped while we dialled"):
            await waiting
        await made[0].wait_closed()


async def test_a_guest_that_comes_up_late_is_met(connections: GuestConnections, guest: Guest) -> None:
    await connections.drop(guest.name)
    late = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = late.sockets[0].getsockname()[1]
    late.close()
    await late.wait_closed()
    absent = dataclasses.replace(guest, name="late", port=port)
    waiting = asyncio.create_task(connections.ready(absent, timeout_s=LIMIT_S))
    await asyncio.sleep(0.2)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", guest.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", port)
    assert await waiting >= 0.2
    await connections.drop("late")
    server.close()


async def test_a_command_on_a_guest_that_dies_is_lost_and_the_next_is_told(
    own_sshd: Any, connections: GuestConnections, commands: GuestCommands
) -> None:
    guest = own_sshd.guest
    pid = own_sshd.process.pid
    seen = asyncio.Event()
    running = asyncio.create_task(
        commands.run(guest, "echo here; sleep 60", timeout_s=60, on_output=lambda *_: seen.set())
    )
    await seen.wait()
    sessions = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for session in sessions:
        os.kill(int(session), signal.SIGKILL)
    with pytest.raises(CommandLost) as caught:
        await running
    assert (caught.value.outcome.stdout, caught.value.outcome.exit_code) == (b"here\n", None)
    started = time.monotonic()
    with pytest.raises(GuestDown, match="own cannot be reached") as down:
        await commands.run(guest, "true", timeout_s=60)
    assert "fluid sandboxes show own" in down.value.remedy
    with pytest.raises(GuestDown):
        await GuestFiles(connections, commands).read(guest, b"/etc/hostname")
    assert time.monotonic() - started < 14


async def test_a_guest_that_falls_silent_is_told_in_time(
    own_sshd: Any,
    connections: GuestConnections,
    commands: GuestCommands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backend.guests.commands.PROBE_AFTER_S", 0.5)
    monkeypatch.setattr("backend.guests.commands.OPEN_TIMEOUT_S", 1.0)
    guest = own_sshd.guest
    pid = own_sshd.process.pid
    await connections.ready(guest, timeout_s=LIMIT_S)
    stopped = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    for one in stopped:
        os.kill(one, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(GuestDown, match="no answer"):
        await commands.run(guest, "true", timeout_s=60)
    assert time.monotonic() - started < 3
    for one in stopped:
        os.kill(one, signal.SIGCONT)
    assert (await commands.run(guest, "echo back", timeout_s=LIMIT_S)).stdout == b"back\n"


async def test_a_dropped_connection_is_dialled_again(
    connections: GuestConnections, commands: GuestCommands, guest: Guest
) -> None:
    await connections.drop(guest.name)
    assert (await commands.run(guest, "echo a", timeout_s=LIMIT_S)).stdout == b"a\n"
    (await connections.connection(guest)).abort()
    assert (await commands.run(guest, "echo b", timeout_s=LIMIT_S)).stdout == b"b\n"


def talk_on_a_terminal(argv: list[str], text: bytes) -> tuple[int, bytes]:
    """Run ``argv`` on a terminal of its own, type ``text``, read until it ends."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)  # noqa: S606 - the child of a fork
    os.write(terminal, text)
    seen = b""
    while True:
        try:
            data = os.read(terminal, 65_536)
        except OSError:
            break
        if not data:
            break
        seen += data
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def test_of_log_ins_that_are_over_nothing_stays(tmp_path: Path) -> None:
    for name in ("over", "over-without-keys", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "known_hosts").touch()
    (tmp_path / "over" / "key").touch()
    for name in ("over", "over-without-keys"):
        os.utime(tmp_path / name, (0, 0))
    sweep_keys(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]


async def test_a_shell_opens_on_a_terminal_and_cannot_reach_the_client(
    guest: Guest, ca: CertificateAuthority, tmp_path: Path
) -> None:
    folder = tmp_path / "login"
    argv = await shell_argv(ca, guest, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}
    typed = b"tty; id -un\r~C\r~?\rexit 5\r"
    code, seen = await asyncio.to_thread(talk_on_a_terminal, argv, typed)
    assert code == 5
    assert b"/dev/pts/" in seen
    assert b"Supported escape sequences" not in seen
    assert b"ssh> " not in seen
