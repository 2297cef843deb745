"""The link to another host: believed by its key only, found again, never waited for in vain."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pty
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from backend.errors import (
    ConfigError,
    FluidError,
    GuestDown,
    HypervisorDown,
    HypervisorFailed,
    TimedOut,
    TooLarge,
)
from backend.guests import (
    CertificateAuthority,
    Guest,
    GuestCommands,
    GuestConnections,
    HostLink,
    fetch_host_key,
    hosts,
    make_host_key,
    shell_argv,
)
from backend.guests.jump import proxy_command
from backend.places import SshDestination
from tests.fix_sshd import HostSshd, make_sshd

__all__ = ["make_sshd"]

MakeSshd = Callable[[str], HostSshd]
LIMIT_S = 20.0
SOON_S = 3.0


@asynccontextmanager
async def linked(
    ssh: SshDestination, folder: Path, name: str = "kvm-01", **options: Any
) -> AsyncIterator[HostLink]:
    link = HostLink(name, ssh, folder / "run", **options)
    try:
        yield link
    finally:
        await link.close()


async def opened(link: HostLink) -> None:
    """sshd takes a moment to listen: the link tries again by itself."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await link.open()
                return
            except HypervisorDown:
                await asyncio.sleep(0.05)


# --- whom it believes ----------------------------------------------------------------------------------


async def test_what_a_program_on_the_host_says_comes_back(make_sshd: MakeSshd, tmp_path: Path) -> None:
    async with linked(make_sshd("a").destination, tmp_path) as link:
        await opened(link)
        assert link.up
        assert await link.run(["printf", "%s|", "a b", "$HOME", "'\"; exit 3"]) == b"a b|$HOME|'\"; exit 3|"


@pytest.mark.parametrize("known", ["", "another"], ids=["an unknown key", "another key"])
async def test_a_host_key_that_is_not_known_is_refused_and_not_learnt(
    make_sshd: MakeSshd, tmp_path: Path, known: str
) -> None:
    server = make_sshd("a")
    line = f"[127.0.0.1]:{server.port} {make_host_key()[1]}\n" if known else ""
    file = server.folder / "known_hosts"
    async with linked(server.destination, tmp_path) as link:
        await opened(link)  # it listens
    file.write_text(line)
    before = server.log.count("Accepted publickey")
    async with linked(server.destination, tmp_path) as link:
        with pytest.raises(HypervisorDown, match="a host key that no file of known hosts holds") as refused:
            await link.open()
        assert str(file) in refused.value.remedy and "fingerprint" in refused.value.remedy
    assert file.read_text() == line
    assert server.log.count("Accepted publickey") == before, "nobody logged in"


async def test_hashed_known_hosts_are_honoured(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd("a")
    file = server.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, stderr=subprocess.DEVNULL)
    assert file.read_text().startswith("|1|")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)


