"""What an operator sees of the command line: exit codes, one-line errors, JSON, hostile words harmless."""

from __future__ import annotations

import base64
import gc
import hashlib
import http.server
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from typer.main import get_command

from backend.cli import app as program
from backend.cli import approvals, console, doctor, main, options, piped, sandboxes, snapshots
from backend.cli.app import NOUNS, run
from backend.cli.approvals import question
from backend.cli.common import door
from backend.cli.terminal import painted_screen, split_keys
from backend.client.calls import STDIN_LIMIT_BYTES
from backend.demo import cli as demo_cli
from backend.environment import as_given
from backend.errors import BackendDown, all_errors
from backend.models import Approval, ApprovalState, Evidence, PaneScreen, Playbook, TargetEvidence, now
from backend.paths import Paths

SANDBOX = {
    "id": "SBX-0000000a",
    "sandbox_name": "web\x1b[31m",
    "agent_id": "me",
    "owner_name": "bot",
    "host_name": "local",
    "phase": "running",
    "ip_address": "10.231.0.2",
    "expires_at": None,
    "last_activity_at": None,
    "reason": "",
}
STATUS = {
    "version": "0.1.0",
    "sandboxes": {"running": 2},
    "waiting": 1,
    "hosts": [{"name": "local", "status": "up", "virt": "qemu"}],
    "components": [{"name": "postgresql", "status": "ok", "message": "18.4"}],
    "audit": {"ok": True, "rows": 12},
}
UNSIGNED = "no signed head: a cut tail would not be seen"
APPROVAL = {
    "id": "APR-4f2a0000",
    "short_id": "4f2a",
    "state": "pending",
    "targets": ["web-01"],
    "digest": "d1",
    "outcome": "",
    "said_by_targets": "",
}


