"""What a program makes of settings, such as the archive of locales: made again by a handler, never copied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from backend.models import FileChange, FileKind
from backend.playbooks.builders.context import Context, gone


@dataclass(frozen=True)
class _Maker:
    """``argv`` reads ``sources`` and writes ``results``, on a machine that has ``needs``."""

    sources: str
    results: str
    handler: str
    argv: tuple[str, ...]
    needs: str
    links: bool = False  # of the results, all links too


_MAKERS = (
    _Maker(
        r"/etc/locale\.gen",
        r"/usr/lib/locale/(locale-archive|[^/]+(/.*)?)",
        "Make the locales",
        ("locale-gen",),
        "/etc/locale.gen",
    ),
    _Maker(
        r"/usr/local/share/ca-certificates/.+\.crt|/etc/ca-certificates\.conf",
        r"/etc/ssl/certs/ca-certificates\.crt",
        "Collect the trusted certificates",
        ("update-ca-certificates",),
        "/etc/ca-certificates.conf",
        links=True,
    ),
    _Maker(
        r"/etc/aliases",
        r"/etc/aliases\.db",
        "Make the table of mail aliases",
        ("newaliases",),
        "/etc/aliases",
    ),
)


def derived(context: Context) -> None:
    """Claim the results of each program whose sources are part of the change."""
    context.claimed |= results(context.pending())


def results(changes: Iterable[FileChange]) -> set[str]:
    """The paths among ``changes`` that a program makes again, because a source of its is among them too. One
    whose own settings go cannot run."""
    pending = list(changes)
    found: set[str] = set()
    for maker in _MAKERS:
        sources = [change for change in pending if re.fullmatch(maker.sources, change.path)]
        if sources and not any(gone(change) and change.path == maker.needs for change in sources):
            found |= {change.path for change in pending if _is_result(maker, change)}
    return found


def made_again(context: Context, path: str) -> list[str]:
    """The handlers of programs that read ``path``."""
    return [
        context.handler(maker.handler, "command", argv=list(maker.argv), removes=maker.needs)
        for maker in _MAKERS
        if re.fullmatch(maker.sources, path)
    ]


def _is_result(maker: _Maker, change: FileChange) -> bool:
    if re.fullmatch(maker.results, change.path):
        return True
    folder = maker.results.rpartition("/")[0]
    state = change.after or change.before
    is_link = state is not None and state.kind is FileKind.LINK
    return maker.links and is_link and change.path.startswith(f"{folder}/")