async def test_the_users_ssh_config_holds(
    make_sshd: MakeSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, beyond = make_sshd("a"), make_sshd("b")
    config = tmp_path / "home/.ssh/config"
    config.parent.mkdir(parents=True)
    text = "".join(
        f"Host {name}\n  HostName 127.0.0.1\n  Port {each.port}\n  User root\n"
        f"  IdentityFile {each.folder}/key\n  UserKnownHostsFile {each.folder}/known_hosts\n{more}"
        for name, each, more in (("kvm-01", server, ""), ("kvm-02", beyond, "  ProxyJump kvm-01\n"))
    )
    config.write_text(text)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    async with linked(SshDestination("kvm-01"), tmp_path) as link:
        await opened(link)
    async with linked(SshDestination("kvm-02"), tmp_path) as link:
        await opened(link)
    assert "Accepted publickey" in beyond.log
    config.write_text(
        text.replace(f"UserKnownHostsFile {server.folder}/known_hosts", "UserKnownHostsFile none")
    )
    for name in ("kvm-01", "kvm-02"):
        async with linked(SshDestination(name), tmp_path) as link:
            with pytest.raises(HypervisorDown, match="`UserKnownHostsFile none` for kvm-01"):
                await link.open()
    with pytest.raises(ConfigError, match="`UserKnownHostsFile none` for kvm-01"):
        await fetch_host_key(SshDestination("kvm-02"))


async def test_a_key_that_is_refused_and_a_file_that_is_not_there_are_told(
    make_sshd: MakeSshd, tmp_path: Path
) -> None:
    server, other = make_sshd("a"), make_sshd("b")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
    stranger = dataclasses.replace(server.destination, key=other.folder / "key")
    async with linked(stranger, tmp_path) as link:
        with pytest.raises(HypervisorDown, match="it refuses our key"):
            await link.open()
    nowhere = dataclasses.replace(server.destination, key=tmp_path / "nowhere")
    async with linked(nowhere, tmp_path) as link:
        with pytest.raises(HypervisorDown, match="nowhere: No such file") as refused:
            await link.open()
        assert "`key`" in refused.value.remedy


async def test_the_fingerprint_is_the_one_that_openssh_shows(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd("a")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
    shown = await fetch_host_key(SshDestination("127.0.0.1", port=server.port))
    told = subprocess.run(
        ["ssh-keygen", "-lf", str(server.folder / "host_key")], check=True, capture_output=True, text=True
    ).stdout
    assert shown.fingerprint in told.split()
    assert shown.line == " ".join((server.folder / "known_hosts").read_text().split()[:3])


async def test_a_machine_without_ssh_shows_no_fingerprint(tmp_path: Path) -> None:
    async with listener() as port:
        with pytest.raises(FluidError, match="shows no host key within"):
            await fetch_host_key(SshDestination("127.0.0.1", port=port), timeout_s=0.5)
    with pytest.raises(FluidError, match="shows no host key: Connection refused"):
        await fetch_host_key(SshDestination("127.0.0.1", port=port))


# --- what is run there ---------------------------------------------------------------------------------


async def test_a_program_on_the_host_has_limits(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd("a")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
        with pytest.raises(HypervisorFailed, match="`sh` on host kvm-01 ended with 3: no such bridge"):
            await link.run(["sh", "-c", "echo no such bridge >&2; exit 3"])
        with pytest.raises(TimedOut, match=r"took over 0\.5 s"):
            await link.run(["sleep", "60"], timeout_s=0.5)
        async with asyncio.timeout(LIMIT_S):
            while "sleep" in server.programs():
                await asyncio.sleep(0.02)
        with pytest.raises(TooLarge, match="more than 1000 bytes"):
            await link.run(["cat", "/dev/zero"], limit_bytes=1000)
        flood = "head -c 8000000 /dev/zero >&2; echo done"
        assert await link.run(["sh", "-c", flood]) == b"done\n"
        assert await link.run(["head", "-c", "1000", "/dev/zero"], limit_bytes=1000) == bytes(1000)


# --- when it fails -------------------------------------------------------------------------------------


async def test_a_host_that_comes_back_is_found_again(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd("a")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
        server.stop()
        for _ in range(2):  # the second is told at once
            with pytest.raises(HypervisorDown, match=r"host kvm-01 .* is lost since 20.* UTC: .*"):
                await link.run(["true"])
        assert not link.up and link.lost_since is not None
        started = time.monotonic()
        with pytest.raises(HypervisorDown, match=r"Connection refused; (next try in|it is being tried)"):
            await link.run(["true"])
        assert time.monotonic() - started < 0.1
        server.start()
        await opened(link)
        assert await link.run(["echo", "again"]) == b"again\n"
        assert link.lost_since is None


async def test_a_short_outage_is_waited_for(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd("a")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
        server.stop()
        server.start()
        assert await link.run(["echo", "on"]) == b"on\n"


async def test_a_host_that_hangs_costs_its_callers_a_limit_and_others_nothing(
    make_sshd: MakeSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DIAL_TIMEOUT_S", 1.0)
    hanging, well = make_sshd("a"), make_sshd("b")
    async with (
        linked(hanging.destination, tmp_path) as bad,
        linked(well.destination, tmp_path, "kvm-02") as good,
    ):
        await opened(bad)
        await opened(good)
        monkeypatch.setattr(hosts, "CHANNEL_TIMEOUT_S", 0.5)
        hanging.signal(signal.SIGSTOP)
        try:
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(_told(bad.run(["true"], timeout_s=1.0)))
                started = time.monotonic()
                assert await good.run(["echo", "well"]) == b"well\n"
                assert time.monotonic() - started < 1.0 and not slow.done()
            assert isinstance(slow.result(), TimedOut)
            (await bad.connection()).abort()  # as the keepalive does after its 20 s
            started = time.monotonic()
            assert isinstance(await _told(bad.run(["true"])), HypervisorDown)
            assert time.monotonic() - started < 2.0, "the dial's limit"
            started = time.monotonic()
            assert "no answer; " in str(await _told(bad.run(["true"])))
            assert time.monotonic() - started < 0.1, "it is known to hang"
        finally:
            hanging.signal(signal.SIGCONT)
        await opened(bad)


async def test_a_silent_connection_is_given_up(
    make_sshd: MakeSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(hosts, "DIAL_TIMEOUT_S", 0.5)
    server = make_sshd("a")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
        server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(LIMIT_S):
                while link.up:
                    await asyncio.sleep(0.05)
        finally:
            server.signal(signal.SIGCONT)


async def _told(work: Any) -> BaseException | None:
    try:
        await work
    except FluidError as error:
        return error
    return None


# --- libvirt's socket ----------------------------------------------------------------------------------


@asynccontextmanager
async def echo_at(path: Path) -> AsyncIterator[None]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(echo, path)
    yield
    server.close()


async def test_the_socket_to_libvirt_survives_the_link(make_sshd: MakeSshd, open_folder: Path) -> None:
    server = make_sshd("a")
    far = open_folder / "far"
    async with (
        echo_at(far),
        linked(server.destination, open_folder, libvirt_socket=str(far)) as link,
    ):
        await opened(link)
        near = await link.libvirt_socket()
        assert near.stat().st_mode & 0o777 == 0o600 and near.parent.stat().st_mode & 0o777 == 0o700
        assert await link.libvirt_uri() == f"qemu:///system?socket={near}"
        reader, writer = await asyncio.open_unix_connection(near)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        server.stop()
        async with asyncio.timeout(SOON_S):
            assert await reader.read() == b"", "who was connected is told"
        writer.close()
        server.start()
        await opened(link)
        reader, writer = await asyncio.open_unix_connection(near)
        writer.write(b"after")
        writer.write_eof()
        assert await reader.read() == b"after"
        writer.close()
    assert not near.exists()


async def test_much_goes_through_the_socket_unharmed(make_sshd: MakeSshd, open_folder: Path) -> None:
    far, data = open_folder / "far", os.urandom(1024**2) * 32
    async with (
        echo_at(far),
        linked(make_sshd("a").destination, open_folder, libvirt_socket=str(far)) as link,
    ):
        await opened(link)
        reader, writer = await asyncio.open_unix_connection(await link.libvirt_socket())

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            back = group.create_task(reader.read())
        writer.close()
        assert back.result() == data


async def test_a_caller_of_a_lost_host_is_turned_away_at_once(make_sshd: MakeSshd, open_folder: Path) -> None:
    server = make_sshd("a")
    async with linked(server.destination, open_folder) as link:
        await opened(link)
        near = await link.libvirt_socket()
        server.stop()
        await _told(link.run(["true"]))
        async with asyncio.timeout(SOON_S):
            reader, writer = await asyncio.open_unix_connection(near)
            assert await reader.read() == b""
            writer.close()


async def test_a_libvirt_that_does_not_open_is_told_with_what_mends_it(
    make_sshd: MakeSshd, tmp_path: Path, open_folder: Path
) -> None:
    far = open_folder / "libvirt-sock"
    async with linked(make_sshd("a").destination, tmp_path, libvirt_socket=str(far)) as link:
        await opened(link)
        with pytest.raises(HypervisorDown, match=f"host kvm-01 .*{far} does not open: ") as refused:
            await link.must_reach_libvirt()
        assert "usermod -aG libvirt" in refused.value.remedy
        async with echo_at(far):
            await link.must_reach_libvirt()


async def test_a_socket_path_that_is_too_long_is_refused(make_sshd: MakeSshd, tmp_path: Path) -> None:
    link = HostLink("kvm-01", SshDestination("x"), tmp_path / ("d" * 100))
    with pytest.raises(ConfigError, match="too long for a socket"):
        await link.libvirt_socket()


# --- guests behind it ----------------------------------------------------------------------------------


@asynccontextmanager
async def listener() -> AsyncIterator[int]:
    """A port of the loopback that takes connections and says nothing."""
    server = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(0), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_guest_behind_its_host_is_used_like_any_other(
    make_sshd: MakeSshd, own_sshd: Any, ca: CertificateAuthority, tmp_path: Path
) -> None:
    server = make_sshd("a")
    guest = dataclasses.replace(own_sshd.guest, via="kvm-01")
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
        connections = GuestConnections(ca, {"kvm-01": link})
        commands = GuestCommands(connections)
        await connections.ready(guest, timeout_s=LIMIT_S)
        assert await connections.answers(guest)
        done = await commands.run(guest, "echo $SSH_CONNECTION", timeout_s=LIMIT_S)
        assert done.exit_code == 0
        client_port = int(done.stdout.split()[1])
        assert f" {client_port} " not in _ports_of(os.getpid()), "the host makes the connection, not we"
        stranger = dataclasses.replace(guest, name="stranger", host_key_public=make_host_key()[1])
        with pytest.raises(GuestDown, match="another host key"):
            await connections.connect(stranger, timeout_s=1)
        server.stop()
        with pytest.raises(GuestDown, match=r"host kvm-01 .* is lost since") as refused:
            await commands.run(guest, "true", timeout_s=LIMIT_S)
        assert "fluid sandboxes show own" in refused.value.remedy
        assert not await connections.answers(guest)
        server.start()
        await opened(link)
        assert (await commands.run(guest, "true", timeout_s=LIMIT_S)).exit_code == 0
        own_sshd.stop()
        with pytest.raises(GuestDown, match="Connection refused"):
            await connections.connect(dataclasses.replace(guest, name="gone"), timeout_s=1)
        await commands.close()
        await connections.close()


def _ports_of(pid: int) -> str:
    """The local ports of a process's TCP sockets, each between blanks."""
    shown = subprocess.run(["ss", "-tnpH"], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in shown.splitlines() if f"pid={pid}," in line]
    return " " + " ".join(words[3].rpartition(":")[2] for words in lines) + " "


async def test_a_guest_that_says_nothing_costs_its_limit_only(
    make_sshd: MakeSshd, ca: CertificateAuthority, tmp_path: Path
) -> None:
    async with listener() as port, linked(make_sshd("a").destination, tmp_path) as link:
        await opened(link)
        connections = GuestConnections(ca, {"kvm-01": link})
        guest = Guest(
            name="mute", address="127.0.0.1", port=port, via="kvm-01", host_key_public=make_host_key()[1]
        )
        started = time.monotonic()
        with pytest.raises(GuestDown, match="no answer"):
            await connections.connect(guest, timeout_s=1)
        assert time.monotonic() - started < SOON_S
        await connections.close()


async def test_a_guest_of_an_unknown_host_is_told_so(ca: CertificateAuthority) -> None:
    connections = GuestConnections(ca)
    guest = Guest(name="lost", address="127.0.0.1", via="kvm-09", host_key_public=make_host_key()[1])
    with pytest.raises(GuestDown, match="host kvm-09 is not configured"):
        await connections.connect(guest, timeout_s=1)
    assert not await connections.answers(guest)


async def test_what_opens_late_is_closed_and_nobody_uses_it(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """A guest whose queue is full takes the host's connection when its kernel asks again, a second later."""
    loop = asyncio.get_running_loop()
    made: list[asyncssh.SSHTCPSession[bytes]] = []

    def session() -> asyncssh.SSHTCPSession[bytes]:
        made.append(asyncssh.SSHTCPSession())
        return made[-1]

    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(linked(make_sshd("a").destination, tmp_path))
        await opened(link)
        busy = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        busy.setblocking(False)
        fills = stack.enter_context(socket.create_connection(busy.getsockname()))
        with pytest.raises(TimeoutError):
            await link.dial(session, *busy.getsockname(), timeout_s=0.3)
        async with asyncio.timeout(LIMIT_S):
            first, peer = await loop.sock_accept(busy)
            assert peer == fills.getsockname()
            late, _ = await loop.sock_accept(busy)
            stack.callback(first.close)
            stack.callback(late.close)
            assert await loop.sock_recv(late, 1) == b"", "hung up on, and nothing was sent"
        assert not made


async def test_a_local_forward_leads_to_the_guest_while_it_is_held(
    make_sshd: MakeSshd, own_sshd: Any, ca: CertificateAuthority, tmp_path: Path
) -> None:
    async with linked(make_sshd("a").destination, tmp_path) as link:
        await opened(link)
        async with link.forward_local(own_sshd.guest.address, own_sshd.guest.port) as (address, port):
            assert address == "127.0.0.1"
            forwarded = dataclasses.replace(own_sshd.guest, address=address, port=port)
            connections = GuestConnections(ca)
            assert await connections.ready(forwarded, timeout_s=LIMIT_S) < LIMIT_S
            await connections.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address, port)


# --- a shell through it --------------------------------------------------------------------------------


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


async def test_a_shell_goes_through_the_host_and_needs_no_backend(
    make_sshd: MakeSshd, own_sshd: Any, ca: CertificateAuthority, tmp_path: Path
) -> None:
    server = make_sshd('it\'s 100% "odd" $HOME %h;#~ \\x')
    async with linked(server.destination, tmp_path) as link:
        await opened(link)
    argv = await shell_argv(ca, own_sshd.guest, tmp_path / "login", through=server.destination)
    code, seen = await asyncio.to_thread(talk_on_a_terminal, argv, b"id -un; exit 5\r")
    assert code == 5, seen
    assert server.log.count("Accepted publickey") == 2, "the link before, the shell's own client now"
    (server.folder / "known_hosts").write_text("")
    argv = await shell_argv(ca, own_sshd.guest, tmp_path / "login", through=server.destination)
    code, seen = await asyncio.to_thread(talk_on_a_terminal, argv, b"")
    assert code == 255 and b"Host key verification failed" in seen


def test_the_way_through_a_host_is_a_command_of_whole_words() -> None:
    host = SshDestination("fe80::1%eth0", "CORP\\o.d-d user", 2222, Path("/a 'b' %h/k"), Path('/c"d\\e'))
    command = proxy_command("/usr/bin/ssh", host, "10.231.0.10", 22)
    words = shlex.split(command.replace("%%", "%"))  # what OpenSSH leaves, and what the shell makes of it
    assert words[0] == "/usr/bin/ssh"
    last = ["-l", "CORP\\o.d-d user", "-p", "2222", "-W", "[10.231.0.10]:22", "--", "fe80::1%eth0"]
    assert words[-len(last) :] == last
    assert "IdentityFile=\"/a 'b' %%h/k\"" in words
    assert 'UserKnownHostsFile="/c\\"d\\\\e"' in words
    assert {"StrictHostKeyChecking=yes", "ForwardAgent=no", "BatchMode=yes", "IdentitiesOnly=yes"} <= set(
        words
    )
    assert "%" not in command.replace("%%", "")
