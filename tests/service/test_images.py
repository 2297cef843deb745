"""Images that come from outside, up to their record: files, a real web server, real qemu-img, no machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.audit import Audit
from backend.config import Config
from backend.errors import (
    DuplicateName,
    FluidError,
    ImageInUse,
    ImageNotFound,
    ImageRefused,
    InvalidValue,
    PreparationFailed,
    RoleDenied,
    TimedOut,
    TooLarge,
    Unavailable,
    WrongState,
)
from backend.fleet import Sources, Stock
from backend.fleet.hosts import Hosts
from backend.fleet.leftovers import Leftovers
from backend.images import BuiltImage, ImageImport, Images, ImportLimits, import_image
from backend.images.folder import Progress
from backend.models import (
    KEPT_FOR,
    Approval,
    ApprovalState,
    Identity,
    Phase,
    Role,
    Run,
    RunKind,
    RunState,
    Sandbox,
    now,
)
from backend.store import Store
from tests.fix_tls import write_pki

LIMITS = ImportLimits(bytes=64 << 20, reserve_bytes=0, silent_s=1, fetch_s=20)
OPERATOR = Identity(uid=0, name="root", role=Role.OPERATOR)
AGENT = Identity(uid=2000, name="bot", role=Role.AGENT)
DISK = b"a disk that boots nothing".ljust(4096, b".") * 512

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[..., Awaitable[str]]


class Unprepared:
    """Takes a disk as it is."""

    recipe = "none"

    async def boot(self, name: str, disk: Path, progress: Progress) -> None:
        pass

    async def examine(self, name: str, disk: Path) -> int:
        return 7


class NeverPrepared(Unprepared):
    async def examine(self, name: str, disk: Path) -> int:
        raise PreparationFailed(f"{name} did nothing", remedy="use another image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "Some_Disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def qcow2(raw: Path) -> Path:
    path = raw.with_name("some.qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, path], check=True)
    return path


async def take(folder: Path, wanted: ImageImport, said: list[str] | None = None) -> BuiltImage:
    words = [] if said is None else said
    return await import_image(Images(folder), wanted, Unprepared(), LIMITS, words.append)


def left(folder: Path) -> list[str]:
    """What an import left, besides locks and logs."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".log")))


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
async def test_a_file_becomes_an_image_that_is_listed_and_verifies(
    folder: Path, raw: Path, qcow2: Path, kind: str
) -> None:
    source = raw if kind == "raw" else qcow2
    said: list[str] = []
    made = await take(folder, ImageImport(str(source), kind, sum_of(source)), said)  # type: ignore[arg-type]
    images = Images(folder)
    assert images.list() == [made]
    await images.verify(made.name)
    assert made.name == ("some-disk" if kind == "raw" else "some")
    assert (made.kind, made.origin, made.packages, made.kernel) == ("imported", str(source), 7, None)
    assert made.view().size_bytes == made.disk.stat().st_blocks * 512
    assert left(folder) == sorted([made.disk.name, f"{made.name}.json"])
    assert said[-1] == f"image {made.name} is ready"
    back = folder / "back"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", made.disk, back], check=True)
    assert back.read_bytes() == DISK


async def test_the_same_file_again_is_the_same_image_and_another_keeps_away_from_its_name(
    folder: Path, raw: Path
) -> None:
    first = await take(folder, ImageImport(str(raw), "raw", name="base"))
    said: list[str] = []
    assert await take(folder, ImageImport(str(raw), "raw", sum_of(raw), name="base"), said) == first
    assert said == []
    assert await take(folder, ImageImport(str(raw), "raw", name="base"), said) == first
    raw.write_bytes(DISK + DISK)
    with pytest.raises(DuplicateName, match="base"):
        await take(folder, ImageImport(str(raw), "raw", name="base"))
    assert Images(folder).list() == [first]


