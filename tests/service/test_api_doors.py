"""Real sockets, real uids, the SDK on one side and the doors on the other; only the services are stubs."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend import __version__
from backend.api import peers
from backend.api.server import bind_door
from backend.client import AsyncFluid, Fluid
from backend.config import Config, ServerConfig
from backend.daemon import serve
from backend.errors import AlreadyRunning, BackendDown, ConfigError, RoleDenied, SandboxNotFound, TooLarge
from backend.models import Component
from backend.paths import Paths
from tests.fix_doors import NOBODY_UID, Backend, as_uid, needs_ipv6

ROOT = Path(__file__).resolve().parents[2]
GROUP = grp.getgrgid(1).gr_name  # any group that root's children can be given and nobody is not in


async def test_the_doors_are_closed_to_those_outside_their_group(backend: Backend) -> None:
    config = Config(server=ServerConfig(socket_group_agents=GROUP))
    async with backend.serving(config):
        mode = backend.paths.agent_socket.stat()
        assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, 1)
        assert stat.S_IMODE(backend.paths.operator_socket.stat().st_mode) == 0o660
        outside, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami")
        inside, body = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami", [1])
    assert outside == 0
    assert inside == 200
    assert (body["uid"], body["role"], GROUP in body["groups"]) == (NOBODY_UID, "agent", True)
    assert body["pid"] > 1


async def test_a_user_of_both_lists_is_served_on_the_agent_door_only(backend: Backend) -> None:
    config = Config(
        operators=[f"@{GROUP}", "root"],
        agents=["nobody"],
        server=ServerConfig(socket_group_agents=GROUP, socket_group_operators=GROUP),
    )
    async with backend.serving(config):
        as_operator, told = await as_uid(NOBODY_UID, backend.paths.operator_socket, "/v1/whoami", [1])
        as_agent, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami", [1])
    assert (as_operator, as_agent) == (403, 200)
    assert "agent door only" in told["error"]


async def test_an_operator_who_names_no_door_is_at_the_machines_backend(
    backend: Backend, tmp_path: Path
) -> None:
    config = Config(operators=["nobody"], server=ServerConfig(socket_group_operators=GROUP))
    show = ("sandboxes", "show", "SBX-0000000a")
    async with backend.serving(config):
        inside = await _fluid_of_nobody(backend.paths.run, *show, groups=GROUP)
        outside = await _fluid_of_nobody(backend.paths.run, *show)
    assert "no sandbox SBX-0000000a" in inside.stderr, "so the backend says"
    assert inside.returncode == SandboxNotFound.exit_code
    assert outside.returncode == RoleDenied.exit_code
    assert "/run/fluid/operator.sock is closed to this user" in outside.stderr
    assert f"usermod -aG {GROUP} " in outside.stderr
    down = await _fluid_of_nobody(None, "status", groups=GROUP)
    assert down.returncode == BackendDown.exit_code
    assert "no backend answers at /run/fluid/operator.sock" in down.stderr
    assert "systemctl start fluid" in down.stderr


AS_NOBODY = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir /run/fluid
if [ -n "$1" ]; then
    mount --bind "$1" /run/fluid
else
    mount -t tmpfs -o mode=755 none /var/lib
    mkdir /var/lib/fluid
fi
groups=$2
shift 2
exec setpriv --reuid 65534 --regid 65534 "--groups=${groups:-65534}" "$@"
"""


async def _fluid_of_nobody(
    system: Path | None, *words: str, groups: str = ""
) -> subprocess.CompletedProcess[str]:
    """``fluid`` as an ordinary user, where the machine's backend has its doors in ``system``; None:
    it is installed and down."""
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    argv = ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh", str(system or ""), groups]
    argv += [sys.executable, "-P", "-B", "-m", "backend.cli", *words]
    return await asyncio.to_thread(
        lambda: subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=False, timeout=60, cwd="/"
        )
    )


async def test_root_is_no_operator_unless_named(backend: Backend) -> None:
    async with backend.serving(Config(operators=["nobody"])):
        with pytest.raises(RoleDenied, match="operators"):
            async with AsyncFluid(backend.paths.operator_socket) as fluid:
                await fluid.whoami()


async def test_without_lists_whoever_runs_it_is_operator_and_agent(backend: Backend) -> None:
    async with backend.serving(Config()):
        async with AsyncFluid(backend.paths.operator_socket) as operator:
            assert (await operator.whoami()).role == "operator"
        async with AsyncFluid(backend.paths.agent_socket) as agent:
            assert (await agent.whoami()).role == "agent"