class FakeBackend(http.server.ThreadingHTTPServer):
    """Answers from a table, and remembers what it was asked."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.later: dict[str, list[Any]] = {}  # what is answered to a question that comes again, in order
        self.after: dict[str, str] = {}  # a question that is answered once another one came twice
        self._came = threading.Condition()
        super().__init__(str(path), Handler)  # type: ignore[arg-type]

    def note(self, method: str, path: str, body: Any) -> None:
        with self._came:
            self.asked.append((method, path, body))
            self._came.notify_all()
            if first := self.after.get(f"{method} {path}"):
                self._came.wait_for(lambda: self.times(first) > 1, 10)

    def times(self, question: str) -> int:
        return sum(f"{method} {path}" == question for method, path, _ in self.asked)

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeBackend
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path, _, query = self.path.partition("?")
        self.server.note(self.command, path, json.loads(body) if body else None)
        unknown = (404, {"error": f"no route {path}", "error_code": "route_not_found", "remedy": "look"})
        question = f"{self.command} {path}"
        status, told = self.server.answers.get(question, unknown)
        if later := self.server.later.get(question):
            self.server.answers[question] = (200, later.pop(0))
        if callable(told):
            told = told(dict(parse_qsl(query)))
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBackend]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operator.sock"
        server = FakeBackend(path)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("FLUID_SOCKET", str(path))
        door.cache_clear()
        yield server
        door().close()
        server.shutdown()
        thread.join()
        server.server_close()
        door.cache_clear()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLUID_SOCKET", raising=False)
    monkeypatch.setenv("FLUID_HOME", str(tmp_path))
    door.cache_clear()


Capture = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        ("status", 6),
        ("sandboxes list", 6),
        ("approvals approve APR-12345678 --digest d", 6),
        ("nonsense", 2),
        ("sandboxes list --nonsense", 2),
        ("sandboxes create", 2),
        ("sandboxes create x --cpu 0", 2),
        ("asks answer ASK-1", 2),
        ("help nonsense", 3),
        ("demo", 2),
    ],
)
def test_an_error_is_one_line_with_what_to_do_and_its_exit_code(
    words: str, exit_code: int, capsys: Capture
) -> None:
    assert run(words.split()) == exit_code
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"fluid: .+ — .+\n", told.err), told.err


@pytest.mark.parametrize(
    "kind", [kind for kind in all_errors() if kind.status >= 400], ids=lambda kind: kind.code
)
def test_every_error_of_the_backend_becomes_its_exit_code(
    backend: FakeBackend, kind: Any, capsys: Capture
) -> None:
    backend.answers["GET /v1/status"] = (kind.status, kind("it\nfailed", remedy="mend it").body("r"))
    assert run(["status"]) == kind.exit_code
    assert capsys.readouterr().err == "fluid: it failed — mend it\n"


def test_sandboxes_are_listed_by_state_agent_and_host(backend: FakeBackend, capsys: Capture) -> None:
    asked: list[dict[str, str]] = []

    def told(query: dict[str, str]) -> dict[str, Any]:
        asked.append(query)
        return {"sandboxes": [], "total": 0}

    backend.answers["GET /v1/sandboxes"] = (200, told)
    assert run(["sandboxes", "list", "--host", "kvm-02", "--json"]) == 0
    assert run(["sandboxes", "list", "--state", "running", "--agent", "me"]) == 0
    here, there = ({name: one for name, one in query.items() if name != "limit"} for query in asked)
    assert here == {"host_name": "kvm-02", "offset": "0"}
    assert there == {"state": "running", "agent_id": "me", "offset": "0"}


def test_an_agents_words_do_not_act_on_the_terminal(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/sandboxes"] = (200, {"sandboxes": [SANDBOX], "total": 1})
    assert run(["sandboxes", "list"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run(["sandboxes", "list", "--json"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_create_that_waits_says_for_what(
    backend: FakeBackend, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "LOOK_S", 0.01)
    reason = "waits for its turn on local: 3 before it, about 9 s"
    waiting = SANDBOX | {"sandbox_name": "web", "phase": "creating", "reason": reason}
    backend.answers["GET /v1/sandboxes"] = (200, {"sandboxes": [waiting], "total": 1})
    backend.answers["POST /v1/sandboxes"] = (201, {"sandbox": SANDBOX | {"ready_s": 1.5}})
    backend.after["POST /v1/sandboxes"] = "GET /v1/sandboxes"
    assert run(["sandboxes", "create", "debian-12", "--name", "web"]) == 0
    told = capsys.readouterr()
    assert told.out == "SBX-0000000a web␛[31m running at 10.231.0.2 in 1.5 s\n"
    assert told.err == f"web {reason}\n"
    assert run(["sandboxes", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"\t{reason}")


def _of_many(query: dict[str, str]) -> dict[str, Any]:
    """Newest first and a page of them, as the backend answers; web is the oldest."""
    names = [*(f"box-{number}" for number in range(1200)), "web"]
    rows = [SANDBOX | {"id": f"SBX-{at:08x}", "sandbox_name": name} for at, name in enumerate(names)]
    found = [row for row in rows if query.get("vm_name") in (None, row["sandbox_name"])]
    return {"sandboxes": found[: int(query["limit"])], "total": len(found)}


def test_a_sandbox_is_found_by_name_however_many_there_are(
    backend: FakeBackend, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answers["GET /v1/sandboxes"] = (200, _of_many)
    stopped = {"sandbox": {**SANDBOX, "phase": "stopped"}}
    backend.answers["POST /v1/sandboxes/SBX-000004b0/stop"] = (200, stopped)
    assert run(["sandboxes", "stop", "web"]) == 0
    monkeypatch.setattr(sandboxes, "LOOK_S", 0.01)
    reason = SANDBOX | {"sandbox_name": "web", "reason": "waits for its turn"}
    backend.answers["GET /v1/sandboxes"] = (
        200,
        lambda query: {"sandboxes": [reason] if query.get("vm_name") == "web" else []},
    )
    with sandboxes.telling_why("web"):
        time.sleep(0.5)
    assert "web waits for its turn" in capsys.readouterr().err


def test_the_audit_of_a_sandbox_is_asked_for_by_name_or_id(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/sandboxes"] = (200, _of_many)
    row = {
        "seq": 7,
        "at": "2026-11-24T12:00:00",
        "actor_name": "ops",
        "action": "sandbox.stop",
        "step": "intent",
    }
    backend.answers["GET /v1/audit"] = (
        200,
        lambda query: {"rows": [row | {"id": "it"}] if query.get("sandbox_id") == "SBX-000004b0" else []},
    )
    for words in ("web", "SBX-000004b0"):
        assert run(["audit", "list", "--sandbox", words]) == 0
        assert "sandbox.stop" in capsys.readouterr().out
    assert run(["audit", "list", "--sandbox", "none"]) == 3


def test_the_question_before_a_yes_counts_the_opaque_tasks() -> None:
    told = {"short_id": "4f2a", "targets": ["web-01", "web-02"], "evidence": {"opaque": []}}
    assert question(told) == "Type 4f2a to run this on web-01, web-02"
    told["evidence"] = {"opaque": ["a", "b"]}
    assert question(told) == "Type 4f2a to run this on web-01, web-02, with 2 opaque tasks"


def test_status_says_who_waits(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/status"] = (200, STATUS)
    assert run(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fluid 0.1.0 · 2 running · 1 needs you · audit ok (12 rows)",
        "host local: up emulated",
        "postgresql: ok 18.4",
    ]


CA = {
    "current": {
        "public_key": "ssh-ed25519 NEW",
        "fingerprint": "SHA256:new",
        "since": "2026-11-24T10:00:00Z",
    },
    "pending": None,
    "old": {
        "public_key": "ssh-ed25519 OLD",
        "fingerprint": "SHA256:old",
        "trusted_until": "2026-11-24T10:10Z",
    },
    "behind": ["web\x1b[31m"],
}


def test_the_ca_shows_its_keys_and_who_was_not_told(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/ca"] = (200, CA)
    assert run(["ca", "show"]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    for words in (
        "ssh-ed25519 NEW",
        "SHA256:new",
        "2026-11-24T10:00:00Z",
        "SHA256:old, trusted until",
        "web",
    ):
        assert words in told


def test_a_new_ca_key_is_asked_for_once(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["POST /v1/ca/rotate"] = (200, CA)
    assert run(["ca", "rotate"]) != 0 and backend.asked == []
    assert run(["ca", "rotate", "--yes"]) == 0
    assert [asked[:2] for asked in backend.asked] == [("POST", "/v1/ca/rotate")]
    assert "SHA256:new" in capsys.readouterr().out


@pytest.mark.parametrize(("source", "is_image"), [("debian-12", True), ("golden", False)])
def test_a_machine_is_told_what_to_trust_and_an_image_needs_nothing(
    backend: FakeBackend, capsys: Capture, source: str, is_image: bool
) -> None:
    backend.answers["GET /v1/ca"] = (200, CA)
    backend.answers["GET /v1/sources"] = (200, {"sources": [{"name": "debian-12"}]})
    assert run(["ca", "install", source]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for line in (
        "ssh-ed25519 NEW",
        "ssh-ed25519 OLD",
        "TrustedUserCAKeys /etc/ssh/fluid_ca.pub",
        "PermitRootLogin prohibit-password",
    ):
        assert (line in lines) is not is_image
    assert ("There is nothing to install." in lines) is is_image


def test_json_is_what_the_backend_said(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/status"] = (200, STATUS)
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_a_commands_exit_status_is_ours(backend: FakeBackend) -> None:
    done = {"command": {"exit_code": 42, "timed_out": False}}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/run"] = (200, done)
    assert run(["sandboxes", "exec", "SBX-0000000a", "--json", "--", "grep", "a b", "-c"]) == 42
    assert backend.asked[-1][2] == {"command": "grep 'a b' -c"}


@pytest.fixture
def stdin() -> Iterator[Callable[[int], None]]:
    """Puts a file descriptor in the place of standard input, and closes it afterwards."""
    ours = os.dup(0)
    yield lambda given: (os.dup2(given, 0), os.close(given))  # type: ignore[func-returns-value]
    os.dup2(ours, 0)
    os.close(ours)


Given = Callable[[int], None]
RUN = "POST /v1/sandboxes/SBX-0000000a/run"
DONE = (200, {"command": {"exit_code": 0, "timed_out": False}})
TEE = ["sandboxes", "exec", "SBX-0000000a", "--json", "tee /x"]


def _holding(data: bytes) -> int:
    file = os.memfd_create("given")
    os.write(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def test_what_is_piped_in_reaches_the_command_byte_for_byte(backend: FakeBackend, stdin: Given) -> None:
    data = b"\0\xff" + os.urandom(STDIN_LIMIT_BYTES - 2)
    backend.answers[RUN] = DONE
    stdin(_holding(data))
    assert run(TEE) == 0
    assert base64.b64decode(backend.asked[-1][2]["stdin_base64"]) == data


def test_what_is_piped_in_can_be_left_to_others(backend: FakeBackend, stdin: Given) -> None:
    backend.answers[RUN] = DONE
    stdin(_holding(b"the list of a shell loop"))
    assert run([*TEE, "--no-stdin"]) == 0
    assert backend.asked[-1][2] == {"command": "tee /x"}
    assert os.read(0, 8) == b"the list"


def test_too_much_input_is_told_with_the_way_that_works_and_runs_nothing(
    backend: FakeBackend, stdin: Given, capsys: Capture
) -> None:
    stdin(_holding(bytes(STDIN_LIMIT_BYTES + 1)))
    assert run(TEE) == 8
    assert "PUT /v1/sandboxes/{id}/files" in capsys.readouterr().err
    assert backend.asked == []


def test_an_open_pipe_that_nobody_uses_does_not_hold_the_command_up(
    backend: FakeBackend, stdin: Given, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piped, "BEGIN_S", 0.05)
    backend.answers[RUN] = DONE
    ours, theirs = os.pipe()
    stdin(ours)
    assert run(TEE) == 0
    assert backend.asked[-1][2] == {"command": "tee /x"}
    assert "--stdin waits" in capsys.readouterr().err
    os.close(theirs)


def test_a_terminal_is_not_read(backend: FakeBackend, stdin: Given, capsys: Capture) -> None:
    backend.answers[RUN] = DONE
    ours, theirs = pty.openpty()
    os.write(ours, b"typed ahead\n")
    stdin(theirs)
    assert run(TEE) == 0
    assert backend.asked[-1][2] == {"command": "tee /x"}
    assert capsys.readouterr().err == ""
    os.close(ours)


def test_a_sandbox_is_found_by_name_and_an_unknown_one_is_not(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/sandboxes"] = (
        200,
        {"sandboxes": [{**SANDBOX, "sandbox_name": "web"}], "total": 1},
    )
    backend.answers["POST /v1/sandboxes/SBX-0000000a/stop"] = (
        200,
        {"sandbox": {**SANDBOX, "phase": "stopped"}},
    )
    assert run(["sandboxes", "stop", "web"]) == 0
    assert "stopped" in capsys.readouterr().out
    assert run(["sandboxes", "stop", "other"]) == 3


IMAGE = {"name": "noble", "sha256": "ab" * 32, "packages": 7, "build_s": 61.2}


def test_the_list_of_images_tells_what_each_takes_and_who_stands_on_it(
    backend: FakeBackend, capsys: Capture
) -> None:
    known = {"kind": "import", "arch": "x86_64", "built_at": "2026-01-01T00:00:00Z"}
    used = {"sandboxes": ["web-1", "db\x1b[31m"], "stock": ["SBX-1", "SBX-2"], "templates": ["one"]}
    unused: dict[str, list[str]] = {"sandboxes": [], "stock": [], "templates": []}
    rows = [
        {**IMAGE, **known, **used, "size_bytes": 612 << 20},
        {**IMAGE, **known, **unused, "name": "former", "size_bytes": (3 << 20) - 1},
    ]
    backend.answers["GET /v1/images"] = (200, {"images": rows})
    assert run(["images", "list"]) == 0
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    titles = ("name", "used", "used by")
    told = [tuple(row[shown[0].index(title)] for title in titles) for row in shown[1:]]
    assert told == [
        ("noble", "612 MiB", "web-1, db␛[31m, 2 stock, 1 templates"),
        ("former", "2 MiB", ""),
    ]


def test_an_imported_file_is_named_by_its_whole_path_and_a_url_as_it_is(
    backend: FakeBackend, capsys: Capture
) -> None:
    backend.answers["POST /v1/images/import"] = (201, IMAGE)
    assert run(["images", "import", "some.img", "--format", "raw"]) == 0
    url = "https://cloud.test/noble.img"
    assert run(["images", "import", url, "--format", "qcow2", "--sha256", "AB" * 32, "--name", "noble"]) == 0
    file, web = [body for _, _, body in backend.asked]
    assert file == {"source": str(Path.cwd() / "some.img"), "format": "raw", "sha256": "", "name": ""}
    assert web == {"source": url, "format": "qcow2", "sha256": "ab" * 32, "name": "noble"}
    assert "noble abababababab: 7 packages, 61 s" in capsys.readouterr().out


def test_an_import_without_a_named_format_never_reaches_the_backend(
    backend: FakeBackend, capsys: Capture
) -> None:
    assert run(["images", "import", "some.img"]) == 2
    assert run(["images", "import", "some.img", "--format", "vmdk"]) == 2
    assert backend.asked == []
    capsys.readouterr()


def test_a_failed_preparation_quotes_the_console_which_does_not_act_on_the_terminal(
    backend: FakeBackend, capsys: Capture
) -> None:
    failed = {
        "error": "noble could not be prepared", "error_code": "preparation_failed", "remedy": "another",
        "details": {"console": ["fluid: step ssh", "\x1b]0;owned\x07"]},
    }  # fmt: skip
    backend.answers["POST /v1/images/import"] = (503, failed)
    assert run(["images", "import", "some.img", "--format", "raw"]) == 6
    told = capsys.readouterr().err
    assert "  | fluid: step ssh\n" in told
    assert "could not be prepared" in told.splitlines()[-1]
    assert "\x1b" not in told and "\x07" not in told


CHECKED = {
    "domain": "web", "host": "local", "state": "running", "changes": ["a daemon is installed\x1b[31m"],
    "findings": [{"name": "ssh", "status": "ok", "message": "there", "remedy": ""}],
    "secrets": [{"path": "/etc/shadow", "kind": "password hashes"}],
    "secrets_known": True, "secrets_cut": True,
}  # fmt: skip


def test_preparing_a_source_shows_changes_and_secrets_and_needs_a_yes(
    backend: FakeBackend, capsys: Capture
) -> None:
    backend.answers["POST /v1/sources/web/check"] = (200, CHECKED)
    backend.answers["POST /v1/sources/web/prepare"] = (201, {**IMAGE, "origin": "domain web of local, off"})
    assert run(["sources", "prepare", "web"]) == 2
    shown = capsys.readouterr().out
    assert "a daemon is installed" in shown and "\x1b" not in shown
    assert "/etc/shadow: password hashes" in shown and "there may be more" in shown
    assert [path for _, path, _ in backend.asked] == ["/v1/sources/web/check"]
    assert run(["sources", "prepare", "web", "--as-it-is", "--yes"]) == 0
    assert backend.asked[-1] == ("POST", "/v1/sources/web/prepare", {"as_it_is": True})
    assert "domain web of local, off" in capsys.readouterr().out


def test_a_check_that_met_a_limit_calls_no_disk_clean(backend: FakeBackend, capsys: Capture) -> None:
    for cut, words in (
        (False, "No secret was found on its disk."),
        (True, "as far as it was looked through"),
    ):
        told = {**CHECKED, "secrets": [], "secrets_cut": cut}
        backend.answers["POST /v1/sources/web/check"] = (200, told)
        assert run(["sources", "check", "web"]) == 0
        assert words in capsys.readouterr().out


def test_removing_an_image_needs_a_yes_and_tells_what_is_free_again(
    backend: FakeBackend, capsys: Capture
) -> None:
    assert run(["images", "remove", "noble"]) == 2
    assert backend.asked == []
    backend.answers["DELETE /v1/images/noble"] = (200, {"name": "noble", "freed_bytes": 5_000_000})
    assert run(["images", "remove", "noble", "--yes"]) == 0
    assert "5 MB are free again" in capsys.readouterr().out


def test_destroying_needs_a_yes(backend: FakeBackend) -> None:
    assert run(["sandboxes", "destroy", "SBX-0000000a"]) == 2
    assert backend.asked == []


def test_approving_without_a_terminal_needs_the_digest(backend: FakeBackend) -> None:
    backend.answers["POST /v1/approvals/APR-4f2a0000/approve"] = (200, {**APPROVAL, "state": "approved"})
    backend.answers["GET /v1/approvals"] = (200, {"approvals": [APPROVAL]})
    assert run(["approvals", "approve", "4f2a"]) == 2
    assert not any(path.endswith("/approve") for _, path, _ in backend.asked)
    assert run(["approvals", "approve", "4f2a", "--digest", "d1"]) == 0
    assert backend.asked[-1][2]["digest"] == "d1"


@pytest.mark.parametrize(
    ("states", "exit_code", "words"),
    [
        (["rejected", "pending"], 0, ""),
        (["pending", "pending"], 3, "2 requests are called '4f2a': APR-4f2a0000, APR-4f2a0001 — "),
        (["rejected", "failed"], 3, "2 requests are called '4f2a': APR-4f2a0000, APR-4f2a0001 — "),
        ([], 3, "no request '4f2a' — "),
    ],
)
def test_a_short_id_means_the_one_open_request_that_has_it(
    backend: FakeBackend, capsys: Capture, states: list[str], exit_code: int, words: str
) -> None:
    rows = [APPROVAL | {"id": f"APR-4f2a000{at}", "state": state} for at, state in enumerate(states)]
    backend.answers["GET /v1/approvals"] = (200, {"approvals": rows})
    backend.answers["GET /v1/approvals/APR-4f2a0001"] = (200, APPROVAL)
    assert run(["approvals", "show", "4f2a", "--json"]) == exit_code
    assert words in capsys.readouterr().err


def _tried(digest: str, dry_run: dict[str, Any], state: str = "pending") -> dict[str, Any]:
    """A request with the evidence of this dry run."""
    names = ("residual", "opaque", "unrehearsed", "risk")
    evidence = {name: [] for name in names} | {"counts": {}, "failure": "", "dry_run": dry_run}
    unmeasured = {"rehearsal": None, "again_changed": None, "read_from": "the disk"}
    words = ("progress", "requester_name", "agent_id", "sandbox_name", "sandbox_id", "reason", "apply_run")
    row = dict.fromkeys((*words, "rolls_back", "playbook_id"), "x")
    asked = {"state": state, "digest": digest, "requester_uid": 1, "expires_at": None, "targets": ["a", "b"]}
    return row | APPROVAL | asked | {"evidence": evidence | unmeasured}


def _result(run_id: str, error: str = "") -> dict[str, Any]:
    return {"run_id": run_id, "error": error, "result": {"ok": 1}, "differs": []}


OLD, NEW = _result("RUN-1", "it was down"), _result("RUN-2")


@pytest.mark.parametrize(
    ("before", "later", "shown"),
    [
        ({}, [{}, {"a": NEW, "b": NEW}], NEW),
        ({"a": OLD, "b": OLD}, [{"a": OLD, "b": OLD}, {"a": NEW, "b": OLD}, {"a": NEW, "b": NEW}], NEW),
        ({}, [{}, {"a": OLD, "b": OLD}], OLD),
    ],
)
def test_a_dry_run_is_waited_for_on_every_target(
    backend: FakeBackend,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    before: Any,
    later: Any,
    shown: Any,
) -> None:
    monkeypatch.setattr(approvals, "LOOK_S", 0.001)
    monkeypatch.setattr(approvals, "TELL_S", 0.0)
    path = "/v1/approvals/APR-4f2a0000"
    first, *rest = (_tried("", row) for row in later)
    backend.answers |= {f"POST {path}/dry-run": (200, _tried("", before)), f"GET {path}": (200, first)}
    backend.later[f"GET {path}"] = rest
    assert run(["approvals", "dry-run", "APR-4f2a0000", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["evidence"]["dry_run"] == {"a": shown, "b": shown}
    assert told.err.splitlines() == ["dry run on a, b …", *["dry run on a, b … 0s"] * len(later)]


def test_a_dry_run_is_not_waited_for_when_the_request_is_over_nor_for_ever(
    backend: FakeBackend, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "LOOK_S", 0.001)
    path = "/v1/approvals/APR-4f2a0000"
    backend.answers |= {
        f"POST {path}/dry-run": (200, _tried("", {})),
        f"GET {path}": (200, _tried("", {}, "rejected")),
    }
    assert run(["approvals", "dry-run", "APR-4f2a0000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "rejected"
    monkeypatch.setattr(approvals, "DRY_RUN_S", 0.0)
    assert run(["approvals", "dry-run", "APR-4f2a0000"]) == 7
    assert "the dry run on a, b goes on after 0s — " in capsys.readouterr().err


def test_what_is_approved_is_the_dry_run_that_was_waited_for(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "LOOK_S", 0.001)
    monkeypatch.setattr(approvals, "drop_typed_ahead", lambda: None)
    monkeypatch.setattr(sys, "stdin", Terminal("4f2a\n"))
    path = "/v1/approvals/APR-4f2a0000"
    untried, tried = _tried("", {}), _tried("d2", {"a": NEW, "b": NEW})
    backend.answers |= {
        f"GET {path}": (200, untried),
        f"POST {path}/dry-run": (200, untried),
        f"POST {path}/approve": (200, APPROVAL | {"state": "approved"}),
        "GET /v1/playbooks/x": (200, {"yaml": "- hosts: all", "kept": False, "secrets": []}),
    }
    backend.later[f"GET {path}"] = [untried, tried]
    assert run(["approvals", "approve", "APR-4f2a0000"]) == 0
    assert backend.asked[-1][2]["digest"] == "d2"


def _asked(state: ApprovalState = ApprovalState.PENDING, **fields: Any) -> dict[str, Any]:
    at = now()
    one = Approval(
        id="APR-4f2a0000", sandbox_id="SBX-1", playbook_id="PBK-1", targets=["web-01"], reason="tls",
        requester_uid=1, state=state, created_at=at, updated_at=at, expires_at=at, **fields,
    )  # fmt: skip
    return one.model_dump(mode="json")


REQUEST = ["approvals", "request", "SBX-0000000a", "--playbook", "PBK-1", "--reason", "serve the docs"]


@pytest.mark.parametrize(
    ("ended", "status", "said"),
    [
        ({"state": ApprovalState.APPLIED}, 0, "is applied\n"),
        ({"state": ApprovalState.REJECTED, "outcome": "use the unit"}, 4, "is rejected: use the unit\n"),
        (
            {"state": ApprovalState.FAILED, "said_by_targets": "a: no \x1bspace"},
            4,
            "is failed: a: no ␛space\n",
        ),
        (
            {"state": ApprovalState.DRAFTING, "evidence": Evidence(failure="nginx -t failed")},
            4,
            "is drafting: nginx -t failed\n",
        ),
    ],
)
def test_a_request_for_production_waits_for_its_end_and_tells_it(
    backend: FakeBackend, capsys: Capture, ended: dict[str, Any], status: int, said: str
) -> None:
    begun = _asked(state=ApprovalState.REHEARSING)
    told = _asked(**ended)
    backend.answers["POST /v1/approvals"] = (202, begun)
    backend.answers[f"GET /v1/approvals/{begun['id']}"] = (200, begun)
    backend.later[f"GET /v1/approvals/{begun['id']}"] = [told]
    assert run([*REQUEST, "--target", "web-01", "--target", "web-02"]) == status
    assert capsys.readouterr().out == f"{told['id']} {said}"
    assert backend.asked[0][2] == {
        "sandbox_id": "SBX-0000000a",
        "playbook": "PBK-1",
        "targets": ["web-01", "web-02"],
        "reason": "serve the docs",
    }


def test_a_request_for_production_need_not_be_waited_for(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["POST /v1/approvals"] = (202, _asked(state=ApprovalState.REHEARSING))
    assert run([*REQUEST, "--target", "web-01", "--no-wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "rehearsing"
    assert backend.times("POST /v1/approvals") == len(backend.asked) == 1


def test_what_the_rehearsal_did_not_try_is_shown_before_all_else(
    backend: FakeBackend, capsys: Capture
) -> None:
    """It may be approved all the same where `allow_unrehearsed` says so."""
    evidence = Evidence(
        unrehearsed=["Tune the kernel", "Restart web"],
        risk=["touches the firewall"],
        notes=["not quiesced", "packages are not told"],
    )
    evidence.dry_run["web-01"] = TargetEvidence(target="web-01", login="ops@10.0.0.1:22")
    backend.answers["GET /v1/approvals/APR-4f2a0000"] = (200, _asked(evidence=evidence))
    playbook = Playbook(id="PBK-1", name="web", sandbox_id="SBX-1", yaml="---", created_at=now())
    backend.answers["GET /v1/playbooks/PBK-1"] = (200, playbook.model_dump(mode="json"))
    assert run(["approvals", "show", "APR-4f2a0000"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("unrehearsed  Tune the kernel, Restart web\n")
    assert "\ntarget       web-01 ops@10.0.0.1:22\n" in told
    assert "\ndiff         not quiesced\ndiff         packages are not told\n" in told


def test_an_exported_playbook_is_a_folder_that_plain_ansible_reads(
    backend: FakeBackend, capsys: Capture, tmp_path: Path
) -> None:
    content = b"\xff not text\n"
    sha256 = hashlib.sha256(content).hexdigest()
    yaml = (
        "---\n- name: Ünï\n  hosts: all\n  gather_facts: false\n  tasks:\n    - name: Write it\n"
        f"      ansible.builtin.copy: {{src: files/{sha256}, dest: /srv/x, mode: '0644'}}\n"
    )
    told = Playbook(id="PBK-1", name="web", sandbox_id="SBX-1", yaml=yaml, created_at=now())
    told.files = {sha256: len(content)}
    backend.answers["GET /v1/playbooks/PBK-1"] = (200, told.model_dump(mode="json"))
    backend.answers[f"GET /v1/playbooks/PBK-1/files/{sha256}"] = (200, content)
    folder = tmp_path / "play"
    assert run(["playbooks", "export", "PBK-1", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: playbook.yml and 1 files\n"
    assert (folder / "files" / sha256).read_bytes() == content
    ansible = Path(sys.executable).parent / "ansible-playbook"
    argv = [ansible, "--syntax-check", "-i", "localhost,", "playbook.yml"]
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    subprocess.run(argv, cwd=folder, env=plain, check=True, capture_output=True)
    assert run(["playbooks", "export", "PBK-1", str(folder)]) == 4
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "changes"), [(["--changes"], True), ([], False)])
def test_a_reject_sends_the_reason_and_whether_it_asks_for_changes(
    backend: FakeBackend, capsys: Capture, options: list[str], changes: bool
) -> None:
    told = APPROVAL | {"state": "rejected", "outcome": "use the packaged unit"}
    backend.answers["POST /v1/approvals/APR-4f2a0000/reject"] = (200, told)
    assert run(["approvals", "reject", "APR-4f2a0000", "use the packaged unit", *options]) == 0
    assert capsys.readouterr().out == "APR-4f2a0000 is rejected: use the packaged unit\n"
    assert backend.asked[-1][2] == {"reason": "use the packaged unit", "changes_requested": changes}


def test_an_operator_reads_how_it_ended_and_what_targets_said(backend: FakeBackend, capsys: Capture) -> None:
    ended = {"state": "failed", "outcome": "the apply failed", "said_by_targets": "web-01: no space"}
    backend.answers["POST /v1/approvals/APR-4f2a0000/approve"] = (200, APPROVAL | ended)
    backend.answers["GET /v1/approvals"] = (200, {"approvals": [APPROVAL]})
    assert run(["approvals", "approve", "4f2a", "--digest", "d1"]) == 0
    assert capsys.readouterr().out == "APR-4f2a0000 is failed: the apply failed: web-01: no space\n"


@pytest.mark.parametrize(
    ("text", "mode", "exit_code"),
    [
        ("content_of_x: hunter2\n", 0o600, 0),
        ('{"content_of_x": "hunter2"}', 0o600, 0),
        ("content_of_x: hunter2\n", 0o640, 2),
        ("content_of_x: 5\n", 0o600, 2),
        ("hunter2: [", 0o600, 2),
    ],
)
def test_secrets_go_from_a_file_that_nobody_else_reads_to_the_backend_and_nowhere_else(
    backend: FakeBackend, capsys: Capture, tmp_path: Path, text: str, mode: int, exit_code: int
) -> None:
    backend.answers["POST /v1/approvals/APR-4f2a0000/approve"] = (200, {**APPROVAL, "state": "approved"})
    backend.answers["GET /v1/approvals"] = (200, {"approvals": [APPROVAL]})
    file = tmp_path / "secrets"
    file.write_text(text)
    file.chmod(mode)
    argv = ["approvals", "approve", "4f2a", "--digest", "d1", "--secrets-file", str(file)]
    assert run(argv) == exit_code
    sent = [body["secrets"] for _, path, body in backend.asked if path.endswith("/approve")]
    assert sent == ([{"content_of_x": "hunter2"}] if exit_code == 0 else [])
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err


def test_an_apply_is_taken_back_by_a_request_of_its_own(backend: FakeBackend, capsys: Capture) -> None:
    asked = {**APPROVAL, "state": "rehearsing", "rolls_back": "RUN-00000001"}
    backend.answers["POST /v1/runs/RUN-00000001/rollback"] = (202, asked)
    assert run(["runs", "rollback", "RUN-00000001"]) == 0
    assert capsys.readouterr().out == "APR-4f2a0000 is rehearsing: fluid approvals show 4f2a\n"


def test_a_broken_chain_names_the_row_and_exits_nine(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/audit/verify"] = (
        200,
        {"ok": False, "rows": 9, "first_bad": 4, "reason": "hash"},
    )
    assert run(["audit", "verify"]) == 9
    assert "row 4: hash" in capsys.readouterr().err


def test_a_kept_head_is_sent_along(backend: FakeBackend, tmp_path: Path, capsys: Capture) -> None:
    sent: list[dict[str, str]] = []

    def told(query: dict[str, str]) -> dict[str, Any]:
        sent.append(query)
        return {"ok": True, "rows": 9, "first_bad": None, "reason": ""}

    backend.answers["GET /v1/audit/verify"] = (200, told)
    (tmp_path / "kept").write_text('{"seq":3}')
    assert run(["audit", "verify", "--head", str(tmp_path / "kept")]) == 0
    assert sent == [{"head": '{"seq":3}'}]
    assert run(["audit", "verify", "--head", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ({"ok": True, "rows": 9, "reason": UNSIGNED}, 9, f"fluid: {UNSIGNED}"),
        ({"ok": True, "rows": 0, "reason": UNSIGNED}, 0, f"0 rows, the chain holds; {UNSIGNED}"),
        (
            {"ok": False, "rows": 0, "reason": "audit.head is not a signed head"},
            9,
            "fluid: audit.head is not a",
        ),
        ({"ok": True, "rows": 9, "reason": ""}, 0, "9 rows, the chain holds\n"),
    ],
    ids=["the head is gone", "nothing is signed yet", "the head is garbage", "well"],
)
def test_what_a_verification_could_not_see_is_told(
    backend: FakeBackend, capsys: Capture, told: dict[str, Any], code: int, words: str
) -> None:
    backend.answers["GET /v1/audit/verify"] = (200, {"first_bad": None, **told})
    assert run(["audit", "verify"]) == code
    shown = capsys.readouterr()
    assert words in shown.out + shown.err and "None" not in shown.err
    assert run(["audit", "verify", "--json"]) == code


def test_output_that_was_cut_says_how_much_there_was(backend: FakeBackend, capsys: Capture) -> None:
    sizes = {"truncated": True, "stdout_bytes": 5_000_000, "stderr_bytes": 0}
    done = {"command": {"exit_code": 0, "timed_out": False, **sizes}}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/run"] = (200, done)
    assert run(["sandboxes", "exec", "SBX-0000000a", "--json", "yes"]) == 0
    assert "5000000 bytes on stdout" in capsys.readouterr().err


def test_a_diff_says_what_changed_besides_the_content(backend: FakeBackend, capsys: Capture) -> None:
    plain = {"kind": "file", "mode": 0o755, "uid": 0, "gid": 0, "owner": "root", "group": "root"}
    before = {**plain, "target": None, "xattrs": {}, "text": None}
    link = {**before, "kind": "link", "target": "/etc/passwd"}
    row = {"hidden": "", "package": ""}
    files = [
        {**row, "path": "/etc/lnk", "verb": "added", "before": None, "after": link},
        {
            **row,
            "path": "/usr/bin/cut",
            "verb": "metadata",
            "before": before,
            "after": {**before, "mode": 0o4755, "same_file": ["/usr/bin/cut2"]},
        },
    ]
    files += [
        {**row, "path": "/n", "verb": "added", "before": None, "after": before, "renamed_from": "/o"},
        {**row, "path": "/o", "verb": "removed", "before": before, "after": None, "renamed_to": "/n"},
        {**row, "path": "/p", "verb": "removed", "before": before, "after": None, "renamed_to": "/tmp/p"},
        {**row, "path": "/tmp/p", "verb": "added", "before": None, "after": before, "hidden": "temporary"},
    ]
    none: dict[str, Any] = {"packages": [], "units": [], "users": [], "groups": [], "hidden": {}}
    job = {**row, "kind": "cron job", "name": "/bin/b\x1b", "verb": "modified"}
    changed = {"before": {"schedule": "0 1 * * *", "user": "root"}, "commands": ["CMD-1"]}
    settings = [
        {**job, **changed, "after": {"schedule": "0 2 * * *", "user": "root"}},
        {**job, **changed, "after": {}, "package": "cron"},
    ]
    changes = {"from_snapshot": "a", "to_snapshot": "b", "read_from": "disk", "files": files, **none}
    changes |= {"settings": settings, "notes": ["/etc/x\x1b: not read"]}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/diff"] = (200, {"diff": {"changes": changes}})
    assert run(["snapshots", "diff", "SBX-0000000a", "a", "b", "--to-sandbox", "SBX-0000000b"]) == 0
    points = {"from_snapshot": "a", "to_snapshot": "b", "to_sandbox": "SBX-0000000b"}
    assert backend.asked[-1] == ("POST", "/v1/sandboxes/SBX-0000000a/diff", points)
    assert capsys.readouterr().out.startswith("SBX-0000000a a → SBX-0000000b b, read from the disk\n")
    assert run(["snapshots", "diff", "SBX-0000000a", "a", "b"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a → b, read from the disk",
        "~ cron job /bin/b␛  schedule 0 1 * * * → 0 2 * * *  by CMD-1",
        "+ link     /etc/lnk  owner root:root  to /etc/passwd",
        "~ file     /usr/bin/cut  mode 0755 → 4755  one file with none → /usr/bin/cut2",
        "> file     /o → /n  mode 0755  owner root:root",
        "- file     /p",
        "note: /etc/x␛: not read",
    ]


def test_a_diff_says_what_listens_and_runs_and_whose_word_that_is(
    backend: FakeBackend, capsys: Capture
) -> None:
    def state(ports: dict[str, str], units: dict[str, str]) -> dict[str, Any]:
        return {"ports": ports, "units": units, "notes": []}

    def change(kind: str, name: str, verb: str, before: str | None, after: str | None) -> dict[str, Any]:
        return {"kind": kind, "name": name, "verb": verb, "before": before, "after": after}

    running = {
        "read_from": "guest",
        "before": state({"tcp 0.0.0.0:22": "sshd", "tcp *:80": "apache2"}, {"apache2.service": "running"}),
        "after": state({"tcp 0.0.0.0:22": "sshd", "tcp *:80": "nginx"}, {"foo.service": "failed"}),
        "changes": [
            change("port", "tcp *:80", "modified", "apache2", "ngi\x1bnx"),
            change("port", "udp *:51820", "added", None, ""),
            change("unit", "apache2.service", "removed", "running", None),
            change("unit", "foo.service", "added", None, "failed"),
        ],
        "notes": ["b: one line cannot be read"],
    }
    none: dict[str, Any] = {name: [] for name in ("packages", "units", "users", "groups", "files")}
    changes = {"from_snapshot": "a", "to_snapshot": "b", "read_from": "disk", "hidden": {}, **none}
    answer = {"diff": {"changes": changes | {"running": running}}}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/diff"] = (200, answer)
    assert run(["snapshots", "diff", "SBX-0000000a", "a", "b"]) == 0
    told = [
        "a → b, read from the disk",
        "what listens and runs, read by asking the guest: root there could lie",
        "~ port     tcp *:80  apache2 → ngi␛nx",
        "+ port     udp *:51820",
        "- unit     apache2.service  running",
        "! unit     foo.service  failed",
        "note: b: one line cannot be read",
    ]
    assert capsys.readouterr().out.splitlines() == told
    assert run(["snapshots", "diff", "SBX-0000000a", "a", "b", "--all"]) == 0
    assert capsys.readouterr().out.splitlines() == [*told[:-1], "  as before tcp 0.0.0.0:22  sshd", told[-1]]


def test_snapshots_are_a_tree(backend: FakeBackend, capsys: Capture) -> None:
    def point(name: str, parent: str | None, note: str = "") -> dict[str, Any]:
        return {
            "name": name,
            "parent": parent,
            "files": 9,
            "has_memory": True,
            "quiesced": True,
            "created_at": None,
            "note": note,
        }

    points = [
        point("a", None),
        point("c", None),
        point("b", "a", "a\x1bnote"),
        point("d", "b"),
        point("e", "a"),
    ]
    backend.answers["GET /v1/sandboxes/SBX-0000000a/snapshots"] = (200, {"snapshots": points})
    assert run(["snapshots", "list", "SBX-0000000a"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:2] for line in lines] == [["a", ""], ["b", "a"], ["d", "b"], ["e", "a"], ["c", ""]]
    assert lines[1][-1] == "a␛note"
    drawn = [f"{branch}{row['name']}" for branch, row in snapshots.tree(points, drawn=True)]
    assert drawn == ["a", "└ b", "  └ d", "└ e", "c"]


@pytest.mark.parametrize(
    ("words", "sent"), [([], {"name": "pre"}), (["--note", "clean ✓"], {"name": "pre", "note": "clean ✓"})]
)
def test_a_snapshot_is_asked_for_with_its_note(
    backend: FakeBackend, capsys: Capture, words: list[str], sent: dict[str, str]
) -> None:
    made = {"name": "pre", "files": 9, "read_from": "disk", "quiesced": True, "took_s": 0.4}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/snapshots"] = (201, {"snapshot": made})
    assert run(["snapshots", "create", "SBX-0000000a", "pre", *words]) == 0
    assert [body for method, _, body in backend.asked if method == "POST"] == [sent]
    assert "pre" in capsys.readouterr().out


def test_the_content_of_a_diff_is_shown_as_what_it_is(backend: FakeBackend, capsys: Capture) -> None:
    plain = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "owner": "root", "group": "root"}
    plain |= {"target": None, "xattrs": {}, "text": None, "size": 4, "sha256": "a" * 64}
    row = {"hidden": "", "package": "", "verb": "modified"}

    def changed(path: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        return {**row, "path": path, "before": {**plain, **before}, "after": {**plain, **after}}

    files = [
        changed("/bin", {}, {"sha256": "b" * 64, "size": 5}),
        changed("/key", {"secret": "private key"}, {"secret": "private key"}),
        changed("/ini", *({"secret": "credentials", "text": f"{n}\npw=‹secret›\n"} for n in "ab")),
        changed("/pw", *({"secret": "credentials", "text": "pw=‹secret›\n"} for _ in "ab")),
        changed("/latin", {"text": "a\n"}, {"decoded": "ü\x1b\n", "encoding": "iso-8859-1"}),
    ]
    none: dict[str, Any] = {"packages": [], "units": [], "users": [], "groups": [], "hidden": {}}
    changes = {"from_snapshot": "a", "to_snapshot": "b", "read_from": "guest", "files": files, **none}
    backend.answers["POST /v1/sandboxes/SBX-0000000a/diff"] = (200, {"diff": {"changes": changes}})
    assert run(["snapshots", "diff", "SBX-0000000a", "a", "b", "--content"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a → b, read by asking the guest: root there could lie",
        "~ file     /bin",
        f"    binary or too large: 4 bytes, SHA-256 {'a' * 64} → 5 bytes, SHA-256 {'b' * 64}",
        "~ file     /key",
        "    withheld: private key, changed",
        "~ file     /ini",
        "    @@ -1,2 +1,2 @@",
        "    -a",
        "    +b",
        "     pw=‹secret›",
        "~ file     /pw",
        "    withheld: credentials, changed",
        "~ file     /latin",
        "    iso-8859-1, shown as UTF-8",
        "    @@ -1,1 +1,1 @@",
        "    -a",
        "    +ü␛",
    ]


@pytest.mark.usefixtures("nobody")
def test_the_console_needs_a_terminal_and_starts_nothing_without(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["fluid"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "fluid status" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_no_bug(
    backend: FakeBackend, tmp_path: Path, capsys: Capture
) -> None:
    backend.answers["GET /v1/audit/export"] = (200, {})
    there = tmp_path / "audit.jsonl"
    there.touch()
    assert run(["audit", "export", str(there)]) == 2
    assert capsys.readouterr().err.startswith(f"fluid: {there}: File exists — ")


def test_the_short_word_for_help_helps(capsys: Capture) -> None:
    assert run(["sandboxes", "exec", "-h"]) == 0
    assert "Examples:" in capsys.readouterr().out


def test_a_bug_shows_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("what")

    monkeypatch.setattr(program, "app", broken)
    monkeypatch.delenv("FLUID_DEBUG", raising=False)
    assert run([]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def _commands() -> Iterator[list[str]]:
    group: Any = get_command(program.app)
    for name in NOUNS:
        command = group.get_command(None, name)
        verbs = getattr(command, "commands", None)
        yield from ([name, verb] for verb in verbs) if verbs else ([name],)


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_every_command_explains_itself_with_an_example(words: list[str], capsys: Capture) -> None:
    assert run([*words, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"fluid {' '.join(words)}" in told.partition("Examples:")[2]


SERVING = {
    *("serve", "demo", "check", "test", "help", "doctor"),
    *("ssh", "follow", "attach", "replay"),
}


@pytest.mark.parametrize(
    "words", [one for one in _commands() if one[-1] not in SERVING - {"doctor"}], ids=" ".join
)
def test_every_command_speaks_json(words: list[str], capsys: Capture) -> None:
    run([*words, "--help"])
    assert "--json" in capsys.readouterr().out


def test_status_imports_neither_models_nor_an_http_library(backend: FakeBackend) -> None:
    backend.answers["GET /v1/status"] = (200, STATUS)
    code = (
        "import atexit, sys; from backend.cli import main; sys.argv = ['fluid', 'status'];"
        "slow = {'typer', 'pydantic', 'httpx2', 'textual', 'rich', 'yaml', 'libvirt'};"
        "atexit.register(lambda: print(sorted(slow & set(sys.modules)))); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_console_is_opened_without_the_command_line_library() -> None:
    code = (
        "import sys; from backend.cli import console, main; sys.argv = ['fluid'];"
        "console.open_console = lambda: print('typer' in sys.modules); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_the_console_imports_no_screen_and_builds_no_noun_before_it_is_needed() -> None:
    code = (
        "import sys; import fluid_tui.app; from backend.models import FleetView;"
        "screens = [name for name in sys.modules if name.startswith('fluid_tui.screens.')];"
        "print(*sorted(screens), 'yaml' in sys.modules, FleetView.__pydantic_complete__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    *screens, yaml, is_built = done.stdout.split()
    assert [name.rpartition(".")[2] for name in screens] == ["base", "confirm", "fleet", "sandbox_actions"]
    assert (yaml, is_built) == ("False", "False")


def _findings(check: Any, home: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in check(Paths.under(home)):
        found.setdefault(one.level, []).append(f"{one.message} — {one.remedy}")
    return found


def test_doctor_names_the_line_of_a_wrong_key(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    paths.config_file.write_text("guests:\n  cpus: 2\n")
    (told,) = _findings(doctor.config_file, tmp_path)[doctor.BAD]
    assert "config.yaml:2: guests.cpus" in told


def test_doctor_mends_a_door_that_is_open_to_everybody(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(paths.operator_socket))
        paths.operator_socket.chmod(0o666)
        (told,) = _findings(doctor.sockets, tmp_path)[doctor.BAD]
        command = told.partition(" — ")[2]
        assert command == f"chmod o= {paths.operator_socket}"
        subprocess.run(command.split(), check=True)
        assert doctor.BAD not in _findings(doctor.sockets, tmp_path)


def test_doctor_says_which_package_a_missing_program_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PROGRAMS", {"no-such-program": "its-package"})
    (told,) = _findings(doctor.programs, tmp_path)[doctor.BAD]
    assert told.endswith("apt-get install its-package")


@pytest.mark.parametrize(
    ("users", "level", "told"),
    [
        ({}, doctor.BAD, "useradd --system --user-group --no-create-home"),
        ({"fluid-runner": 993}, doctor.OK, "as fluid-runner"),
        ({"fluid-runner": 0}, doctor.BAD, "Ansible runs as root"),
    ],
)
def test_doctor_says_whether_ansible_has_a_user_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: dict[str, int], level: str, told: str
) -> None:
    def getpwnam(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=users[name])

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", getpwnam)
    ((found, (words,)),) = _findings(doctor.runner, tmp_path).items()
    assert found == level and told in words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away")
def test_doctor_says_that_a_backend_without_root_gives_ansible_no_user_of_its_own(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    os.chown(paths.state, 1234, -1)
    ((found, (words,)),) = _findings(doctor.runner, tmp_path).items()
    assert found == doctor.NOTE and "as the backend itself (uid 1234) and may read its CA's" in words


@pytest.mark.parametrize(
    ("text", "users", "level", "told"),
    [
        ("", {}, doctor.BAD, "--no-create-home --shell /usr/sbin/nologin fluid-postgres"),
        ("", {"postgres": 110}, doctor.OK, "as postgres"),
        ("embedded: {run_as: pg}\n", {"postgres": 110}, doctor.BAD, "no user 'pg'"),
        ("database: {host: db.example}\n", {}, None, ""),
    ],
)
def test_doctor_says_whether_postgresql_has_a_user_that_is_not_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, users: dict[str, int], level: str, told: str
) -> None:
    def getpwnam(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=users[name], pw_gid=users[name])

    _write_config(tmp_path, text)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", getpwnam)
    found = _findings(doctor.database, tmp_path)
    assert list(found) == ([level] if level else [])
    assert all(told in words for words in found.get(level, ()))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", None),
        ("operators: [root]\n", None),
        ("operators: [anna]\n", "anna of `operators` cannot open the door: it is for the group root"),
        ("operators: ['@sre']\n", "socket_group_operators: sre in"),
        ("agents: ['@bots']\n", "socket_group_agents: bots in"),
        ("operators: ['@sre']\nserver: {socket_group_operators: sre}\n", None),
        ("operators: [anna]\nserver: {socket_group_operators: sre}\n", None),
        ("operators: [ben]\nserver: {socket_group_operators: sre}\n", "usermod -aG sre USER"),
        ("operators: ['@bots']\nserver: {socket_group_operators: sre}\n", "@bots of `operators`"),
        ("server: {socket_group_agents: nobodys}\n", "groupadd --system nobodys"),
    ],
)
def test_doctor_names_whom_the_settings_let_in_and_the_sockets_group_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str | None
) -> None:
    groups = {"root": (0, []), "sre": (900, ["anna"]), "bots": (901, ["ben"])}
    users = {"root": 0, "anna": 1000, "ben": 1001}

    def group(name: str) -> Any:
        return SimpleNamespace(gr_name=name, gr_gid=groups[name][0], gr_mem=groups[name][1])

    def user(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=users[name], pw_gid=users[name])

    _write_config(tmp_path, text)
    monkeypatch.setattr(doctor, "_backend_uid", lambda paths: 0)
    monkeypatch.setattr("grp.getgrnam", group)
    monkeypatch.setattr("pwd.getpwnam", user)
    monkeypatch.setattr(
        "os.getgrouplist",
        lambda name, gid: [gid, *(number for number, members in groups.values() if name in members)],
    )
    found = _findings(doctor.socket_groups, tmp_path)
    assert list(found) == ([doctor.BAD] if told else [])
    assert told is None or told in found[doctor.BAD][0]


@pytest.mark.parametrize(
    ("text", "runs", "told"),
    [("", False, True), ("", True, False), ("hosts: [{uri: 'qemu:///system'}]\n", False, False)],
)
def test_doctor_says_that_roots_sandboxes_stay_on_the_libvirtd_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, runs: bool, told: bool
) -> None:
    _write_config(tmp_path, text)
    libvirt_socket = tmp_path / "libvirt-sock"
    if runs:
        libvirt_socket.touch()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("backend.hypervisor.private.DEFAULT_SOCKET", libvirt_socket)
    noted = _findings(doctor.libvirt, tmp_path).get(doctor.NOTE, [])
    assert ["enable --now libvirtd" in words for words in noted] == [True] * told


def test_doctor_calls_no_backend_broken_that_does_not_know_root(backend: FakeBackend, tmp_path: Path) -> None:
    denied = {"error": "user 'root' is not in `operators:`", "error_code": "role_denied", "remedy": ""}
    backend.answers["GET /v1/health"] = (403, denied)
    found = _findings(doctor.backend, tmp_path)
    assert list(found) == [doctor.OK] and "it answers, not for you: user 'root'" in found[doctor.OK][0]


def test_doctor_looks_at_the_disk_that_sandboxes_were_put_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = tmp_path / "here", Path("/dev/shm")
    _write_config(here, f"storage: {{domains: {other}/fluid-sandboxes}}\nlimits: {{disk_reserve_mb: 1000}}\n")
    free_mb = {other: 999}
    monkeypatch.setattr(
        "shutil.disk_usage", lambda folder: SimpleNamespace(free=free_mb.get(folder, 5000) * doctor.MIB)
    )
    found = _findings(doctor.disk_space, here)
    assert len(found[doctor.OK]) == 1 and "5000 MB" in found[doctor.OK][0]
    assert found[doctor.BAD][0].startswith(f"999 MB free under {other}, 1000 MB are kept back")


def _write_config(home: Path, text: str) -> Paths:
    paths = Paths.under(home)
    paths.make()
    paths.config_file.write_text(text)
    return paths


HOST = {
    "name": "kvm-02",
    "status": "up",
    "virt_type": "kvm",
    "cpus": 4,
    "busy_percent": 37,
    "memory_mb": 100,
    "memory_free_mb": 50,
    "disk_free_mb": 9,
    "sandboxes": 1,
    "stock": 0,
    "creating": 0,
    "waiting": 0,
    "draining": False,
    "isolated": True,
    "clock_skew_s": None,
    "fork_way": "save image",
    "fork_reason": "a guest was forked so",
    "virt_reason": "a guest executed",
    "libvirt_version": "9.0.0",
    "last_error": "",
}


@pytest.mark.parametrize("isolated", [True, False])
def test_guests_that_are_not_isolated_are_named(
    backend: FakeBackend, capsys: Capture, tmp_path: Path, isolated: bool
) -> None:
    backend.answers["GET /v1/hosts"] = (200, {"hosts": [{**HOST, "isolated": isolated}]})
    words = "guests on kvm-02 are not isolated"
    assert run(["hosts", "list"]) == 0
    assert (words in capsys.readouterr().out) is not isolated
    noted = _findings(doctor.hosts, tmp_path).get(doctor.NOTE, [])
    assert any(one.startswith(f"{words} — take `network`") for one in noted) is not isolated


@pytest.mark.parametrize(("busy", "shown"), [(37, "37 %"), (None, "")])
def test_how_busy_a_host_is_stands_in_the_list(
    backend: FakeBackend, capsys: Capture, busy: int | None, shown: str
) -> None:
    backend.answers["GET /v1/hosts"] = (200, {"hosts": [{**HOST, "busy_percent": busy}]})
    assert run(["hosts", "list"]) == 0
    titles, row = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert row[titles.index("busy")] == shown


def test_a_host_that_is_drained_while_it_is_away_says_so(
    backend: FakeBackend, capsys: Capture, tmp_path: Path
) -> None:
    row = {**HOST, "status": "lost", "draining": True}
    backend.answers["POST /v1/hosts/kvm-02/drain"] = (200, row)
    backend.answers["GET /v1/hosts"] = (200, {"hosts": [row]})
    assert run(["hosts", "drain", "kvm-02"]) == 0
    assert "kvm-02 is lost, and drains when it is back: 1 sandboxes" in capsys.readouterr().out
    words = "kvm-02 takes no new sandboxes, also once it is back"
    assert run(["hosts", "list"]) == 0
    assert words in capsys.readouterr().out
    noted = _findings(doctor.hosts, tmp_path)[doctor.NOTE]
    assert f"{words} — fluid hosts resume kvm-02" in noted


LEFT = {"domains": 4, "files": 5, "networks": 1, "templates": 2, "images": 3, "held": [], "silent": []}


@pytest.mark.parametrize(
    ("words", "question", "done"),
    [
        (["--dry-run"], "GET /v1/leftovers", "left over"),
        ([], "DELETE /v1/leftovers", "removed"),
    ],
)
def test_what_is_left_over_is_named_with_all_that_was_looked_at(
    backend: FakeBackend, capsys: Capture, words: list[str], question: str, done: str
) -> None:
    one = {"host": "kvm-02", "kind": "domain", "name": "fluid-a\x1b-sbx-1", "why": "no row names it"}
    looked = "looked at 4 domains, 5 sets of files, 1 networks, 2 templates, 3 images"
    backend.answers[question] = (200, {**LEFT, "found": [one]})
    assert run(["gc", *words]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"kvm-02: domain fluid-a␛-sbx-1 {done}: no row names it",
        f"{looked}: 1 {done}",
    ]
    held = "image base.former stays: a roll back of APR-1 needs it until 2026-12-30"
    told = {"found": [], "held": [held], "silent": ["kvm-02: it is lost"]}
    backend.answers[question] = (200, {**LEFT, **told})
    assert run(["gc", *words]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{looked}: nothing {done}",
        held,
        "not looked at: kvm-02: it is lost",
    ]
    assert {f"{method} {path}" for method, path, _ in backend.asked} == {question}


SHOWN = {"address": "192.0.2.12", "line": "192.0.2.12 ssh-ed25519 AAAA", "fingerprint": "SHA256:its-own"}
ADD = ["hosts", "add", "kvm-02", "192.0.2.12", "--user", "fluid", "--key", "/etc/fluid/keys/kvm-02"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "typed", "exit_code"),
    [
        ([], "y\n", 0),
        ([], "\n", 2),
        ([], "n\n", 2),
        ([], None, 2),
        (["--fingerprint", "SHA256:its-own"], None, 0),
        (["--fingerprint", "SHA256:anothers"], None, 4),
        (["--fingerprint", "SHA256:anothers"], "y\n", 4),
    ],
)
def test_a_host_is_added_with_the_key_that_a_person_compared_and_no_other(
    backend: FakeBackend,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    typed: str | None,
    exit_code: int,
) -> None:
    backend.answers["POST /v1/hosts/key"] = (200, SHOWN)
    backend.answers["POST /v1/hosts"] = (201, HOST)
    if typed is not None:
        monkeypatch.setattr(options, "drop_typed_ahead", lambda: None)
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert run([*ADD, *words]) == exit_code
    said = capsys.readouterr()
    assert (SHOWN["fingerprint"] in said.out + said.err) or exit_code == 0
    assert backend.asked[0] == ("POST", "/v1/hosts/key", {"address": "192.0.2.12", "port": None})
    settings = {
        "name": "kvm-02", "address": "192.0.2.12", "user": "fluid", "key": "/etc/fluid/keys/kvm-02",
    }  # fmt: skip
    sent = ("POST", "/v1/hosts", {"settings": settings, "host_key": SHOWN["line"]})
    assert backend.asked[1:] == ([sent] if exit_code == 0 else [])
    if typed is None and exit_code == 2:
        assert "add --fingerprint SHA256:" in said.err


@pytest.mark.parametrize(
    ("skew_s", "shown", "told"),
    [
        (None, "", ""),
        (1.9, "+1.90 s", ""),
        (3.24, "+3.24 s", "the clock of kvm-02 is 3.2 s ahead of this machine's"),
        (-60.0, "-60.00 s", "the clock of kvm-02 is 60.0 s behind this machine's"),
    ],
)
def test_a_hosts_clock_is_shown_and_one_that_is_wrong_is_told(
    backend: FakeBackend, capsys: Capture, tmp_path: Path, skew_s: float | None, shown: str, told: str
) -> None:
    backend.answers["GET /v1/hosts"] = (200, {"hosts": [{**HOST, "clock_skew_s": skew_s}]})
    assert run(["hosts", "list"]) == 0
    out = capsys.readouterr().out
    assert f"\t{shown}\t" in out and told in out
    noted = _findings(doctor.hosts, tmp_path).get(doctor.NOTE, [])
    assert noted == ([f"{told} — set it there: timedatectl set-ntp true"] if told else [])


@pytest.mark.parametrize(("way", "level"), [("save image", doctor.OK), ("cold boot", doctor.NOTE)])
def test_doctor_says_how_each_host_forks_and_runs_guests_and_why(
    backend: FakeBackend, tmp_path: Path, way: str, level: str
) -> None:
    row = {**HOST, "fork_way": way, "fork_reason": "because", "virt_type": "qemu", "virt_reason": "KVM hangs"}
    backend.answers["GET /v1/hosts"] = (200, {"hosts": [row]})
    found = _findings(doctor.hosts, tmp_path)
    assert f"forks by {way}: because — " in found[level]
    assert "guests run emulated: KVM hangs — " in found[doctor.OK]


def test_a_backend_that_dies_at_once_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the port is busy >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(BackendDown, match="the port is busy") as died:
        console.start_backend(Paths.under(tmp_path))
    assert "backend.log" in died.value.remedy


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of now has a package of our name; the file tells that its code ran."""
    package = tmp_path / "here/backend/cli"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    ran = tmp_path / "ran"
    (package / "__main__.py").write_text(f"open({str(ran)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return ran


def test_a_started_backend_is_ours_whatever_lies_in_the_folder(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths.under(tmp_path / "home")
    paths.make()
    paths.config_file.write_text("nonsense: 1\n")
    monkeypatch.setenv("FLUID_HOME", str(tmp_path / "home"))
    with pytest.raises(BackendDown, match="nonsense: unknown key"):
        console.start_backend(paths)
    assert not stranger.exists()


def test_the_demo_becomes_root_with_our_code_whatever_lies_in_the_folder(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sudo keeps no PYTHONPATH of the environment (sudoers(5): env_delete)."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["fluid", "--version"])

    def instead(name: str, words: list[str], environment: dict[str, str]) -> None:
        assert (name, words[:2], environment) == ("sudo", ["sudo", "-E"], as_given())
        raise SystemExit(subprocess.run(words[2:], capture_output=True, text=True, timeout=60).stdout)

    monkeypatch.setattr(os, "execvpe", instead)
    with pytest.raises(SystemExit, match=r"^fluid \d"):
        demo_cli.demo(seed=None, unattended=False, json_file=None, clean=False)
    assert not stranger.exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"LANG=C\0TERM=xterm\0", None),  # CPython's word, not the operator's: PEP 538
        (b"LANG=C\0LC_CTYPE=C.UTF-8\0", "C.UTF-8"),
        (None, "C.UTF-8"),
    ],
)
def test_the_environment_is_the_one_we_were_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bytes | None, kept: str | None
) -> None:
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")
    monkeypatch.setenv("FLUID_ASCII", "0")
    file = tmp_path / "environ"
    if given is not None:
        file.write_bytes(given)
    found = as_given(file)
    assert (found.get("LC_CTYPE"), found["FLUID_ASCII"]) == (kept, "0")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (b"ls\r", [("text", "ls"), ("key", "Enter")]),
        (b"\x03", [("key", "C-c")]),
        (b"\x1b[A", [("key", "Up")]),
        (b"\x1b]52;c;AAAA\x07", []),
        ("ä{".encode(), [("text", "ä{")]),
    ],
)
def test_keys_reach_the_pane_as_text_or_names(typed: bytes, sent: list[tuple[str, str]]) -> None:
    assert split_keys(typed) == sent


