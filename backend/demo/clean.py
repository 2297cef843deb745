"""``--clean``: nothing of the demo is left but the image cache and the virtual environment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from backend.demo import users
from backend.demo.home import DemoHome
from backend.demo.production import NETWORK
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
    if uri is not None and home.folder.exists():
        await _domains(uri, home, say)
    if ours:
        await private.stop()
        say("stopped the private libvirtd")
    processes_of_production(home)
    if home.paths.tmux_socket.exists():
        await TmuxServer(home.paths.tmux_socket).kill_server()
    if home.paths.database.exists():
        await EmbeddedPostgres(home.paths.database, users.POSTGRES).stop()
        say("stopped PostgreSQL")


async def _domains(uri: str, home: DemoHome, say: Callable[[str], None]) -> None:
    """Domains whose disks are in the demo's folder, and its networks."""
    for folder in (home.paths.domains, home.production / "domains"):
        hypervisor = Hypervisor(uri, folder=folder, virt_type="qemu")
        await hypervisor.open()
        try:
            for domain in await hypervisor.list_ours():
                await hypervisor.destroy(domain.name)
                say(f"destroyed {domain.name}")
            for network in (NETWORK, *await hypervisor.our_networks()):
                await hypervisor.remove_network(network)
        finally:
            await hypervisor.close()


def processes_of_production(home: DemoHome) -> None:
    from backend.demo import processes

    processes.stop(home.production / "mirror.pid")
