"""The one module that knows where things are. Every folder is made with the mode it needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of one installation. ``state`` outlives a reboot, ``run`` does not."""

    config: Path
    state: Path
    log: Path
    run: Path
    cache: Path
    images_placed: Path | None = None
    domains_placed: Path | None = None

    @classmethod
    def default(cls) -> Paths:
        """``FLUID_HOME`` if set (one folder for all, as the demo and the tests use); FHS folders for root and
        the user ``fluid``; the XDG folders for anybody else."""
        if home := os.environ.get("FLUID_HOME"):
            return cls.under(Path(home))
        if os.geteuid() == 0 or os.environ.get("USER") == "fluid":
            return cls.system()
        user = Path.home()
        state = Path(os.environ.get("XDG_STATE_HOME", user / ".local/state")) / "fluid"
        return cls(
            Path(os.environ.get("XDG_CONFIG_HOME", user / ".config")) / "fluid",
            state,
            state / "log",
            Path(os.environ.get("XDG_RUNTIME_DIR", state)) / "fluid",
            _cache(Path(os.environ.get("XDG_CACHE_HOME", user / ".cache")) / "fluid"),
        )

    @classmethod
    def system(cls) -> Paths:
        """The folders of a backend that serves the whole machine (FHS): root's, or the user ``fluid``'s."""
        return cls(
            Path("/etc/fluid"),
            Path("/var/lib/fluid"),
            Path("/var/log/fluid"),
            Path("/run/fluid"),
            _cache(Path("/var/cache/fluid")),
        )

    @classmethod
    def under(cls, home: Path) -> Paths:
        """All folders under one."""
        return cls(
            home / "etc",
            home / "state",
            home / "log",
            home / "run",
            _cache(home / "cache"),
        )

    @property
    def in_use(self) -> bool:
        """Whether a backend runs here, or is meant to: it was configured, or has been started once."""
        return any(path.exists() for path in (self.operator_socket, self.config_file, self.state))

    def placed(self, *, images: Path | None, domains: Path | None) -> Paths:
        """The same with large files elsewhere, where the settings say so."""
        return replace(self, images_placed=images, domains_placed=domains)

    @property
    def config_file(self) -> Path:
        return self.config / "config.yaml"

    @property
    def noise_file(self) -> Path:
        return self.config / "noise.conf"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def operator_socket(self) -> Path:
        return self.run / "operator.sock"

    @property
    def pid_file(self) -> Path:
        return self.run / "backend.pid"

    @property
    def links(self) -> Path:
        """Sockets that lead to other hosts' libvirt: 0700."""
        return self.run / "hosts"

    @property
    def id_file(self) -> Path:
        """What the names of all that this installation makes in libvirt come from."""
        return self.state / "id"

    @property
    def secrets(self) -> Path:
        """CA key, audit signing key, HMAC key: 0700."""
        return self.state / "secrets"

    @property
    def database(self) -> Path:
        """The embedded PostgreSQL cluster."""
        return self.state / "postgresql"

    @property
    def images(self) -> Path:
        """Built images are worth keeping between installations: they live in the cache."""
        return self.images_placed or self.cache / "images"

    @property
    def domains(self) -> Path:
        """Overlays, memory files and consoles of our domains, one folder each."""
        return self.domains_placed or self.state / "domains"

    @property
    def blobs(self) -> Path:
        """Contents of changed files, by SHA-256."""
        return self.state / "blobs"

    @property
    def recordings(self) -> Path:
        """What agents' terminals showed, one folder each: 0700."""
        return self.state / "recordings"

    @property
    def runs(self) -> Path:
        """One folder per Ansible run: readable by the runner's uid, nothing else of ours is."""
        return self.state / "runs"

    @property
    def kept(self) -> Path:
        """What targets had before an apply, sealed: 0700."""
        return self.state / "kept"

    @property
    def tmux_socket(self) -> Path:
        return self.run / "tmux.sock"

    @property
    def audit_head(self) -> Path:
        return self.state / "audit.head"

    def make(self) -> None:
        """Make the folders. Others pass through ``state`` and ``run`` to what is theirs, and list nothing."""
        for folder in (self.config, self.log, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        for folder, mode in (
            (self.state, 0o711),
            (self.run, 0o711),
            (self.runs, 0o711),
            (self.secrets, 0o700),
            (self.links, 0o700),
            (self.blobs, 0o700),
            (self.recordings, 0o700),
            (self.kept, 0o700),
            (self.domains, 0o711),
            (self.images, 0o755),
        ):
            is_theirs = folder in (self.images_placed, self.domains_placed) and folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            if not is_theirs:
                folder.chmod(mode)


def _cache(default: Path) -> Path:
    """Images and environments are large: ``FLUID_CACHE`` puts them elsewhere, for the bootstrap too."""
    return Path(os.environ.get("FLUID_CACHE", default))
