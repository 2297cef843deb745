"""``--clean``: nothing of the demo is left but the image cache and the virtual environment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from backend.demo import processes, users
from backend.demo.home import DemoHome
from backend.fleet import object_prefix
from backend.hypervisor import Hypervisor
from backend.hypervisor.private import PrivateLibvirt, system_libvirt
from backend.store import EmbeddedPostgres
from backend.tmux import TmuxServer


def clean(home: DemoHome, say: Callable[[str], None]) -> int:
    """End what runs, remove what was made, by its own pid and name. Safe to run twice."""
    home.stop_agent()
    home.stop_backend()
    asyncio.run(_ends(home, say))
    if home.folder.exists():
        shutil.rmtree(home.folder)
        say(f"removed {home.folder}")
    for name in users.remove():
        say(f"removed the system user {name}")
    say("nothing of the demo is left; built images stay in the cache (`fluid images list`)")
    return 0


async def _ends(home: DemoHome, say: Callable[[str], None]) -> None:
    private = PrivateLibvirt(home.paths.state / "libvirt", hide_kvm=False)
    ours = (home.paths.state / "libvirt").exists()
    uri = await private.start() if ours else await system_libvirt()
    if uri is not None and home.paths.state.exists():
        await _domains(uri, home, say)
    if ours:
        await private.stop()
        say("stopped the private libvirtd")
    processes.stop(home.production / "mirror.pid")
    if home.paths.tmux_socket.exists():
        await TmuxServer(home.paths.tmux_socket).kill_server()
    if home.paths.database.exists():
        await EmbeddedPostgres(home.paths.database, users.POSTGRES).stop()
        say("stopped PostgreSQL")


async def _domains(uri: str, home: DemoHome, say: Callable[[str], None]) -> None:
    """What bears the demo's own prefixes, on whichever libvirtd: nobody else's."""
    for folder, prefix in (
        (home.paths.domains, object_prefix(home.paths)),
        (home.production / "domains", users.DEMO),
    ):
        hypervisor = Hypervisor(uri, folder=folder, virt_type="qemu", prefix=prefix)
        await hypervisor.open()
        try:
            for domain in await hypervisor.list_ours():
                await hypervisor.destroy(domain.name)
                say(f"destroyed {domain.name}")
            for network in await hypervisor.our_networks():
                await hypervisor.remove_network(network)
        finally:
            await hypervisor.close()
