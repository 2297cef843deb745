"""An operator types instead of an agent: a real tmux, a real pty, real doors, and two real uids."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.api import Services, serve_doors
from backend.approvals import Asks, Onlookers
from backend.audit import Audit
from backend.client import AsyncFluid
from backend.client.call import Call, nothing, path
from backend.config import Config, LimitConfig, ServerConfig
from backend.errors import AlreadyDecided, NoRoute, PaneNotFound, PaneTaken, RoleDenied, WrongState
from backend.fleet import Fleet
from backend.models import AskRequest, Event, Identity, Pane, Role, Sandbox, TakeOverEnd, now
from backend.panes import Panes, TakeOver
from backend.panes.taking import Mark
from backend.paths import Paths
from backend.store import EventBus, Store
from backend.tmux import TmuxServer
from tests.bench.terminal import Terminal
from tests.fix_demo import CHECKOUT
from tests.fix_doors import NOBODY_UID, SYSTEM_PYTHON, call_as
from tests.fix_panes import ANN, BOB, LIMIT_S, OPERATOR, OneSandbox, shell, until_shown

SECOND = Identity(uid=1009, name="berta", role=Role.OPERATOR)
AUDITOR = Identity(uid=1010, name="carl", role=Role.AUDITOR)


@asynccontextmanager
async def heard(bus: EventBus) -> AsyncIterator[Callable[[str], Awaitable[Event]]]:
    """``await next_of("pane.taken")``: the next such event from here on."""
    with bus.subscribe() as events:

        async def next_of(kind: str) -> Event:
            async with asyncio.timeout(LIMIT_S):
                async for event in events:
                    if event.kind == kind:
                        return event
            raise AssertionError("the bus ended")

        yield next_of


async def rows_of(audit: Audit, *actions: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Oldest first: action, step and data."""
    rows, _ = await audit.list()
    return [(row.action, row.step, row.data) for row in reversed(rows) if row.action in actions]


async def over(hands: TakeOver) -> TakeOverEnd:
    return await asyncio.wait_for(hands.over(), LIMIT_S)


