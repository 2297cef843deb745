"""The guest's file tree before our settings: packages of the host's release, kernel modules, apt's lists.

It is built once for a set of packages and sources, kept where only root may enter: its set-uid programs age.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.errors import Unavailable
from backend.images.programs import Programs
from backend.images.settings import DPKG_OPTIONS, PACKAGES
from backend.images.sources import Entry, Release, Selection

UPDATE_LIMIT_S = 240
INSTALL_LIMIT_S = 1500
COPY_LIMIT_S = 300
PROGRESS_STEP = 25
HOST_OPTIONS = re.compile(r"Acquire::(https?::|Check-|ForceIPv|Retries|M(ax|in)-ValidTime)")
GUEST_OPTIONS = re.compile(r"Acquire::(Check-|M(ax|in)-ValidTime)")


def kept_options(dump: str, which: re.Pattern[str]) -> str:
    """The lines of ``apt-config dump`` that say how to reach archives (proxy, checks), as a configuration."""
    return "".join(
        f"{line}\n" for line in dump.splitlines() if which.match(line) and not line.endswith(' "";')
    )


@dataclass(frozen=True)
class AptRoot:
    """An apt of the build's own under ``folder``: nothing of the host's package state is read or changed."""

    folder: Path
    host_options: str
    arch: str

    @property
    def config(self) -> Path:
        return self.folder / "apt.conf"

    @property
    def options(self) -> Path:
        """The host's way to the archives, for mmdebstrap; a file, because a proxy may carry a password."""
        return self.folder / "options.conf"

    @property
    def sources(self) -> Path:
        return self.folder / "sources.list.d/guest.sources"

    def make(self, sources: str) -> None:
        for name in ("lists/partial", "cache/archives/partial", "sources.list.d", "parts"):
            (self.folder / name).mkdir(parents=True)
        self.sources.write_text(sources)
        self.options.write_text(
            self.host_options + 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n'
        )
        self.config.write_text(
            f'APT::Architecture "{self.arch}";\n'
            f'APT::Architectures "{self.arch}";\n'
            f'Dir::Etc::parts "{self.folder}/parts";\n'
            'Dir::Etc::main "/dev/null";\n'
            'Dir::Etc::sourcelist "/dev/null";\n'
            f'Dir::Etc::sourceparts "{self.sources.parent}";\n'
            f'Dir::State::lists "{self.folder}/lists";\n'
            'Dir::State::status "/dev/null";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            'APT::Sandbox::User "root";\n' + self.options.read_text()
        )


async def answering(
    programs: Programs, apt: AptRoot, selection: Selection, release: Release, progress: Callable[[str], None]
) -> Selection:
    """``selection`` without the sources that do not answer or whose signature is wrong, each told of."""
    progress("reading package sources")
    apt.make(selection.deb822())
    try:
        await programs.run("apt-get", "-q", "update", limit_s=UPDATE_LIMIT_S)
    except Unavailable as error:
        programs.note(f"continuing without what failed: {error.message}")
    listed = await programs.run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages", limit_s=60
    )
    present = {tuple(line.split()) for line in listed.decode().splitlines()}
    used: list[Entry] = []
    silent: list[tuple[Entry, str]] = []
    for entry in selection.used:
        if (entry.uri + "/", entry.suite) in present:
            used.append(entry)
        else:
            silent.append((entry, "it does not answer"))
            progress(f"leaving out {entry.uri} {entry.suite}: it does not answer")
    if not any(entry.suite == release.codename for entry in used):
        raise Unavailable(
            f"no package source of this host serves {release.codename}: {programs.tail()}",
            remedy=f"see that apt-get update works on this host; the build's log is {programs.log}",
        )
    answered = Selection(tuple(used), (*selection.left_out, *silent))
    apt.sources.write_text(answered.deb822())
    return answered


async def install(
    programs: Programs, apt: AptRoot, release: Release, root: Path, progress: Callable[[str], None]
) -> None:
    """Install the base system and ``PACKAGES`` into the new folder ``root``, in namespaces of its own."""
    progress(f"installing the base system and {len(PACKAGES)} packages")
    total = done = 0

    def count(line: str) -> None:
        nonlocal total, done
        if found := re.search(r"(\d+) newly installed", line):
            total += int(found[1])
        elif re.match(r"Setting up ", line):
            done += 1
            if done % PROGRESS_STEP == 0:
                progress(f"installing {max(total, done)} packages: {done} done")

    # A killed build must leave no mount behind: they are in a mount namespace that dies with its processes.
    await programs.run(
        *(
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ),
        *("mmdebstrap", "--verbose", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--architectures={apt.arch}",
        "--skip=cleanup/apt/lists,check/qemu",
        f"--include={','.join(PACKAGES)}",
        f"--aptopt={apt.options}",
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        *(release.codename, root, apt.sources),
        limit_s=INSTALL_LIMIT_S,
        on_line=count,
    )


async def add_modules(programs: Programs, root: Path, modules: Path) -> Path:
    """Put the kernel's modules where the guest's kmod looks for them, with their index; that folder."""
    target = root / "usr/lib/modules"
    target.mkdir(parents=True, exist_ok=True)
    await programs.run("cp", "-a", modules, target, limit_s=COPY_LIMIT_S)
    await programs.run("chroot", root, "depmod", modules.name, limit_s=COPY_LIMIT_S)
    return target / modules.name


async def copy(programs: Programs, kept: Path, root: Path) -> None:
    """A tree to customise, made of the kept one. The files of ``usr``, most of it, are hard links: nothing
    writes into them afterwards."""
    await programs.run("mkdir", root, limit_s=COPY_LIMIT_S)
    names = _names(kept)
    await programs.run(
        "cp", "-a", "-t", root, *(kept / name for name in names - {"usr"}), limit_s=COPY_LIMIT_S
    )
    await programs.run("cp", "-al", "-t", root, kept / "usr", limit_s=COPY_LIMIT_S)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