def test_a_terminals_colours_are_ours_and_nothing_else_of_it_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = ["\x1b[31mred\x1b[39m \x1b]0;title\x07", "\x1b[1mbold", "", ""]
    drawn = painted_screen(PaneScreen(rows=rows, cursor=(4, 1)), 40, 3, "you \x1b[2J type")
    assert drawn == (
        "\x1b[?25l\x1b[H\x1b[2J\x1b[38;5;1mred\x1b[0m ␛]0;title␇\r\n\x1b[1mbold\x1b[0m"
        "\x1b[3;1H\x1b[7myou ␛[2J type\x1b[0m\x1b[2;5H\x1b[?25h"
    )


def test_a_console_looks_for_nothing_in_other_packages_before_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "")
    started = SimpleNamespace(
        run_console=lambda *_, **__: told.append(os.environ["PYDANTIC_DISABLE_PLUGINS"])
    )
    monkeypatch.setitem(sys.modules, "fluid_tui.app", started)
    try:
        console._run("/nonexistent", False, mouse=False)
    finally:
        gc.enable()
    assert told == ["1"]


def test_without_colour_a_terminals_bold_and_reverse_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    rows = ["\x1b[31mred\x1b[39m \x1b[1;7;48;2;1;2;3mmarked", ""]
    drawn = painted_screen(PaneScreen(rows=rows), 40, 3, "you type")
    assert drawn == ("\x1b[?25l\x1b[H\x1b[2Jred \x1b[1;7mmarked\x1b[0m\r\n\x1b[3;1H\x1b[7myou type\x1b[0m")


