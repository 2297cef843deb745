"""The whole backend, told to stop."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from time import perf_counter

from tests.bench.stage import Stage

ENDED_S = 25.0


async def test_a_libvirtd_that_never_answers_does_not_keep_the_backend_from_ending(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        async with Stage() as stage:
            local = {"name": "local", "uri": stage.libvirt}
            stage.configure(
                hosts=[local, {"name": "silent", "uri": f"qemu:///system?socket={tmp_path}/silent.sock"}]
            )
            await stage.start()
            connection, _ = silent.accept()  # it is being dialled
            with connection:
                began = perf_counter()
                os.kill(stage.pid, signal.SIGTERM)
                assert await stage.died() == 0
                assert perf_counter() - began < ENDED_S