async def test_an_operator_types_the_agent_is_refused_and_both_facts_are_in_the_audit(
    panes: Panes, bus: EventBus, audit: Audit
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with heard(bus) as next_of:
        async with panes.take_over(OPERATOR, pane.pane_id) as hands:
            told = await next_of("pane.taken")
            assert (told.sandbox_id, told.data["by"], told.data["taken"]) == ("SBX-1", "op", True)
            with pytest.raises(PaneTaken, match=r"op types into %\d+ since") as refused:
                await panes.send(ANN, pane.pane_id, text="id\n")
            assert "/v1/sandboxes/SBX-1/stream" in refused.value.remedy
            with pytest.raises(PaneTaken):
                await panes.close(ANN, pane.pane_id)
            await hands.type(b"echo geh$((40+2))eim\r")
            await until_shown(panes, pane.pane_id, "geh42eim")
            (seen,) = await panes.list(ANN)
            assert (seen.taken_by, seen.width, seen.height) == ("op", pane.width, pane.height)
            assert "geh42eim" in await panes.read(ANN, pane.pane_id), "its agent may look"
        assert (await next_of("pane.handed_back")).data["words"].startswith("you may type into")
    await panes.send(ANN, pane.pane_id, text="echo mine-again\n")
    await until_shown(panes, pane.pane_id, "mine-again")
    assert (await panes.list(ANN))[0].taken_by == ""
    rows = await rows_of(audit, "pane.take_over", "pane.hand_back")
    assert [row[:2] for row in rows] == [
        ("pane.take_over", "intent"),
        ("pane.take_over", "outcome"),
        ("pane.hand_back", "note"),
    ]
    assert rows[2][2]["typed_bytes"] == len(b"echo geh$((40+2))eim\r")
    tried, _ = await audit.list()
    refusals = [
        (row.action, row.actor_uid, row.id)
        for row in reversed(tried)
        if row.data.get("error") == PaneTaken.code
    ]
    assert refusals == [(action, ANN.uid, pane.pane_id) for action in ("pane.type", "pane.close")]
    assert "geh" not in repr(tried)


async def test_only_operators_and_only_a_live_pane_and_only_one_at_a_time(
    panes: Panes, bus: EventBus
) -> None:
    pane = await panes.open(ANN, "SBX-1")

    async def take(actor: Identity, pane_id: str = pane.pane_id) -> None:
        async with panes.take_over(actor, pane_id):
            raise AssertionError("taken")

    for actor in (ANN, BOB, AUDITOR):
        with pytest.raises(RoleDenied):
            await take(actor)
        with pytest.raises(RoleDenied):
            await panes.hand_back(actor, pane.pane_id)
    with pytest.raises(PaneNotFound):
        await take(OPERATOR, "%99")
    async with panes.take_over(OPERATOR, pane.pane_id):
        with pytest.raises(PaneTaken, match="op types") as refused:
            await take(SECOND)
        assert "force=true" in refused.value.remedy
        with pytest.raises(PaneTaken):
            await panes.send(SECOND, pane.pane_id, text="x")
    async with heard(bus) as next_of:
        await panes.send(ANN, pane.pane_id, text="exit\n")
        await next_of("pane.ended")
    with pytest.raises(WrongState):
        await take(OPERATOR)


async def test_another_operator_takes_it_and_the_first_is_told_who(panes: Panes, audit: Audit) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with (
        panes.take_over(OPERATOR, pane.pane_id) as first,
        panes.take_over(SECOND, pane.pane_id, True) as second,
    ):
        end = await over(first)
        assert (end.why, end.by) == ("taken", "berta")
        assert "berta has taken" in end.words
        await first.type(b"echo lost\r")
        await second.type(b"echo kept\r")
        rows = await until_shown(panes, pane.pane_id, "kept")
        assert not any("lost" in row for row in rows)
        with pytest.raises(PaneTaken, match="berta"):
            await panes.send(ANN, pane.pane_id, text="x")
    taken, _, first_end, second_end = [
        data
        for action, step, data in await rows_of(audit, "pane.take_over", "pane.hand_back")
        if (action, step) != ("pane.take_over", "outcome")
    ]
    assert "taken_from" not in taken
    assert {first_end["why"], second_end["why"]} == {"taken", "cut"}


async def test_any_operator_hands_it_back_and_the_one_who_typed_is_told(panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")

    async def hold() -> TakeOverEnd:
        async with panes.take_over(OPERATOR, pane.pane_id) as hands:
            holding.set()
            return await hands.over()

    holding = asyncio.Event()
    held = asyncio.create_task(hold())
    await asyncio.wait_for(holding.wait(), LIMIT_S)
    assert (await panes.hand_back(SECOND, pane.pane_id)).taken_by == ""
    end = await asyncio.wait_for(held, LIMIT_S)
    assert (end.why, end.by) == ("handed_back", "berta")
    assert (await panes.hand_back(SECOND, pane.pane_id)).taken_by == "", (
        "nobody types there: that is well too"
    )


async def test_it_ends_with_the_shell_and_with_the_sandbox(panes: Panes, bus: EventBus) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with panes.take_over(OPERATOR, pane.pane_id) as hands:
        await bus.publish("sandbox.changed", "sandbox", "SBX-2", "SBX-2", {"phase": "destroyed"})
        await bus.publish("sandbox.changed", "sandbox", "SBX-1", "SBX-1", {"phase": "destroyed"})
        assert (await over(hands)).why == "destroyed"
    async with panes.take_over(OPERATOR, pane.pane_id) as hands:
        await hands.type(b"exit\r")
        assert (await over(hands)).why == "closed"
    again = await panes.open(ANN, "SBX-1")
    async with panes.take_over(OPERATOR, again.pane_id) as hands:
        await panes.close(OPERATOR, again.pane_id)
        assert (await over(hands)).why == "closed"


async def test_what_an_agent_types_is_whole_before_an_operator_takes_over(panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")
    long = "x" * 20_000
    typing = asyncio.create_task(panes.send(ANN, pane.pane_id, text=f"printf '%s' '{long}' | wc -c #\n"))
    while not panes._hands.typing[pane.pane_id].locked():
        await asyncio.sleep(0)
    async with panes.take_over(OPERATOR, pane.pane_id) as hands:
        assert typing.done()
        await hands.type(b"echo after\r")
        await until_shown(panes, pane.pane_id, "after")
        assert "20000" in await panes.read(ANN, pane.pane_id)
    await typing


async def test_a_backend_that_was_killed_gives_the_pane_back_and_says_so(
    panes: Panes, tmux: TmuxServer, bus: EventBus, audit: Audit, fleet: OneSandbox
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    await tmux.mark_taken(pane.pane_id, str(Mark(1000, now(), "op")))  # as a backend that is killed leaves it
    assert (await panes.list(ANN))[0].taken_by == "op"
    again = TmuxServer(tmux.socket)
    await again.start()
    restarted = Panes(again, bus, audit, fleet, shell, LimitConfig())
    async with heard(bus) as next_of:
        running = asyncio.create_task(restarted.run())
        try:
            told = await next_of("pane.handed_back")
            assert "the backend was started again: you may type" in told.data["words"]
            await restarted.send(ANN, pane.pane_id, text="echo mine\n")
            await until_shown(restarted, pane.pane_id, "mine")
            assert (await restarted.list(ANN))[0].taken_by == ""
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await again.close()
    (row,) = await rows_of(audit, "pane.hand_back")
    assert (row[2]["taken_by"], row[2]["why"], row[2]["typed_bytes"]) == ("op", "restarted", None)


async def test_an_echo_does_not_wait_for_the_next_paint(panes: Panes) -> None:
    """A quarter of a second a key would be felt; whoever only looks still gets four paints a second."""
    pane = await panes.open(ANN, "SBX-1")
    await until_shown(panes, pane.pane_id, "$")
    async with panes.take_over(OPERATOR, pane.pane_id) as hands:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LIMIT_S):
            screens = panes.screens(OPERATOR, pane.pane_id)
            await anext(screens)
            began = loop.time()
            for number in range(1, 9):
                await hands.type(b"x")
                async for shown in screens:
                    if shown.rows[0].endswith("x" * number):
                        assert shown.cursor == (2 + number, 0)
                        break
            await screens.aclose()
    assert loop.time() - began < 8 * 0.25


# --- through the doors -----------------------------------------------------------------------------------


class Doors:
    """Real doors over real services; root and nobody are operators."""

    def __init__(self, folder: Path, services: Any) -> None:
        self.paths = Paths.under(folder / "home")
        self.paths.run.mkdir(parents=True)
        for place in (folder / "home", self.paths.run):
            place.chmod(0o755)
        self.services = services
        self.stop = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[AsyncFluid]:
        """A client of the first operator."""
        self.stop.clear()
        group = "nogroup"
        config = Config(
            operators=["root", "nobody"],
            agents=["root"],
            server=ServerConfig(socket_group_operators=group),
        )
        task = asyncio.create_task(
            serve_doors(cast("Services", self.services), config, self.paths, self.stop)
        )
        try:
            async with AsyncFluid(self.paths.operator_socket) as fluid:
                async with asyncio.timeout(LIMIT_S):
                    while not self.paths.operator_socket.exists():
                        await asyncio.sleep(0.01)
                    await fluid.whoami()
                yield fluid
        finally:
            self.stop.set()
            await asyncio.wait_for(task, LIMIT_S)

    async def second(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """The second operator calls, from a process of another uid."""
        door = self.paths.operator_socket
        return await asyncio.to_thread(call_as, NOBODY_UID, door, method, path, None, body or None)


@pytest.fixture
def doors(open_folder: Path, panes: Panes, store: Store, bus: EventBus, audit: Audit) -> Doors:
    services = SimpleNamespace(
        panes=panes,
        events=bus,
        audit=audit,
        onlookers=Onlookers(bus),
        asks=Asks(store, bus, audit, cast("Fleet", None)),
    )
    return Doors(open_folder, services)


async def test_bytes_go_one_way_and_words_the_other_over_the_operator_door(
    doors: Doors, panes: Panes
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with doors.serving() as fluid:
        async with fluid.take_over(pane.pane_id) as hands:
            await hands.type(b"echo over-the-door; ")
            await hands.type(b"")
            await hands.type("echo grüße\r".encode())
            await until_shown(panes, pane.pane_id, "grüße")
            with pytest.raises(PaneTaken, match="root types"):
                async with fluid.take_over(pane.pane_id):
                    pass
            await hands.type(b"echo last\r")
            await hands.hand_back()
            end = await hands.over()
        assert (end.why, end.by) == ("handed_back", "")
        assert await until_shown(panes, pane.pane_id, "last"), "what was typed last was not lost"
        assert (await fluid.panes())[0].taken_by == ""
        with pytest.raises(PaneNotFound):
            async with fluid.take_over("%77"):
                pass


async def test_a_long_session_is_not_held_to_the_size_of_a_body(
    doors: Doors, panes: Panes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.api.gate.BODY_LIMIT_BYTES", 2048)
    pane = await panes.open(ANN, "SBX-1")
    await panes.send(ANN, pane.pane_id, text="exec cat > /dev/null\n")
    async with doors.serving() as fluid, fluid.take_over(pane.pane_id) as hands:
        for _ in range(6):
            await hands.type((b"x" * 63 + b"\r") * 8)
        await hands.hand_back()
        assert (await hands.over()).why == "handed_back"
    rows, _ = await doors.services.audit.list(action="pane.hand_back")
    assert rows[0].data["typed_bytes"] == 6 * 64 * 8


async def test_a_connection_that_breaks_gives_the_pane_back(
    doors: Doors, panes: Panes, bus: EventBus
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with doors.serving() as fluid, heard(bus) as next_of:
        async with fluid.take_over(pane.pane_id) as hands:
            await hands.type(b"echo so far")
            await next_of("pane.taken")
        await next_of("pane.handed_back")
        await panes.send(ANN, pane.pane_id, key="C-u")
    rows, _ = await doors.services.audit.list(action="pane.hand_back")
    assert rows[0].data["why"] == "cut"


async def test_a_backend_that_stops_says_so(doors: Doors, panes: Panes) -> None:
    pane = await panes.open(ANN, "SBX-1")
    async with doors.serving() as fluid, fluid.take_over(pane.pane_id) as hands:
        doors.stop.set()
        end = await hands.over()
        assert end.why == "stopping"
    assert (await panes.list(ANN))[0].taken_by == ""


HOLD_AS = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
head = ["POST " + sys.argv[2] + " HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "", ""]
s.sendall("\\r\\n".join(head).encode())
seen = b""
while b"event: taken" not in seen:
    part = s.recv(4096)
    if not part: sys.exit(seen.decode())
    seen += part
s.sendall(b"c\\r\\necho second\\r\\r\\n")
print("holding", flush=True)
sys.stdin.read()
"""


async def test_two_real_uids_the_second_takes_what_the_first_holds(
    doors: Doors, panes: Panes, bus: EventBus
) -> None:
    pane = await panes.open(ANN, "SBX-1")
    where = f"/v1/panes/%25{pane.pane_id[1:]}/take-over"
    async with doors.serving() as fluid, fluid.take_over(pane.pane_id) as hands:
        status, told = await doors.second("POST", where)
        assert (status, told["error_code"], told["details"]["by"]) == (409, "pane_taken", "root")
        process = await asyncio.create_subprocess_exec(
            SYSTEM_PYTHON,
            *("-S", "-c", HOLD_AS, str(doors.paths.operator_socket), f"{where}?force=true"),
            user=NOBODY_UID,
            group=NOBODY_UID,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        end = await hands.over()
        assert (end.why, end.by) == ("taken", "nobody")
        await until_shown(panes, pane.pane_id, "second")
        async with heard(bus) as next_of:
            process.kill()
            await next_of("pane.handed_back")
        await process.wait()


async def test_an_agent_hears_of_it_on_its_own_door_and_its_sdk_says_who_types(
    doors: Doors, panes: Panes, fleet: OneSandbox
) -> None:
    assert fleet.sandbox is not None
    mine = fleet.sandbox.model_copy(update={"id": "SBX-00000001"})

    async def get(actor: Identity, sandbox_id: str) -> Sandbox:
        return mine

    fleet.get = fleet.running = get  # type: ignore[method-assign]
    doors.services.fleet = fleet
    pane = await panes.open(Identity(uid=os.getuid(), name="root"), mine.id)
    async with doors.serving() as fluid, AsyncFluid(doors.paths.agent_socket) as agent:
        frames = agent._frames(Call("GET", path("sandboxes", mine.id, "stream"), nothing))
        assert (await anext(frames)).json()["type"] == "connected"
        async with fluid.take_over(pane.pane_id):
            told = (await asyncio.wait_for(anext(frames), LIMIT_S)).json()
            assert (told["type"], told["data"]["pane_id"], told["data"]["by"]) == (
                "pane",
                pane.pane_id,
                "root",
            )
            assert told["data"]["taken"] is True
            with pytest.raises(PaneTaken, match="root types into") as refused:
                await agent.send_keys(pane.pane_id, "id\n")
            assert "commands (run) and your other terminals go on" in refused.value.remedy
            with pytest.raises(NoRoute):
                async with agent.take_over(pane.pane_id):
                    pass
        told = (await asyncio.wait_for(anext(frames), LIMIT_S)).json()
        assert told["data"]["taken"] is False
        await agent.send_keys(pane.pane_id, "echo mine\n")
        await frames.aclose()  # type: ignore[attr-defined]


async def test_who_looks_at_what_is_seen_at_once_and_forgotten(
    doors: Doors, bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with doors.serving() as fluid, heard(bus) as next_of:
        mine = await fluid.look("aa" * 8, "review", "APR-00000001")
        assert (mine.uid, mine.name, len(mine.here)) == (os.getuid(), "root", 1)
        await next_of("presence.changed")
        status, told = await doors.second(
            "POST", "/v1/presence", console="bb" * 8, place="review", id="APR-00000001"
        )
        assert (status, [one["name"] for one in told["here"]]) == (200, ["root", "nobody"])
        seen = (await next_of("presence.changed")).data["here"]
        assert {(one.uid, one.place, one.id) for one in seen} == {
            (os.getuid(), "review", "APR-00000001"),
            (NOBODY_UID, "review", "APR-00000001"),
        }
        await doors.second("POST", "/v1/presence", console="bb" * 8)
        assert [one.name for one in (await fluid.presence()).here] == ["root"]
        monkeypatch.setattr("backend.approvals.onlookers.FORGOTTEN", timedelta(seconds=-1))
        assert (await fluid.presence()).here == []


async def test_a_question_that_the_other_has_just_answered_says_so_at_once(
    doors: Doors, bus: EventBus
) -> None:
    ask = await doors.services.asks.ask(ANN, AskRequest(prompt="Drop it?", action_type="irreversible"))
    async with doors.serving() as fluid:
        feed = fluid.events(bus.last_seq)
        status, _ = await doors.second("POST", f"/v1/asks/{ask.request_id}/answer", approved=False)
        assert status == 200
        async with asyncio.timeout(LIMIT_S):
            async for event in feed:
                if event.kind == "ask.changed":
                    break
        assert (event.id, event.data["status"], event.data["by"]) == (ask.request_id, "rejected", "nobody")
        with pytest.raises(AlreadyDecided, match=r"rejected by nobody at \d\d:\d\d"):
            await fluid.answer(ask.request_id, True)
        await feed.aclose()  # type: ignore[attr-defined]


ATTACH = [sys.executable, "-m", "backend.cli", "sandboxes"]
OURS = re.compile(rb"\x1b\[[0-9;?]*[HJhlm]")
HOSTILE = (
    rb"printf '\033]52;c;AAAA\007\033]0;mine\007\033[?1049h\033P1;2q\033\134\303\233'; echo d$((40+2))ne"
)


async def opened(doors: Doors, panes: Panes, fleet: OneSandbox) -> tuple[Pane, dict[str, str]]:
    """A terminal of a sandbox whose id a command takes, and the environment of an operator's command."""
    assert fleet.sandbox is not None
    fleet.sandbox = fleet.sandbox.model_copy(update={"id": "SBX-00000001"})
    pane = await panes.open(ANN, "SBX-00000001")
    door = str(doors.paths.operator_socket)
    return pane, {**os.environ, "FLUID_SOCKET": door, "PYTHONPATH": str(CHECKOUT)}


async def test_the_command_line_types_with_the_same_safety(
    doors: Doors, panes: Panes, fleet: OneSandbox
) -> None:
    pane, environment = await opened(doors, panes, fleet)

    def type_and_leave() -> bytes:
        with Terminal([*ATTACH, "attach", "SBX-00000001"], environment, 90, 12) as seen:
            seen.until(b"its agent waits: ctrl+] hands it back")
            seen.press(HOSTILE + b"\r")
            seen.until(b"d42ne")
            drawn = seen.tail
            seen.press(b"echo half\x1d")
            seen.until(b"its agent's again")
            return drawn

    async with doors.serving():
        drawn = await asyncio.to_thread(type_and_leave)
        assert b"\x1b" not in OURS.sub(b"", drawn)
        await until_shown(panes, pane.pane_id, "$ echo half")
        assert (await panes.list(ANN))[0].taken_by == ""

        async def hold() -> TakeOverEnd:
            async with panes.take_over(SECOND, pane.pane_id) as hands:
                holding.set()
                return await hands.over()

        holding = asyncio.Event()
        held = asyncio.create_task(hold())
        await asyncio.wait_for(holding.wait(), LIMIT_S)
        freed = await asyncio.to_thread(
            subprocess.run, [*ATTACH, "hand-back", "SBX-00000001"], env=environment, capture_output=True
        )
        assert freed.stdout.decode() == f"{pane.pane_id} is its agent's again; berta is told\n"
        assert (await asyncio.wait_for(held, LIMIT_S)).by == "root"


async def test_a_terminal_is_followed_as_plain_lines_until_it_ends(
    doors: Doors, panes: Panes, fleet: OneSandbox
) -> None:
    pane, environment = await opened(doors, panes, fleet)
    steps = [
        ("", "$"),
        ("for i in $(seq 400); do echo row $i of the flood; done", "row 400 of the flood"),
        ("printf '\\033[31mhalf'; sleep 2; printf ' whole\\033[0m\\n\\n'", "half whole"),
        (HOSTILE.decode(), "d42ne"),
    ]
    told: list[str] = []
    async with doors.serving():
        follower = await asyncio.create_subprocess_exec(
            *ATTACH, "follow", "SBX-00000001", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert follower.stdout is not None
        for typed, awaited in steps:
            if typed:
                await panes.send(ANN, pane.pane_id, text=typed, key="Enter")
            while not any(line.endswith(awaited) and "$(" not in line for line in told):
                line = await asyncio.wait_for(follower.stdout.readline(), LIMIT_S)
                assert line, (told, (await follower.communicate())[1])
                told.append(line.decode().rstrip("\n"))
        await panes.send(ANN, pane.pane_id, text="exit", key="Enter")
        rest, notes = await asyncio.wait_for(follower.communicate(), LIMIT_S)
    told += rest.decode().splitlines()
    assert all(line.isprintable() for line in told)
    flooded = [line for line in told if line.endswith("of the flood")]
    assert flooded == [f"row {number} of the flood" for number in range(1, 401)]
    assert follower.returncode == 0
    assert notes.decode().splitlines() == [
        f"fluid: the terminal {pane.pane_id} of nginx-tls; ctrl+c leaves",
        "fluid: the terminal has ended",
    ]