async def test_a_file_of_another_sum_or_a_strange_kind_is_refused_and_nothing_is_left(
    folder: Path, raw: Path, tmp_path: Path
) -> None:
    link, pipe = tmp_path / "link.raw", tmp_path / "pipe.raw"
    link.symlink_to(raw)
    subprocess.run(["mkfifo", pipe], check=True)
    secret = tmp_path / "secret.raw"
    secret.write_bytes(DISK)
    secret.chmod(0o600)
    cases: list[tuple[ImageImport, type[FluidError], str]] = [
        (ImageImport(str(raw), "raw", "0" * 64), ImageRefused, "SHA-256 is"),
        (ImageImport(str(link), "raw"), InvalidValue, "symbolic link"),
        (ImageImport(str(pipe), "raw"), InvalidValue, "not a regular file"),
        (ImageImport(str(tmp_path), "raw", name="x"), InvalidValue, "not a regular file"),
        (ImageImport(str(tmp_path / "none.raw"), "raw"), InvalidValue, "No such file"),
        (ImageImport(str(secret), "raw", reader_uid=2000), RoleDenied, "not yours to read"),
        (ImageImport(str(raw), "qcow2"), ImageRefused, "does not begin as qcow2 does"),
    ]
    for wanted, kind, words in cases:
        with pytest.raises(kind, match=words):
            await take(folder, wanted)
    assert left(folder) == []


async def test_a_file_in_a_folder_that_its_reader_may_not_enter_is_refused(
    folder: Path, open_folder: Path
) -> None:
    inside = open_folder / "inside"
    inside.mkdir(mode=0o700)
    image = inside / "image.raw"
    image.write_bytes(DISK)
    image.chmod(0o644)
    wanted = ImageImport(str(image), "raw", name="base", reader_uid=2000)
    with pytest.raises(RoleDenied, match="not yours to read"):
        await take(folder, wanted)
    inside.chmod(0o711)
    assert (await take(folder, wanted)).name == "base"


async def test_an_image_that_leads_to_a_file_of_this_machine_is_refused(folder: Path, tmp_path: Path) -> None:
    secret, hostile = tmp_path / "shadow", tmp_path / "hostile.qcow2"
    secret.write_bytes(b"root:secret".ljust(1 << 16))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", hostile]
    subprocess.run(create, check=True)
    with pytest.raises(ImageRefused, match="stands on a backing file"):
        await take(folder, ImageImport(str(hostile), "qcow2"))
    # Named raw, its header is data of a disk, and nothing ever follows it.
    with pytest.raises(ImageRefused, match="bears the mark of qcow2"):
        await take(folder, ImageImport(str(hostile), "raw"))
    assert left(folder) == []


async def test_what_fails_after_the_conversion_leaves_nothing_either(folder: Path, raw: Path) -> None:
    with pytest.raises(PreparationFailed):
        await import_image(Images(folder), ImageImport(str(raw), "raw"), NeverPrepared(), LIMITS, print)
    assert left(folder) == []