def test_status_in_one_line_says_who_waits_and_what_is_wrong(backend: FakeBackend, capsys: Capture) -> None:
    hosts = [{"name": "kvm-02", "status": "lost", "virt": "kvm"}]
    backend.answers["GET /v1/status"] = (200, STATUS | {"hosts": hosts, "waiting": 2})
    assert run(["status", "--line"]) == 0
    assert capsys.readouterr().out == "2 need you · kvm-02 lost · 2 sandboxes\n"


def test_status_in_one_line_says_so_without_a_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FLUID_SOCKET", "/nonexistent/operator.sock")
    door.cache_clear()
    assert run(["status", "--line"]) == 6
    assert capsys.readouterr().out == "fluid: no backend\n"


FLEET = {
    "seq": 1,
    "at": "2026-11-24T12:00:00Z",
    "hosts": [{"name": "kvm-02", "status": "draining", "last_error": "", "isolated": False}],
    "sandboxes": [
        SANDBOX | {"reason": "", "status": "working", "status_note": "\x1b[2Jtests", "last_command": ""}
    ],
    "approvals": [
        APPROVAL | {"sandbox_name": "web", "reason": "Serve\x07 TLS", "expires_at": "2126-11-24T12:00:00Z"}
    ],
    "asks": [],
    "components": [{"name": "postgresql", "status": "down", "message": "no answer"}],
    "audit_ok": False,
}


