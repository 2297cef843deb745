"""What a caller sees of the doors: status codes, error bodies, roles. The services behind are fakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import httpx2
import pytest

from backend.api import Door, Peer, Roles, Services
from backend.api.agent import agent_app
from backend.api.gate import Gate
from backend.api.operator import operator_app
from backend.api.routes import commands
from backend.client import calls
from backend.client.calls import STDIN_LIMIT_BYTES
from backend.errors import (
    AlreadyDecided,
    BackendDown,
    CommandLost,
    ConfigError,
    DiskUnreadable,
    FluidError,
    GuestDown,
    GuestFull,
    HypervisorDown,
    PanicActive,
    SandboxNotFound,
    TargetDown,
    TooLarge,
    Unavailable,
    all_errors,
)
from backend.models import (
    Changes,
    Command,
    CommandRequest,
    CreateSandbox,
    Event,
    HostView,
    Identity,
    Phase,
    Role,
    Sandbox,
    Snapshot,
    now,
)
from backend.store import KeptAnswer

ALICE = Peer(1000, 1000, 10, "alice", frozenset({"alice"}))
BOT = Peer(2000, 2000, 20, "bot", frozenset({"bot"}))
CAROL = Peer(3000, 3000, 30, "carol", frozenset({"carol", "audit"}))
ROLES = Roles(frozenset({"alice"}), frozenset({"bot"}), frozenset({"@audit"}))
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
FILE_LIMIT = 2 * 1024**2
ABOUT_THE_CALLERS_OWN = (BackendDown, CommandLost, DiskUnreadable, GuestDown, GuestFull, TargetDown)
NO_SERVICES = cast("Services", None)
APPS = {  # building one takes longer than any test
    Door.AGENT: agent_app(NO_SERVICES, asyncio.Event()),
    Door.OPERATOR: operator_app(NO_SERVICES, asyncio.Event()),
}


def sandbox(id: str = "SBX-12345678") -> Sandbox:
    return Sandbox(
        id=id, sandbox_name="web", base_image="debian-12", created_at=now(), updated_at=now(),
        phase=Phase.RUNNING, ip_address="10.231.0.2", ttl_seconds=60,
    )  # fmt: skip


class FakeFleet:
    def __init__(self) -> None:
        self.created: list[CreateSandbox] = []
        self.ran: list[CommandRequest] = []
        self.written: bytes | None = None

    async def create(self, actor: Identity, request: CreateSandbox) -> Sandbox:
        self.created.append(request)
        return sandbox(f"SBX-{len(self.created):08x}")

    async def get(self, actor: Identity, id: str) -> Sandbox:
        if id != "SBX-12345678":
            raise SandboxNotFound(f"no sandbox {id}", remedy="list yours")
        return sandbox()

    async def start(self, actor: Identity, id: str) -> Sandbox:
        raise HypervisorDown("libvirtd does not answer", remedy="start libvirtd")

    async def stop(self, actor: Identity, id: str) -> Sandbox:
        raise ZeroDivisionError("secret words of the program")

    async def run(self, actor: Identity, id: str, request: CommandRequest, on_output: Any = None) -> Command:
        self.ran.append(request)
        if on_output:
            on_output("stdout", "ä".encode()[:1])
            on_output("stdout", "ä".encode()[1:])
        return Command(
            id="CMD-00000001", sandbox_id=id, command=request.command, exit_code=3, started_at=now()
        )

    async def snapshots(self, actor: Identity, id: str) -> list[Snapshot]:
        return [Snapshot(id="SNP-1", sandbox_id=id, name="before", created_at=BEGUN)]

    async def diff(self, actor: Identity, id: str, before: str, after: str, other: str) -> Changes:
        at = BEGUN + timedelta(seconds=1500)
        return Changes(id="CHG-1", sandbox_id=id, from_snapshot=before, to_snapshot=after, created_at=at)

    async def command_log(self, actor: Identity, id: str) -> list[Command]:
        times = [BEGUN + timedelta(seconds=second) for second in range(-1200, 1600)]
        return [
            Command(id=f"CMD-{number}", sandbox_id=id, command=str(number), started_at=at)
            for number, at in enumerate(times, -1200)
        ]

    async def write_file(self, actor: Identity, id: str, path: str, data: bytes, **options: Any) -> Any:
        self.written = data
        from backend.models import FileKind, FileState

        return FileState(kind=FileKind.FILE, mode=options["mode"] or 0o644, uid=0, gid=0, size=len(data))


class FakeKeys:
    def __init__(self) -> None:
        self.claimed: dict[tuple[str, str], KeptAnswer | None] = {}

    async def claim(self, scope: str, key: str, request: bytes) -> KeptAnswer | None:
        return self.claimed.setdefault((scope, key), None)

    async def keep(self, scope: str, key: str, answer: KeptAnswer) -> None:
        self.claimed[scope, key] = answer

    async def release(self, scope: str, key: str) -> None:
        del self.claimed[scope, key]


class FakeEvents:
    """Three events. It is its own subscription."""

    last_seq = 0

    def __init__(self, after_seq: int = 0) -> None:
        self._numbers = iter(range(after_seq + 1, 4))

    def subscribe(self, after_seq: int | None = None) -> FakeEvents:
        return FakeEvents(after_seq or 0)

    def __enter__(self) -> FakeEvents:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> FakeEvents:
        return self

    async def __anext__(self) -> Event:
        for seq in self._numbers:
            return Event(seq=seq, at=now(), kind="sandbox.changed", noun="sandbox", id="SBX-12345678")
        raise StopAsyncIteration


class FakeApprovals:
    async def approve(
        self, actor: Identity, id: str, digest: str, comment: str, secrets: dict[str, str]
    ) -> Any:
        raise AlreadyDecided("bob approved it at 14:02", remedy="nothing is left to do", by="bob")


class FakePanic:
    """Lasts while ``on``."""

    on = False

    @classmethod
    def refuse_agent(cls, actor: Identity) -> None:
        if cls.on and actor.role is Role.AGENT:
            raise PanicActive("no sandbox starts or goes on", remedy="wait")


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def door(fleet: FakeFleet) -> Callable[..., httpx2.AsyncClient]:
    fakes = SimpleNamespace(
        fleet=fleet, approvals=FakeApprovals(), keys=FakeKeys(), events=FakeEvents(),
        panes=SimpleNamespace(close=None), panic=FakePanic,
        trust=SimpleNamespace(public_key=lambda: "ssh-ed25519 AAAA fluid-user-ca"),
        policy=lambda actor: {"words": [f"{actor.name} may fork"]},
    )  # fmt: skip
    services = cast("Services", fakes)

    def open_door(peer: Peer | None = BOT, on: Door = Door.AGENT) -> httpx2.AsyncClient:
        app = APPS[on]
        app.state.services = services
        gate = Gate(app, on, ROLES, FILE_LIMIT)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] = {"peer": peer}
            await gate(scope, receive, send)

        return httpx2.AsyncClient(transport=httpx2.ASGITransport(with_peer), base_url="http://fluid")

    return open_door


Opener = Callable[..., httpx2.AsyncClient]
CREATE = {"source_vm_name": "debian-12", "agent_id": "me"}
JSON = {"content-type": "application/json"}

BAD_INPUT = [
    ("malformed JSON", "POST", "/v1/sandboxes", b'{"source_vm_name": ', 400, "bad_request"),
    ("trailing data", "POST", "/v1/sandboxes", json.dumps(CREATE).encode() + b" {}", 400, "bad_request"),
    ("not UTF-8", "POST", "/v1/sandboxes", b'{"agent_id": "\xff"}', 400, "bad_request"),
    ("a list", "POST", "/v1/sandboxes", b"[]", 400, "bad_request"),
    ("no body", "POST", "/v1/sandboxes", b"", 400, "bad_request"),
    ("deep nesting", "POST", "/v1/sandboxes", b"[" * 100_000, 400, "bad_request"),
    ("endless number", "POST", "/v1/sandboxes", b'{"cpu":' + b"9" * 5000 + b"}", 400, "bad_request"),
    ("missing field", "POST", "/v1/sandboxes", b'{"agent_id": "me"}', 400, "bad_request"),
    ("unknown field", "POST", "/v1/sandboxes", json.dumps({**CREATE, "x": 1}).encode(), 400, "bad_request"),
    (
        "wrong type",
        "POST",
        "/v1/sandboxes",
        json.dumps({**CREATE, "cpu": "two"}).encode(),
        400,
        "bad_request",
    ),
    ("no meaning", "POST", "/v1/sandboxes", json.dumps({**CREATE, "cpu": 0}).encode(), 422, "invalid_value"),
    ("huge body", "POST", "/v1/sandboxes", b" " * (1024**2 + 1), 413, "too_large"),
    ("unknown id", "GET", "/v1/sandboxes/SBX-00000000", b"", 404, "sandbox_not_found"),
    ("strange id", "GET", "/v1/sandboxes/%2e%2e%2fetc", b"", 404, None),
    ("id with NUL", "GET", "/v1/sandboxes/SBX-%00", b"", 404, "sandbox_not_found"),
    ("wrong method", "PATCH", "/v1/sandboxes", b"", 405, "method_not_allowed"),
    ("no route", "GET", "/v1/nothing", b"", 404, "route_not_found"),
    ("strange query", "GET", "/v1/sandboxes?limit=many", b"", 400, "bad_request"),
    ("query out of range", "GET", "/v1/sandboxes?limit=0", b"", 422, "invalid_value"),
    ("a part is down", "POST", "/v1/sandboxes/SBX-12345678/start", b"", 503, "hypervisor_down"),
    ("a pane of no form", "DELETE", "/v1/tmux/panes/main:0", b"", 404, "pane_not_found"),
    ("another generator", "POST", "/v1/sandboxes/SBX-12345678/generate/chef", b"", 400, "bad_request"),
    (
        "a lone surrogate",
        "POST",
        "/v1/sandboxes/SBX-12345678/run",
        rb'{"command": "id", "env": {"A": "\ud800"}}',
        400,
        "bad_request",
    ),
    (
        "input that is not base64",
        "POST",
        "/v1/sandboxes/SBX-12345678/run",
        b'{"command": "cat", "stdin_base64": "AA=A"}',
        422,
        "invalid_value",
    ),
    (
        "two inputs",
        "POST",
        "/v1/sandboxes/SBX-12345678/run",
        b'{"command": "cat", "stdin": "", "stdin_base64": ""}',
        422,
        "invalid_value",
    ),
    ("relative path", "GET", "/v1/sandboxes/SBX-12345678/files?path=etc", b"", 422, "invalid_value"),
    (
        "a key on our host",
        "POST",
        "/v1/sandboxes/SBX-12345678/run",
        b'{"command": "id", "private_key_path": "/root/.ssh/id"}',
        422,
        "invalid_value",
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [row[1:] for row in BAD_INPUT],
    ids=[row[0] for row in BAD_INPUT],
)
async def test_bad_input_is_told_in_one_form(
    door: Opener, method: str, path: str, body: bytes, status: int, code: str | None
) -> None:
    async with door() as client:
        answer = await client.request(method, path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["code"] == status
    assert told["error"] and "\n" not in told["error"]
    assert told["remedy"]
    assert told["request_id"] == answer.headers["x-request-id"]
    if code is not None:
        assert told["error_code"] == code


async def test_a_part_that_is_down_says_when_to_come_back(door: Opener) -> None:
    async with door() as client:
        answer = await client.post("/v1/sandboxes/SBX-12345678/start")
    assert int(answer.headers["retry-after"]) > 0


OURS = [
    kind
    for kind in all_errors()
    if kind is ConfigError or (issubclass(kind, Unavailable) and not issubclass(kind, ABOUT_THE_CALLERS_OWN))
]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.code)
async def test_an_agent_hears_which_part_is_down_and_no_address_or_path_of_ours(
    door: Opener, fleet: FakeFleet, kind: type[FluidError], caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> Command:
        raise kind(
            "/etc/fluid/known_hosts holds no key of 10.20.0.5", remedy="ssh-keyscan 10.20.0.5", log="/var/lib"
        )

    fleet.start = fleet.run = fails  # type: ignore[assignment, method-assign]
    start, run = "/v1/sandboxes/SBX-12345678/start", "/v1/sandboxes/SBX-12345678/run"
    async with door() as client:
        told = await client.post(start)
        streamed = (await client.post(run, json={"command": "id", "stream": True})).text
    async with door(ALICE, Door.OPERATOR) as client:
        whole = (await client.post(start)).text
    assert (told.status_code, told.json()["error_code"]) == (
        503,
        "unavailable" if kind is ConfigError else kind.code,
    )
    assert "ask an operator" in told.json()["remedy"] and told.json()["error"]
    for ours in ("/etc/fluid", "10.20.0.5", "/var/lib"):
        assert ours not in told.text and ours not in streamed and ours in whole
    assert "event: error" in streamed
    assert caplog.text.count("/etc/fluid/known_hosts holds no key of 10.20.0.5") == 3


@pytest.mark.parametrize("kind", ABOUT_THE_CALLERS_OWN, ids=lambda kind: kind.code)
async def test_an_agent_hears_what_its_own_guest_lacks(
    door: Opener, fleet: FakeFleet, kind: type[FluidError]
) -> None:
    async def fails(*_: object) -> Sandbox:
        raise kind("the disk of web is full", remedy="delete something in the guest")

    fleet.start = fails  # type: ignore[method-assign]
    async with door() as client:
        told = (await client.post("/v1/sandboxes/SBX-12345678/start")).json()
    assert (told["error"], told["remedy"]) == ("the disk of web is full", "delete something in the guest")


async def test_an_agent_hears_which_host_is_lost_and_not_why(door: Opener) -> None:
    lost = HostView(name="far-1", address="10.0.0.9", status="lost", last_error="refused")
    async with door() as client, door(ALICE, Door.OPERATOR) as operator:
        fakes = APPS[Door.AGENT].state.services.fleet
        fakes.hosts, fakes.sources = AsyncMock(return_value=[lost]), AsyncMock(return_value=[])
        (told,) = (await client.get("/v1/vms")).json()["host_errors"]
        (whole,) = (await operator.get("/v1/vms")).json()["host_errors"]
    assert (told["host_name"], told["error"]) == ("far-1", "it does not answer")
    assert whole["error"] == "refused"


async def test_a_bug_shows_its_request_id_and_none_of_its_words(
    door: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as client:
        answer = await client.post("/v1/sandboxes/SBX-12345678/stop")
    assert answer.status_code == 500
    assert "secret words" not in answer.text
    assert answer.json()["request_id"] in caplog.text
    assert "secret words" in caplog.text


async def test_create_answers_201_with_sandbox_and_address(door: Opener) -> None:
    async with door() as client:
        answer = await client.post("/v1/sandboxes", json=CREATE)
    assert answer.status_code == 201
    assert answer.json()["sandbox"]["state"] == "RUNNING"
    assert answer.json()["ip_address"] == "10.231.0.2"


async def test_an_idempotency_key_creates_once(door: Opener, fleet: FakeFleet) -> None:
    async with door() as client:
        first = await client.post("/v1/sandboxes", json=CREATE, headers={"Idempotency-Key": "k1"})
        again = await client.post("/v1/sandboxes", json=CREATE, headers={"Idempotency-Key": "k1"})
        other = await client.post("/v1/sandboxes", json=CREATE, headers={"Idempotency-Key": "k2"})
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert other.json()["sandbox"]["id"] != first.json()["sandbox"]["id"]
    assert len(fleet.created) == 2


async def test_a_failed_request_frees_its_key(door: Opener) -> None:
    async with door() as client:
        for _ in range(2):
            path = "/v1/sandboxes/SBX-12345678/start"
            answer = await client.post(path, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 503


async def test_a_streamed_command_with_a_key_is_answered_and_frees_its_key(door: Opener) -> None:
    body = {"command": "id", "stream": True}
    async with door() as client:
        for _ in range(2):
            answer = await client.post(
                "/v1/sandboxes/SBX-12345678/run", json=body, headers={"Idempotency-Key": "k"}
            )
            assert (answer.status_code, "event: command" in answer.text) == (200, True)
    assert APPS[Door.AGENT].state.services.keys.claimed == {}


async def test_an_answer_that_cannot_be_kept_frees_its_key(
    door: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door() as client:
        keys = APPS[Door.AGENT].state.services.keys
        monkeypatch.setattr(keys, "keep", AsyncMock(side_effect=ValueError("too long")))
        answer = await client.post("/v1/sandboxes", json=CREATE, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, keys.claimed) == (500, {})


async def test_a_key_is_of_its_path_with_its_query(door: Opener, fleet: FakeFleet) -> None:
    async with door() as client:
        for path in ("/v1/sandboxes?a=1", "/v1/sandboxes?a=2", "/v1/sandboxes?a=1"):
            await client.post(path, json=CREATE, headers={"Idempotency-Key": "k"})
        long = await client.post(
            f"/v1/sandboxes?a={'x' * 4000}", json=CREATE, headers={"Idempotency-Key": "k"}
        )
    assert len(fleet.created) == 2
    assert (long.status_code, long.json()["error_code"]) == (400, "bad_request")


@pytest.mark.parametrize("spelling", ["run", "command"])
async def test_both_spellings_run_the_same_command(door: Opener, fleet: FakeFleet, spelling: str) -> None:
    async with door() as client:
        answer = await client.post(
            f"/v1/sandboxes/SBX-12345678/{spelling}", json={"command": "awk '{print $2}' <<<'a b'"}
        )
    assert answer.status_code == 200
    assert answer.json()["command"]["exit_code"] == 3
    assert fleet.ran[0].command == "awk '{print $2}' <<<'a b'"


async def test_a_diff_lists_the_commands_between_its_points_however_many_ran_before(door: Opener) -> None:
    async with door() as client:
        points = {"from_snapshot": "before", "to_snapshot": "now"}
        answer = await client.post("/v1/sandboxes/SBX-12345678/diff", json=points)
    ran = answer.json()["diff"]["diff_json"]["commands_run"]
    assert [one["cmd"] for one in ran] == [str(number) for number in range(1501)]


async def test_a_commands_input_may_be_any_bytes_up_to_the_sdks_limit(door: Opener, fleet: FakeFleet) -> None:
    data = bytes(range(256)) * (STDIN_LIMIT_BYTES // 256)
    body = calls.run("SBX-12345678", "x" * 80_000, stdin=data).body
    async with door() as client:
        assert (await client.post("/v1/sandboxes/SBX-12345678/run", json=body)).status_code == 200
        told = (await client.get("/openapi.json")).json()["components"]["schemas"]["CommandRequest"]
    assert fleet.ran[0].input == data
    assert "base64" in told["properties"]["stdin_base64"]["description"]
    with pytest.raises(TooLarge, match="720896 bytes"):
        calls.run("SBX-12345678", "cat", stdin=data + b"x")


async def test_a_streamed_command_sends_whole_characters_and_then_the_record(door: Opener) -> None:
    async with door() as client:
        answer = await client.post(
            "/v1/sandboxes/SBX-12345678/run", json={"command": "echo ä", "stream": True}
        )
    data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert data[0] == {"stream": "stdout", "text": "ä"}
    assert data[-1]["command"]["id"] == "CMD-00000001"


async def test_a_command_that_prints_much_after_its_reader_left_ends() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    class Chatty(FakeFleet):
        async def run(
            self, actor: Identity, id: str, request: CommandRequest, on_output: Any = None
        ) -> Command:
            begun.set()
            await left.wait()
            for _ in range(commands.QUEUED_CHUNKS + 1):
                on_output("stdout", b"x")
            return await super().run(actor, id, request)

    running: set[asyncio.Task[Command]] = set()
    request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(running=running)))
    services, body = SimpleNamespace(fleet=Chatty()), CommandRequest(command="yes")
    frames = commands._streamed(request, Identity(uid=BOT.uid), cast("Services", services), "SBX-1", body)
    reader = asyncio.ensure_future(anext(frames))
    await begun.wait()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    left.set()
    _, stuck = await asyncio.wait(running, timeout=5)
    assert not stuck


async def test_a_file_may_be_larger_than_a_body_and_not_larger_than_the_policy(
    door: Opener, fleet: FakeFleet
) -> None:
    path = "/v1/sandboxes/SBX-12345678/files?path=/srv/big&mode=0600"
    async with door() as client:
        taken = await client.put(path, content=b"x" * (1024**2 + 1))
        refused = await client.put(path, content=b"x" * (FILE_LIMIT + 1))
    assert taken.status_code == 200
    assert taken.json()["mode"] == 0o600
    assert refused.status_code == 413
    assert len(fleet.written or b"") == 1024**2 + 1


DECIDING = [
    ("POST", "/v1/approvals/APR-12345678/approve"),
    ("POST", "/v1/approvals/APR-12345678/reject"),
    ("POST", "/v1/approvals/APR-12345678/dry-run"),
    ("GET", "/v1/approvals/APR-12345678/pack"),
    ("POST", "/v1/asks/ASK-12345678/answer"),
    ("POST", "/v1/human/respond"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/fleet"),
    ("GET", "/v1/events"),
    ("GET", "/v1/hosts"),
    ("GET", "/v1/runs/RUN-12345678"),
    ("POST", "/v1/runs/RUN-12345678/cancel"),
    ("POST", "/v1/runs/RUN-12345678/rollback"),
    ("GET", "/v1/panes/%250/stream"),
    ("GET", "/v1/recordings"),
    ("GET", "/v1/recordings/REC-12345678"),
    ("GET", "/v1/recordings/REC-12345678/cast"),
    ("POST", "/v1/images"),
    ("POST", "/v1/images/import"),
    ("DELETE", "/v1/images/debian-12"),
    ("POST", "/v1/sources/web/check"),
    ("POST", "/v1/sources/web/prepare"),
    ("POST", "/v1/targets/check"),
    ("GET", "/v1/ca"),
    ("POST", "/v1/ca/rotate"),
]


@pytest.mark.parametrize(("method", "path"), DECIDING)
async def test_what_decides_or_watches_does_not_exist_on_the_agent_door(
    door: Opener, method: str, path: str
) -> None:
    async with door() as client:
        answer = await client.request(method, path, json={"digest": "d", "approved": True})
    assert answer.status_code in (404, 405)
    assert answer.json()["error_code"] in ("route_not_found", "method_not_allowed")


@pytest.mark.parametrize("on", Door)
async def test_the_cas_public_key_is_for_everybody(door: Opener, on: Door) -> None:
    async with door(BOT if on is Door.AGENT else ALICE, on) as client:
        told = (await client.get("/v1/access/ca-pubkey")).json()
    assert told.pop("usage") and told == {"public_key": "ssh-ed25519 AAAA fluid-user-ca"}


async def test_each_door_describes_its_own_routes(door: Opener) -> None:
    async with door() as agent, door(ALICE, Door.OPERATOR) as operator:
        of_agents = set((await agent.get("/openapi.json")).json()["paths"])
        of_operators = set((await operator.get("/openapi.json")).json()["paths"])
    assert "/v1/approvals/{id}/approve" in of_operators
    assert not any("approve" in path or path.endswith("/answer") for path in of_agents)
    assert of_agents < of_operators


ADMISSION = [
    (BOT, Door.AGENT, 200),
    (BOT, Door.OPERATOR, 403),
    (ALICE, Door.OPERATOR, 200),
    (ALICE, Door.AGENT, 403),
    (CAROL, Door.OPERATOR, 200),
    (CAROL, Door.AGENT, 403),
    (Peer(0, 0, 1, "root", frozenset({"root"})), Door.OPERATOR, 403),
    (None, Door.AGENT, 401),
]


@pytest.mark.parametrize(("peer", "on", "status"), ADMISSION)
async def test_a_door_opens_for_its_roles_only(
    door: Opener, peer: Peer | None, on: Door, status: int
) -> None:
    async with door(peer, on) as client:
        answer = await client.get("/v1/whoami")
    assert answer.status_code == status
    if status == 200 and peer:
        assert answer.json()["name"] == peer.name


async def test_an_auditor_reads_and_does_nothing(door: Opener) -> None:
    async with door(CAROL, Door.OPERATOR) as client:
        assert (await client.get("/v1/sandboxes/SBX-12345678")).status_code == 200
        refused = await client.post("/v1/sandboxes", json=CREATE)
    assert refused.status_code == 403
    assert refused.json()["error_code"] == "role_denied"


@pytest.mark.parametrize(
    "path",
    [
        "",
        *(
            f"/SBX-00000001/{verb}"
            for verb in ("start", "resume", "snapshots/a/restore", "snapshots/a/branch")
        ),
    ],
)
async def test_an_agent_has_no_sandbox_running_again_while_a_panic_lasts(
    door: Opener, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(FakePanic, "on", True)
    async with door() as http:
        told = (await http.post(f"/v1/sandboxes{path}", json=CREATE if not path else {})).json()
    assert (told["code"], told["error_code"]) == (409, "panic_active")
    async with door(ALICE, Door.OPERATOR) as http:
        assert "panic" not in (await http.post(f"/v1/sandboxes{path}", json={})).text


async def test_the_second_of_two_decisions_learns_who_was_first(door: Opener) -> None:
    async with door(ALICE, Door.OPERATOR) as client:
        answer = await client.post("/v1/approvals/APR-12345678/approve", json={"digest": "abc"})
    assert answer.status_code == 409
    assert answer.json()["error_code"] == "approval_already_decided"
    assert answer.json()["details"] == {"by": "bob"}


async def test_a_secret_that_is_no_text_is_refused_and_never_repeated(door: Opener) -> None:
    async with door(ALICE, Door.OPERATOR) as client:
        body = {"digest": "abc", "secrets": {"content_of_x": ["hunter2"]}}
        answer = await client.post("/v1/approvals/APR-12345678/approve", json=body)
    assert answer.status_code == 400
    assert "content_of_x" in answer.json()["error"] and "hunter2" not in answer.text


async def test_events_go_on_after_the_last_one_seen(door: Opener) -> None:
    async with door(ALICE, Door.OPERATOR) as client:
        answer = await client.get("/v1/events", headers={"Last-Event-ID": "2"})
    ids = [line for line in answer.text.splitlines() if line.startswith("id:")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ids == ["id: 3"]


@pytest.mark.parametrize(
    ("peer", "on", "path"),
    [(ALICE, Door.OPERATOR, "/v1/events"), (BOT, Door.AGENT, "/v1/sandboxes/SBX-12345678/stream")],
)
async def test_an_event_number_without_end_is_bad_input(
    door: Opener, peer: Peer, on: Door, path: str
) -> None:
    async with door(peer, on) as client:
        for digits in (19, 5000):
            sent = {"Accept": "text/event-stream", "Last-Event-ID": "9" * digits}
            answer = await client.get(path, headers=sent)
            assert (answer.status_code, answer.json()["error_code"]) == (400, "bad_request")
            assert answer.json()["remedy"] and len(answer.json()["error"]) < 200


async def test_a_stream_asked_for_plainly_says_how_to_ask(door: Opener) -> None:
    async with door() as client:
        plain = await client.get("/v1/sandboxes/SBX-12345678/stream")
        streamed = await client.get(
            "/v1/sandboxes/SBX-12345678/stream", headers={"Accept": "text/event-stream"}
        )
    assert plain.status_code == 426
    assert "text/event-stream" in plain.json()["remedy"]
    assert '"type":"connected"' in streamed.text