async def test_a_disk_over_the_limit_is_refused(folder: Path, tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.qcow2", tmp_path / "long.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", wide, "1T"], check=True)
    with pytest.raises(ImageRefused, match="at most 64 MB"):
        await take(folder, ImageImport(str(wide), "qcow2"))
    with long.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(TooLarge, match="more than 64 MB"):
        await take(folder, ImageImport(str(long), "raw"))
    assert left(folder) == []


# --- a web server -------------------------------------------------------------------------------------------


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts web servers at 127.0.0.1, each with one answer to everything; their URLs."""
    servers: list[asyncio.Server] = []

    async def start(answer: Answer, tls: ssl.SSLContext | None = None) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            writer.close()

        servers.append(await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls))
        port = servers[-1].sockets[0].getsockname()[1]
        return f"{'https' if tls else 'http'}://127.0.0.1:{port}/some.raw"

    yield start
    for server in servers:
        server.close()


def whole(data: bytes, extra: str = "") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode() + data)
        await writer.drain()

    return answer


def redirect(target: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    return answer


async def test_a_url_is_fetched_through_a_redirect_and_its_sum_is_checked(folder: Path, serve: Serve) -> None:
    good = hashlib.sha256(DISK).hexdigest()
    url = await serve(redirect(await serve(whole(DISK))))
    made = await take(folder, ImageImport(url, "raw", good))
    assert (made.name, made.origin) == ("some", url)
    with pytest.raises(ImageRefused, match=f"{good}, not {'1' * 64}"):
        await take(folder, ImageImport(url, "raw", "1" * 64, name="other"))
    with pytest.raises(InvalidValue, match="needs its checksum"):
        await take(folder, ImageImport(url, "raw", name="other"))
    assert left(folder) == sorted([made.disk.name, "some.json"])


async def test_a_server_whose_certificate_nobody_vouches_for_is_refused_until_its_authority_is_trusted(
    folder: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pki(pki := tmp_path / "pki", "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pki / "servercert.pem", pki / "serverkey.pem")
    url = await serve(whole(DISK), tls)
    wanted = ImageImport(url, "raw", hashlib.sha256(DISK).hexdigest())
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(Unavailable, match=r"^127\.0\.0\.1 shows a certificate .* trust: .+") as refused:
        await take(folder, wanted)
    assert "SSL_CERT_FILE" in refused.value.remedy
    assert left(folder) == []

    monkeypatch.setenv("SSL_CERT_FILE", str(pki / "cacert.pem"))
    assert (await take(folder, wanted)).origin == url
    elsewhere = replace(wanted, source=url.replace("127.0.0.1", "localhost"), name="other")
    with pytest.raises(Unavailable, match=r"^localhost shows a certificate .*ostname"):  # it is another's
        await take(folder, elsewhere)


async def test_the_secret_of_a_signed_url_is_kept_nowhere(
    sources: Sources, folder: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # of the root, as the backend logs
    sources.preparation = cast("Any", Unprepared())
    url = await serve(redirect(f"{await serve(whole(DISK))}?sig=hunter2"))
    made = await sources.import_image(
        OPERATOR, ImageImport(f"{url}?sig=hunter2", "raw", hashlib.sha256(DISK).hexdigest())
    )
    with pytest.raises(ImageRefused) as refused:
        await sources.import_image(OPERATOR, ImageImport(f"{url}?sig=hunter2", "raw", "1" * 64, name="other"))
    rows, _ = await sources._audit.list()
    assert {row.data.get("source") for row in rows if row.step == "intent"} == {url}
    assert made.origin == url
    told = (
        f"{rows}{made}{caplog.text}{refused.value}{refused.value.remedy}{(folder / 'some.json').read_text()}"
    )
    assert "hunter2" not in told


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
async def test_a_redirect_out_of_the_web_is_not_followed(folder: Path, serve: Serve, target: str) -> None:
    with pytest.raises(ImageRefused, match="not followed"):
        await take(folder, ImageImport(await serve(redirect(target)), "raw", "1" * 64))
    assert left(folder) == []


async def test_redirects_come_to_an_end(folder: Path, serve: Serve) -> None:
    with pytest.raises(ImageRefused, match="more than 5 times"):
        await take(folder, ImageImport(await serve(redirect("/again")), "raw", "1" * 64))


async def test_servers_that_lie_stall_or_flood_are_left_with_nothing(folder: Path, serve: Serve) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(30)

    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nabc")

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(1 << 20))
            await writer.drain()

    async def missing(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async def huge(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")

    for answer, kind, words in (
        (silent, TimedOut, "silent for 1 s"),
        (short, Unavailable, "cannot be fetched"),
        (endless, TooLarge, "more than 64 MB"),
        (huge, TooLarge, "more than 64 MB"),
        (missing, Unavailable, "answers 404"),
    ):
        with pytest.raises(kind, match=words):
            await take(folder, ImageImport(await serve(answer), "raw", "1" * 64))
    assert left(folder) == []


async def test_a_slow_server_has_an_end_too(folder: Path, serve: Serve) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)

    wanted = ImageImport(await serve(drip), "raw", "1" * 64)
    with pytest.raises(TimedOut, match="longer than 1 s in all"):
        await import_image(Images(folder), wanted, Unprepared(), replace(LIMITS, fetch_s=1), print)


# --- who stands on an image ---------------------------------------------------------------------------------


class Fleet:
    """Rows, and stock that can be retired."""

    def __init__(self) -> None:
        self.rows: list[Sandbox] = []
        self.warming = False
        self.held: dict[str, str] = {}

    async def held_images(self) -> dict[str, str]:
        return self.held

    def is_warming(self) -> bool:
        return self.warming

    def warm_soon(self, host: object) -> None: ...

    def add(self, name: str, image: str, purpose: str = "agent") -> Sandbox:
        row = Sandbox(
            id=f"SBX-{len(self.rows):08x}", sandbox_name=name, base_image=image, purpose=purpose,
            phase=Phase.PAUSED, created_at=now(), updated_at=now(),
        )  # fmt: skip
        self.rows.append(row)
        return row

    async def all_live(self) -> list[Sandbox]:
        return list(self.rows)

    async def retire(self, image: str) -> None:
        self.rows = [row for row in self.rows if row.purpose != "stock" or row.base_image != image]


class Machine:
    """Templates by the disk that they stand on."""

    def __init__(self) -> None:
        self.templates: dict[str, str] = {}
        self.stood_on: set[str] = set()
        self.forgotten: list[Path] = []

    async def templates_of(self, sha256: str) -> list[str]:
        return [key for key, disk in self.templates.items() if disk == sha256]

    async def is_free_template(self, key: str) -> bool:
        return key not in self.stood_on

    async def remove_template(self, key: str) -> None:
        del self.templates[key]

    async def forget_image(self, files: list[Path]) -> None:
        self.forgotten += files


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def sources(folder: Path, store: Store, tmp_path: Path, fleet: Fleet, machine: Machine) -> Sources:
    audit = Audit(store, tmp_path / "spool", tmp_path / "key", tmp_path / "head")

    async def told(question: Callable[[Machine], Awaitable[list[str]]]) -> list[str]:
        return await question(machine)

    hosts = [SimpleNamespace(up=True, require=lambda: machine, told=told, warm={"base"}, cannot={})]
    return Sources(Config(), Images(folder), audit, cast("Stock", fleet), cast("Hosts", hosts))


async def test_operators_see_who_stands_on_an_image_and_agents_do_not(
    sources: Sources, folder: Path, raw: Path, fleet: Fleet, machine: Machine
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    fleet.add("web", "base")
    fleet.add("stock-1", "base", "stock")
    fleet.add("db", "other")
    machine.templates = {"abc": made.sha256, "def": "other"}
    (seen,) = await sources.list(OPERATOR)
    assert (seen.kind, seen.origin, seen.used_by) == ("imported", str(raw), 2)
    assert (seen.sandboxes, seen.stock, seen.templates) == (["web"], ["stock-1"], ["abc"])
    (hidden,) = await sources.list(AGENT)
    assert (hidden.path, hidden.origin, hidden.sandboxes, hidden.templates) == ("", "", [], [])


async def test_an_image_in_use_stays_whole_and_its_users_are_named(
    sources: Sources, folder: Path, raw: Path, fleet: Fleet, machine: Machine
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    machine.templates = {"abc": made.sha256}
    fleet.add("web", "base")
    fleet.add("stock-1", "base", "stock")
    with pytest.raises(ImageInUse, match="base is in use by web") as caught:
        await sources.remove(OPERATOR, "base")
    assert caught.value.details == {"sandboxes": ["web"]}
    assert Images(folder).list() == [made]
    assert machine.templates
    assert len(fleet.rows) == 2


async def test_an_image_that_a_roll_back_needs_stays_and_it_is_said_why(
    sources: Sources, folder: Path, raw: Path, fleet: Fleet
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    fleet.held = {made.sha256: "a roll back of APR-1 needs it until 2026-12-30"}
    with pytest.raises(ImageInUse, match="base: a roll back of APR-1 needs it until 2026-12-30"):
        await sources.remove(OPERATOR, "base")
    assert Images(folder).list() == [made]


YOUNG, OLD = timedelta(days=29), timedelta(days=31)


@pytest.mark.parametrize(
    ("kind", "age", "is_held"),
    [
        (RunKind.APPLY, YOUNG, True),
        (RunKind.APPLY, OLD, False),
        (RunKind.ROLLBACK, YOUNG, False),  # what took an apply back is not taken back
    ],
)
async def test_a_former_image_stays_as_long_as_an_apply_may_be_rolled_back_and_gc_says_so(
    folder: Path, raw: Path, store: Store, kind: RunKind, age: timedelta, is_held: bool
) -> None:
    """The sandbox that it was rehearsed for is destroyed, and the image was built anew since."""
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    record = folder / f"base.{made.sha256[:16]}.former"
    (folder / "base.json").rename(record)
    began = now() - age
    await store.runs.insert(Run(id="RUN-1", kind=kind, state=RunState.SUCCESSFUL, started_at=began))
    await store.approvals.insert(
        Approval(
            id="APR-1", sandbox_id="SBX-gone", source=f"base@{made.sha256}", playbook_id="PBK-1",
            targets=["web-01"], reason="a", requester_uid=1, state=ApprovalState.APPLIED, apply_run="RUN-1",
            created_at=began, updated_at=began, expires_at=began,
        )
    )  # fmt: skip
    fleet: Any = Leftovers.__new__(Leftovers)
    fleet._hosts, fleet._asked, fleet._store = [], [], store
    fleet._parts = SimpleNamespace(images=Images(folder))
    told = await fleet.leftovers(OPERATOR)
    assert [one.name for one in told.found] == ([] if is_held else [record.name])
    until = f"a roll back of APR-1 needs it until {began + KEPT_FOR:%Y-%m-%d}"
    assert told.held == ([f"image {record.name} stays: {until}"] if is_held else [])


async def test_an_image_whose_template_is_being_made_stays(
    sources: Sources, folder: Path, raw: Path, fleet: Fleet
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    fleet.warming = True
    with pytest.raises(WrongState, match="templates are being made"):
        await sources.remove(OPERATOR, "base")
    assert Images(folder).list() == [made]


async def test_an_image_that_another_installation_s_guest_has_open_stays(
    sources: Sources, folder: Path, raw: Path, tmp_path: Path
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    door = tmp_path / "nbd"
    reader = await asyncio.create_subprocess_exec(
        "qemu-nbd", "--read-only", "--persistent", "-f", "qcow2", "-k", door, made.disk
    )
    try:
        async with asyncio.timeout(10):
            while not door.exists():
                await asyncio.sleep(0.02)
        with pytest.raises(ImageInUse, match="another installation"):
            await sources.remove(OPERATOR, "base")
        assert Images(folder).list() == [made]
    finally:
        reader.terminate()
        await reader.wait()
    assert await sources.remove(OPERATOR, "base") > 0


async def test_removing_takes_stock_templates_and_files_and_leaves_what_others_name(
    sources: Sources, folder: Path, raw: Path, fleet: Fleet, machine: Machine, store: Store
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    other = replace(made, name="same-disk")
    Images(folder).put(other)
    fleet.add("stock-1", "base", "stock")
    machine.templates = {"abc": made.sha256}
    assert await sources.remove(OPERATOR, "base") == 0, "its disk is another image's too"
    assert Images(folder).list() == [other]
    assert machine.templates
    assert fleet.rows == []
    assert await sources.remove(OPERATOR, "same-disk") > 0
    assert machine.templates == {}
    assert machine.forgotten[-1:] == [made.disk]
    assert left(folder) == []
    with pytest.raises(ImageNotFound):
        await sources.remove(OPERATOR, "base")
    rows, _ = await store.audit.list({"action": "image.remove"}, after_seq=0, limit=10)
    assert [json.loads(line)["step"] for line, _ in rows[:2]] == ["outcome", "intent"]


async def test_a_start_undoes_or_finishes_what_was_killed(
    sources: Sources, folder: Path, raw: Path, store: Store
) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    (folder / "base.json").rename(folder / "base.removed")
    (folder / ".import-dead").mkdir()
    (folder / ".import-dead/source").write_bytes(DISK)
    assert Images(folder).list() == []
    await sources.recover()
    assert Images(folder).list() == [made]
    assert not (folder / ".import-dead").exists()
    (folder / "base.json").rename(folder / "base.removed")
    made.disk.unlink()
    await sources.recover()
    assert left(folder) == []
    rows, _ = await store.audit.list({"action": "fleet.reconcile"}, after_seq=0, limit=10)
    assert len(rows) == 3


async def test_a_removal_that_was_killed_can_be_repeated(sources: Sources, folder: Path, raw: Path) -> None:
    made = await take(folder, ImageImport(str(raw), "raw", name="base"))
    (folder / "base.json").rename(folder / "base.removed")
    assert await sources.remove(OPERATOR, "base") > 0
    assert not made.disk.exists()