def test_plain_says_what_the_console_shows_in_sentences(backend: FakeBackend, capsys: Capture) -> None:
    backend.answers["GET /v1/fleet"] = (200, FLEET)
    assert run(["--plain"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0].startswith("Request 4f2a waits for you: web to web-01, ")
    for words in ("Host kvm-02 is draining.", "Guests on kvm-02 are not isolated.", "postgresql is down"):
        assert words in told
    assert "The audit is broken" in told
    assert "says working ␛[2Jtests" in told
    assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.parametrize("where", [[], ["--connect", "ops@control"]])
def test_read_only_reaches_the_console_wherever_its_backend_is(
    monkeypatch: pytest.MonkeyPatch, backend: FakeBackend, where: list[str]
) -> None:
    told: list[object] = []
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "1")
    monkeypatch.setattr("gc.disable", lambda: None)
    monkeypatch.setattr(console, "need_terminal", lambda _: None)
    monkeypatch.setattr("backend.cli.common.behind", nullcontext)
    monkeypatch.setattr("fluid_tui.app.run_console", lambda _, *, read_only, **__: told.append(read_only))
    for words in (["--read-only", *where], where):
        assert run(words) == 0
    assert told == [True, False]


def test_plain_and_read_only_are_the_consoles_own(backend: FakeBackend, capsys: Capture) -> None:
    assert run(["--read-only", "status"]) == 2
    assert "go without a command" in capsys.readouterr().err