async def test_an_agent_hears_that_the_backend_is_up_and_an_operator_how_each_part_is(
    backend: Backend,
) -> None:
    part = Component(name="libvirt secret-host", status="down", message="10.9.8.7 does not answer")
    backend.components = [part]
    async with backend.serving(Config()):
        async with AsyncFluid(backend.paths.agent_socket) as agent:
            assert await agent.health() == {"status": "ok", "version": __version__, "components": []}
        async with AsyncFluid(backend.paths.operator_socket) as operator:
            assert (await operator.health())["components"] == [part.model_dump(mode="json")]


async def test_an_sdk_error_is_the_class_of_its_code(backend: Backend) -> None:
    async with backend.serving(Config()), AsyncFluid(backend.paths.agent_socket) as fluid:
        with pytest.raises(SandboxNotFound) as missing:
            await fluid.sandbox("SBX-0000000b")
        with pytest.raises(TooLarge):
            await fluid.run("SBX-0000000a", "x" * 1_100_000)
    assert missing.value.remedy == "list yours"


@pytest.mark.parametrize("listen", [None, "127.0.0.1:0", pytest.param("[::1]:0", marks=needs_ipv6)])
async def test_both_clients_run_a_command_and_hear_it_as_it_prints(
    backend: Backend, listen: str | None
) -> None:
    heard: list[tuple[str, str]] = []

    def blocking() -> int | None:
        with Fluid(backend.url or backend.paths.agent_socket) as fluid:
            sandbox = fluid.create_sandbox("debian-12", agent_id="me")
            ran = sandbox.run("true", on_output=lambda name, text: heard.append((name, text)))
            assert fluid.whoami().uid == os.getuid()
            return ran.exit_code

    async with backend.serving(Config(server=ServerConfig(listen=listen))):
        assert await asyncio.to_thread(blocking) == 7
        async with AsyncFluid(backend.url or backend.paths.agent_socket) as fluid:
            sandbox = await fluid.create_sandbox("debian-12", agent_id="me")
            ran = await sandbox.run("true", on_output=lambda name, text: heard.append((name, text)))
    assert ran.exit_code == 7
    assert heard == [("stdout", "a\n"), ("stdout", "b\n")] * 2
    assert backend.fleet.actors[0].uid == os.getuid()


async def test_a_blocked_question_returns_when_the_operator_answers(backend: Backend) -> None:
    async with (
        backend.serving(Config()),
        AsyncFluid(backend.paths.agent_socket) as agent,
        AsyncFluid(backend.paths.operator_socket) as operator,
        asyncio.TaskGroup() as tasks,
    ):
        blocked = tasks.create_task(agent.drive(_question()))
        await asyncio.wait_for(backend.asks.asked.wait(), 10)
        assert not blocked.done()
        await operator.answer("ASK-00000001", True, "go on")
    assert blocked.result().approved


def _question() -> Any:
    from backend.client.calls import ask

    return ask("Drop it?", action_type="irreversible")


async def test_events_go_on_where_a_restart_cut_them(backend: Backend) -> None:
    seen: list[int] = []
    async with AsyncFluid(backend.paths.operator_socket) as fluid:
        feed = fluid.events(after=0)
        for _ in range(2):
            async with backend.serving(Config()):
                seen += [(await asyncio.wait_for(anext(feed), 10)).seq for _ in range(3)]
        await feed.aclose()  # type: ignore[attr-defined]
    assert seen[:3] == [1, 2, 3]
    assert seen == sorted(set(seen)), "no event twice"


async def test_a_stream_from_now_on_says_where_it_begins_before_anything_happens(backend: Backend) -> None:
    async with backend.serving(Config()):
        reader, writer = await asyncio.open_unix_connection(backend.paths.operator_socket)
        writer.write(b"GET /v1/events HTTP/1.1\r\nhost: fluid\r\n\r\n")
        said = await asyncio.wait_for(reader.readuntil(b"data: "), 10)
        writer.close()
    assert said.index(b"id: 0\n\n") < said.index(b"id: 1\nevent: ")


async def test_a_pane_stream_brings_rows_and_ends_with_the_pane(backend: Backend) -> None:
    async with backend.serving(Config()), AsyncFluid(backend.paths.operator_socket) as fluid:
        screens = [rows async for rows in fluid.pane_stream("%1")]
        cursors = [shown.cursor async for shown in fluid.pane_screens("%1")]
    assert screens == [["$ id", "uid=0(root)"], ["$ ls", "uid=0(root)"], ["$ "]]
    assert cursors == [None, (2, 0), (2, 0)]


