"""A chain that got long is made short. A look at the disk, and a snapshot that was deleted, leave frozen
layers in it that nothing else stands on: of such that follow each other the lowest takes what the others hold
(libvirt's blockCommit), while the guest goes on.

Whoever reads a layer of the domain meanwhile is the caller's care, as that nothing begins to stand on one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import libvirt

from backend.errors import FluidError, HypervisorFailed, TimedOut
from backend.hypervisor.connection import looked_up
from backend.hypervisor.domains import START_TIMEOUT_S, Domains
from backend.hypervisor.sizes import DISK
from backend.hypervisor.volumes import move_limit_s
from backend.steps import reached

MANY_LAYERS = 16
LOOK_S = 0.1
RUNS = ("running", "paused")


@dataclass(frozen=True)
class Mergeable:
    """Frozen layers of a domain that become one: the lowest."""

    layers: tuple[Path, ...]  # two and more, top first
    size: int  # bytes that are copied


async def to_merge(domains: Domains, name: str) -> list[Mergeable]:
    """What can become one, the top first: nothing of a chain that is short, or of a domain that is off."""
    files = domains.files
    layers = await files.backing_chain(await domains.disk(name))
    if len(layers) < MANY_LAYERS or (await domains.info(name)).state not in RUNS:
        return []
    return runs(layers, await files.loose_layers(name, layers))


def runs(layers: Sequence[Path], loose: Mapping[Path, int]) -> list[Mergeable]:
    """The loose ones of ``layers`` (top first) that follow each other; ``loose`` has the bytes of each."""
    found: list[list[Path]] = [[]]
    for layer in layers[1:]:
        if layer in loose:
            found[-1].append(layer)
        else:
            found.append([])
    return [Mergeable(tuple(run), sum(loose[layer] for layer in run[:-1])) for run in found if len(run) > 1]


async def merge(domains: Domains, name: str, found: Sequence[Mergeable]) -> int:
    """Make one of each; the bytes that the disk has again.

    Raises:
        TimedOut, HypervisorFailed: the guest goes on, with the chain as it was or a part of it merged.
    """
    files = domains.files
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE if files.names_are_relative else 0
    freed = 0
    for one in found:
        top, base = one.layers[0], one.layers[-1]

        def begin(domain: libvirt.virDomain, top: Path = top, base: Path = base) -> None:
            domain.blockCommit(DISK, str(base), str(top), 0, flags)

        await until_over(domains, name)
        try:
            await domains.call(name, begin, what="merge layers of", limit_s=START_TIMEOUT_S)
            reached("merging")
            await until_over(domains, name, move_limit_s(one.size))
        except BaseException:
            await asyncio.shield(_give_up(domains, name))
            raise
        finally:
            await files.forget_layers(name)
        reached("merged")
        if top in await files.backing_chain(await domains.disk(name)):
            raise HypervisorFailed(f"libvirt did not merge {top.name} into {base.name}", remedy="see its log")
        freed += await files.sweep(name, await domains.disks(name))
        reached("merged away")
    return freed


async def until_over(domains: Domains, name: str, limit_s: float = START_TIMEOUT_S) -> None:
    """Wait until libvirt works at the domain's disk no more; somebody who is gone may have begun it.

    Raises:
        TimedOut: it still does.
    """

    def is_at_work(domain: libvirt.virDomain) -> bool:
        return bool(domain.isActive() and _job(domain))

    try:
        async with asyncio.timeout(limit_s):
            while True:
                if not await domains.call(name, is_at_work, what="look at the disk of"):
                    return
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise TimedOut(
            f"libvirt is still at work at the disk of {name} after {limit_s:.0f} s", remedy="try again later"
        ) from None


async def _give_up(domains: Domains, name: str) -> None:
    """The chain stays as it is: layers that were copied in part are only written to where the ones above
    them say the same."""

    def abort(domain: libvirt.virDomain) -> None:
        if domain.isActive() and _job(domain):
            domain.blockJobAbort(DISK, 0)

    with contextlib.suppress(FluidError):
        await domains.call(name, abort, what="end the merging of layers of", limit_s=START_TIMEOUT_S)


def _job(domain: libvirt.virDomain) -> dict[str, int] | None:
    """What libvirt does at the disk of a domain that runs; empty when nothing is."""
    return looked_up(lambda: domain.blockJobInfo(DISK, 0), libvirt.VIR_ERR_NO_SUPPORT)