def test_an_apply_is_aborted_only_while_it_runs(backend: FakeBackend, capsys: Capture) -> None:
    applying = APPROVAL | {"id": "APR-4f2a0000", "state": "applying", "apply_run": "RUN-1"}
    backend.answers["GET /v1/approvals/APR-4f2a0000"] = (200, APPROVAL | {"apply_run": ""})
    assert run(["approvals", "abort", "APR-4f2a0000", "--yes"]) != 0
    assert "only a running apply" in capsys.readouterr().err
    backend.answers["GET /v1/approvals/APR-4f2a0000"] = (200, applying)
    backend.answers["POST /v1/runs/RUN-1/cancel"] = (200, {"id": "RUN-1", "state": "canceled"})
    assert run(["approvals", "abort", "APR-4f2a0000", "--yes"]) == 0
    assert capsys.readouterr().out == "RUN-1 is canceled\n"


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--yes"], 0)], ids=["nobody to ask", "said before"])
def test_a_run_is_not_ended_unasked(
    backend: FakeBackend, capsys: Capture, words: list[str], code: int
) -> None:
    run_of = {"kind": "apply", "approval_id": "APR-4f2a0000", "targets": ["web-01"], "reason": "canceled"}
    ended = {"id": "RUN-1", "state": "canceled", "events": [], "ended_at": None, "started_at": None}
    backend.answers["POST /v1/runs/RUN-1/cancel"] = (200, run_of | ended)
    assert run(["runs", "cancel", "RUN-1", *words]) == code
    assert backend.times("POST /v1/runs/RUN-1/cancel") == (1 if code == 0 else 0)
    shown = capsys.readouterr()
    assert ("canceled" in shown.out) if code == 0 else ("add --yes" in shown.err)


