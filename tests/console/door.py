"""The sample fleet behind a real operator door: HTTP over a Unix socket, with an event stream."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.models import FleetView, now
from tests.console.sample import fleet

BEAT_S = 0.5
STATUS = {
    "version": "0.1.0",
    "sandboxes": {"running": 3, "paused": 1, "error": 1},
    "waiting": 2,
    "hosts": [{"name": "kvm-01", "status": "up", "virt": "qemu"}],
    "components": [{"name": "postgresql", "status": "ok", "message": "18.4"}],
    "audit": {"ok": True, "rows": 12},
}


class SampleDoor(http.server.ThreadingHTTPServer):
    """``resumed`` holds the ``Last-Event-ID`` of every event stream; :meth:`tell` sends an event to all."""

    address_family = socket.AF_UNIX
    daemon_threads = True

    def __init__(self, path: Path, view: FleetView | None = None) -> None:
        self.view = view or fleet()
        self.status: dict[str, Any] = dict(STATUS)
        self.resumed: list[str] = []
        self.asked: list[str] = []
        self._events: list[bytes] = []
        self._came = threading.Condition()
        super().__init__(str(path), _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def tell(self, kind: str, id: str) -> None:
        """One event to everyone who listens."""
        with self._came:
            self.view.seq += 1
            event = {
                "seq": self.view.seq,
                "at": now(),
                "kind": kind,
                "noun": kind.partition(".")[0],
                "id": id,
            }
            data = json.dumps(event, default=str)
            self._events.append(f"id: {self.view.seq}\nevent: {kind}\ndata: {data}\n\n".encode())
            self._came.notify_all()

    def listens(self, times: int, limit_s: float = 20.0) -> bool:
        """Whether so many event streams have begun, soon."""
        with self._came:
            return self._came.wait_for(lambda: len(self.resumed) >= times, limit_s)

    def frames(self, last_id: str) -> Iterator[bytes]:
        """What comes from now on, as a stream."""
        with self._came:
            self.resumed.append(last_id)
            self._came.notify_all()
            seen = len(self._events)
        while True:
            with self._came:
                if len(self._events) == seen:
                    self._came.wait(BEAT_S)
                fresh = self._events[seen:]
                seen += len(fresh)
            yield from fresh or [b": still here\n\n"]

    def answer(self, path: str) -> Any:
        if path == "/v1/fleet":
            return self.view.model_dump(mode="json")
        if path == "/v1/status":
            return self.status
        if path == "/v1/whoami":
            return {"uid": 1000, "name": "ops", "role": "operator"}
        if path == "/v1/sandboxes":
            rows = [one.model_dump(mode="json") for one in self.view.sandboxes]
            return {"sandboxes": rows, "total": len(rows)}
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SampleDoor
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path == "/v1/events":
            self._stream()
            return
        told = self.server.answer(path)
        body = json.dumps(told if told is not None else {"error": f"no route {path}"}).encode()
        self.send_response(200 if told is not None else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for frame in self.server.frames(self.headers.get("Last-Event-ID", "")):
                self.wfile.write(frame)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@contextmanager
def sample_door(path: Path, view: FleetView | None = None) -> Iterator[SampleDoor]:
    """Served until the end of the block."""
    server = SampleDoor(path, view)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