@pytest.mark.parametrize(
    ("query", "second"),
    [
        ("", b'event: rows\ndata: {"rows":["$ ls","uid=0(root)"],"cursor":[2,0]}'),
        ("?deltas=true", b'event: changed\ndata: {"rows":{"0":"$ ls"},"cursor":[2,0]}'),
    ],
)
async def test_a_pane_stream_with_deltas_sends_the_rows_that_differ_alone(
    backend: Backend, query: str, second: bytes
) -> None:
    async with backend.serving(Config()):
        reader, writer = await asyncio.open_unix_connection(backend.paths.operator_socket)
        asked = f"GET /v1/panes/%251/stream{query} HTTP/1.1\r\nhost: fluid\r\nconnection: close\r\n\r\n"
        writer.write(asked.encode())
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    frames = [frame for frame in said.split(b"\n\n") if b"event: " in frame]
    assert [frame[frame.index(b"event: ") :] for frame in frames] == [
        b'event: rows\ndata: {"rows":["$ id","uid=0(root)"],"cursor":null}',
        second,
        b'event: rows\ndata: {"rows":["$ "],"cursor":[2,0]}',
    ]


async def test_it_stops_within_two_seconds_though_streams_are_open(backend: Backend) -> None:
    async with backend.serving(Config()) as stop, AsyncFluid(backend.paths.operator_socket) as fluid:
        feed = fluid.events(after=0)
        await asyncio.wait_for(anext(feed), 10)
        began = time.monotonic()
        stop.set()
        await asyncio.wait_for(backend.stopped.wait(), 10)
        assert time.monotonic() - began < 2
        await feed.aclose()  # type: ignore[attr-defined]
    assert not backend.paths.operator_socket.exists()


async def test_nobody_home_is_said_with_the_remedy(backend: Backend) -> None:
    with pytest.raises(BackendDown, match="no backend answers at") as blocking:
        Fluid(backend.paths.agent_socket).health()
    async with AsyncFluid(backend.paths.agent_socket) as fluid:
        with pytest.raises(BackendDown):
            await fluid.health()
    assert "fluid serve" in blocking.value.remedy


async def test_a_stale_socket_is_taken_over_and_a_served_one_is_not(backend: Backend) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(backend.paths.agent_socket))
    stale.close()
    async with backend.serving(Config()):
        with pytest.raises(AlreadyRunning, match=r"agent\.sock"):
            bind_door(backend.paths.agent_socket, None)
    assert not backend.paths.agent_socket.exists()


def test_an_unknown_socket_group_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-group") as refused:
        bind_door(tmp_path / "agent.sock", "no-such-group")
    assert refused.value.remedy == "groupadd --system no-such-group"


async def test_broken_http_gets_the_same_error_body(backend: Backend) -> None:
    async with backend.serving(Config()):
        reader, writer = await asyncio.open_unix_connection(backend.paths.agent_socket)
        writer.write(b"NONSENSE\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"] == "bad_request"


async def test_no_uid_shuts_the_agent_door_to_the_others(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "UID_CONNECTIONS", 2)
    async with backend.serving(Config(server=ServerConfig(socket_group_agents=GROUP))):
        held = [await asyncio.open_unix_connection(backend.paths.agent_socket) for _ in range(3)]
        assert await asyncio.wait_for(held[2][0].read(), 10) == b"", "closed at once"
        status, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami", [1])
        assert status == 200
        for _, writer in held:
            writer.close()


async def test_no_number_of_agents_uses_up_the_files_of_the_operator_door(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "AGENT_CONNECTIONS", 1)
    async with backend.serving(Config()):
        held = [await asyncio.open_unix_connection(backend.paths.agent_socket) for _ in range(2)]
        assert await asyncio.wait_for(held[1][0].read(), 10) == b"", "closed at once"
        held += [await asyncio.open_unix_connection(backend.paths.operator_socket) for _ in range(2)]
        async with AsyncFluid(backend.paths.operator_socket) as operator:
            assert (await operator.whoami()).role == "operator"
        for _, writer in held:
            writer.close()


def test_the_backend_takes_all_the_files_it_may_have_and_agents_a_share(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "a-file").touch()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert peers.share(peers.AGENT_CONNECTIONS) + peers.share(peers.TCP_CONNECTIONS) < 1024 / 2
        with pytest.raises(OSError, match="a-file"):
            serve(Config(), Paths.under(tmp_path / "a-file"))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