COMMAND = {
    "id": "CMD-1",
    "sandbox_id": "SBX-1",
    "command": "nginx -t\x1b[2J",
    "exit_code": 1,
    "stdout": "",
    "stderr": "[emerg] unknown\x07 directive\nsecond line\n",
    "started_at": "2026-11-24T12:00:00Z",
    "ended_at": "2026-11-24T12:00:01Z",
    "timed_out": False,
}


def test_what_a_past_command_printed_is_shown_as_in_the_timeline(
    backend: FakeBackend, capsys: Capture
) -> None:
    backend.answers["GET /v1/commands/CMD-1"] = (200, {"command": COMMAND})
    assert run(["commands", "show", "CMD-1"]) == 0
    told = capsys.readouterr().out
    assert "command  nginx -t␛[2J" in told and "exit     1" in told
    assert told.endswith("\nstderr:\n[emerg] unknown␇ directive\nsecond line\n")
    backend.answers["GET /v1/sandboxes/SBX-1/commands"] = (200, {"commands": [COMMAND], "total": 1})
    assert run(["commands", "list", "SBX-1"]) == 0
    assert "CMD-1" in (listed := capsys.readouterr().out) and "nginx -t␛[2J" in listed


def test_panic_says_what_stands_still_and_what_does_not(backend: FakeBackend, capsys: Capture) -> None:
    told = {
        "since": "2026-11-24T12:00:00Z",
        "by": "ops",
        "paused": ["SBX-1"],
        "failed": {"web\x1b[2J": "lost"},
        "revoked": True,
    }
    backend.answers["POST /v1/panic"] = (200, told)
    backend.answers["POST /v1/panic/release"] = (200, told | {"failed": {}})
    assert run(["panic", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "panic: no apply starts, 1 paused, every certificate revoked;" in said
    assert "web␛[2J: lost" in said
    assert run(["panic", "--release", "--yes"]) == 0
    assert capsys.readouterr().out == "released: 1 thawed\n"
