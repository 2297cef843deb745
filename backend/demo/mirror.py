"""What gives the demo's "production" its packages: a process that stands where a site's mirror would.

It is no part of the product: the backend neither knows nor needs it. It holds an SSH connection to ``web-01``
and answers on that machine's own loopback, as the backend does for sandboxes, because production's network
has no route out either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from backend.egress import EgressPolicy, EgressProxy, default_allow
from backend.guests import CertificateAuthority, Guest, GuestConnections, GuestForwards
from backend.guests.forwards import Reader, Writer

READY_TIMEOUT_S = 60


async def serve(guest: Guest, builder: Path, ready: Path) -> None:
    """Keep the forward until killed; ``ready`` appears once the machine listens."""
    connections = GuestConnections(CertificateAuthority(builder))
    forwards = GuestForwards(connections)
    proxy = EgressProxy(EgressPolicy(allow=tuple(default_allow())), on_request=lambda _: None)

    async def handle(reader: Reader, writer: Writer) -> None:
        await proxy.serve(reader, writer, client=guest.name)

    await connections.ready(guest, timeout_s=READY_TIMEOUT_S)
    await forwards.keep(guest, handle)
    await asyncio.to_thread(ready.write_text, "ready\n")
    await asyncio.Event().wait()


def main() -> int:
    """``python -m backend.demo.mirror --builder FOLDER --ready FILE``, the machine as JSON on stdin."""
    words = argparse.ArgumentParser()
    words.add_argument("--builder", type=Path, required=True)
    words.add_argument("--ready", type=Path, required=True)
    given = words.parse_args()
    asyncio.run(serve(Guest(**json.load(sys.stdin)), given.builder, given.ready))
    return 0


if __name__ == "__main__":
    sys.exit(main())
