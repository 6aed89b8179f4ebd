# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server diff``: what is different between two revisions.

Directories are compared entry by entry, as by CernVM-FS's ``CatalogDiffTool``. Where both revisions have the same
nested catalog, nothing below can be different and nothing is fetched, so that the cost grows with the difference.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..catalog import CatalogTree, Counters, DirectoryEntry
from ..content import ContentHash, HashSuffix
from ..errors import CorruptObject, ObjectNotFound, RepositoryError, UsageError
from ..paths import ROOT, join
from ..repository import Repository, Tag
from ..repository.history import TRUNK, TRUNK_PREVIOUS
from .environment import Environment

_HASH = re.compile(r"[0-9a-f]{40}(-[a-z0-9]+)?", re.ASCII)


_SIGNED = bytes(byte ^ 0x80 for byte in range(256))


class Kind(Enum):
    """What happened to a path; the value is CernVM-FS's letter."""

    ADDED = "A"
    REMOVED = "R"
    MODIFIED = "M"


class Aspect(Enum):
    """In what two entries are different: CernVM-FS's letter, and its word for people."""

    LINKCOUNT = "I", "link-count"
    SIZE = "S", "size"
    MODE = "M", "mode"
    MTIME = "T", "timestamp"
    SYMLINK = "L", "symlink-target"
    CONTENT = "C", "content"
    HARDLINK_GROUP = "G", "hardlink-group"
    NESTED_CATALOG = "N", "nested-catalog"
    CHUNKED = "P", "chunked-file"
    XATTRS = "X", "xattrs"
    EXTERNAL = "E", "external-file"
    BIND_MOUNTPOINT = "B", "bind-mountpoint"
    DIRECT_IO = "D", "direct-io"

    @property
    def letter(self) -> str:
        return self.value[0]

    @property
    def word(self) -> str:
        return self.value[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One path that is not the same in both revisions.

    :param old: None if it was added
    :param new: None if it was removed
    :param aspects: in what it was modified
    """

    kind: Kind
    path: bytes
    old: DirectoryEntry | None
    new: DirectoryEntry | None
    aspects: tuple[Aspect, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two revisions, and how they differ.

    :param counters: what there is more of in the second one, by CernVM-FS's counters
    :param differences: paths in order, found while they are read
    """

    old: Tag
    new: Tag
    counters: Counters
    differences: Iterator[Difference]


@contextlib.contextmanager
def diff(
    environment: Environment,
    name: str,
    *,
    old: str = TRUNK_PREVIOUS,
    new: str = TRUNK,
    keychain: Path | None = None,
    ignore_mtime: bool = False,
) -> Iterator[Comparison]:
    """Compare two revisions of a repository; needs no keys but the public one, and no transaction.

    :param name: or the repository's URL
    :param old: a tag, ``@`` and the hash of a root catalog, ``@`` and the number of a tagged revision, or ``@`` and a
        point in time in UTC (``@2026-01-31T12:00:00Z``), which means the tagged revision that was current
    :param new: likewise
    :param keychain: public master key, or a directory with it
    :param ignore_mtime: leave out what differs by modification time alone
    :raises RepositoryError: when there is no such revision
    """
    with environment.open_for_reading(name, keychain) as repository, contextlib.ExitStack() as stack:
        history = repository.history()
        old_tag, new_tag = (_find(repository, history.find(text), text) for text in (old, new))
        scratch = stack.enter_context(environment.scratch_for_reading(name))
        old_tree, new_tree = (
            stack.enter_context(CatalogTree(repository.store, tag.root_hash, scratch)) for tag in (old_tag, new_tag)
        )
        try:
            counters = new_tree.statistics().total - old_tree.statistics().total
        except ObjectNotFound as error:
            raise RepositoryError(
                f"{repository.name} has no root catalog of {old} or {new}: {error.message}",
                remedy="It may have been removed by garbage collection; name revisions that are tagged",
            ) from None
        walk = _Walk(old_tree, new_tree, ignore_mtime)
        yield Comparison(old=old_tag, new=new_tag, counters=counters, differences=walk.below(ROOT))


def _find(repository: Repository, tag: Tag | None, text: str) -> Tag:
    """Return the revision that a user named.

    :param tag: the tag of that name, if there is one
    """
    if tag is not None:
        return tag
    if not text.startswith("@"):
        raise RepositoryError(
            f"{repository.name} has no tag {text!r}", remedy=f"List them: cvmfs_server tag -l {repository.name}"
        )
    what = text[1:]
    if _HASH.fullmatch(what):
        try:
            root_hash = ContentHash.parse(what).with_suffix(HashSuffix.CATALOG)
        except CorruptObject as error:
            raise UsageError(f"{text!r} is not the hash of a root catalog", remedy=str(error)) from None
        return Tag(name=what, root_hash=root_hash, size=0, revision=0, timestamp=0)
    history = repository.history()
    if what.isascii() and what.isdigit():
        found = history.of_revision(int(what))
    else:
        try:
            moment = datetime.datetime.fromisoformat(what)
        except ValueError:
            raise UsageError(
                f"{text!r} is no revision",
                remedy="Name a tag, or write @ before a hash, a revision's number, or a time as 2026-01-31T12:00:00Z",
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        found = history.at(int(moment.timestamp()))
    if found is None:
        raise RepositoryError(
            f"{repository.name} has no tag of revision {text}",
            remedy=f"List them: cvmfs_server tag -l {repository.name}",
        )
    return found


class _Walk:
    def __init__(self, old: CatalogTree, new: CatalogTree, ignore_mtime: bool) -> None:
        self._old = old
        self._new = new
        self._ignore_mtime = ignore_mtime

    def below(self, path: bytes) -> Iterator[Difference]:
        """Yield the differences inside a directory, at any depth."""
        stack: list[Iterator[Difference | bytes]] = [self._directory(path)]
        while stack:
            for step in stack[-1]:
                if isinstance(step, bytes):
                    stack.append(self._directory(step))
                    break
                yield step
            else:
                stack.pop()

    def _directory(self, path: bytes) -> Iterator[Difference | bytes]:
        """Yield the differences of a directory's entries, and directories to go into."""
        old_entries, new_entries = (
            {entry.name: entry for entry in tree.listing(path) if not entry.is_hidden}
            for tree in (self._old, self._new)
        )
        for name in sorted(old_entries.keys() | new_entries.keys(), key=_order):
            child, old, new = join(path, name), old_entries.get(name), new_entries.get(name)
            if old is None:
                assert new is not None
                yield Difference(kind=Kind.ADDED, path=child, old=None, new=new)
                if new.is_directory:
                    yield child
            elif new is None:
                # What is in a nested catalog goes without being listed, as CernVM-FS reports it
                if old.is_directory and not old.is_nested_mountpoint:
                    yield child
                yield Difference(kind=Kind.REMOVED, path=child, old=old, new=None)
            else:
                yield from self._both(child, old, new)

    def _both(self, path: bytes, old: DirectoryEntry, new: DirectoryEntry) -> Iterator[Difference | bytes]:
        aspects = _aspects(old, new)
        if self._ignore_mtime:
            aspects.discard(Aspect.MTIME)
        if old.is_directory or new.is_directory:
            aspects.discard(Aspect.SIZE)
        if aspects:
            ordered = tuple(aspect for aspect in Aspect if aspect in aspects)
            yield Difference(kind=Kind.MODIFIED, path=path, old=old, new=new, aspects=ordered)
        if (old.is_directory or new.is_directory) and not self._is_same_catalog(path, old, new):
            yield path

    def _is_same_catalog(self, path: bytes, old: DirectoryEntry, new: DirectoryEntry) -> bool:
        if not (old.is_nested_mountpoint and new.is_nested_mountpoint):
            return False
        references = [tree.reference(path) for tree in (self._old, self._new)]
        hashes = {reference.hash for reference in references if reference is not None}
        return None not in references and len(hashes) == 1


def _order(name: bytes) -> tuple[int, bytes]:
    """Return what names are ordered by: CernVM-FS's ``ShortString`` is by length, then by bytes that have a sign."""
    return len(name), name.translate(_SIGNED)


def _aspects(old: DirectoryEntry, new: DirectoryEntry) -> set[Aspect]:
    """Return in what two entries differ, as CernVM-FS's ``DirectoryEntry::CompareTo`` says it.

    It does not look at the chunks of a file, as a file with other chunks nearly always has another time; where it has
    not, the difference is one of content here.
    """
    compared = {
        Aspect.LINKCOUNT: old.linkcount != new.linkcount,
        Aspect.SIZE: old.size != new.size,
        Aspect.MODE: old.mode != new.mode,
        Aspect.MTIME: (old.mtime, old.mtime_ns) != (new.mtime, new.mtime_ns),
        Aspect.SYMLINK: old.symlink != new.symlink,
        Aspect.CONTENT: old.hash != new.hash,
        Aspect.XATTRS: bool(old.xattrs) != bool(new.xattrs),
        Aspect.HARDLINK_GROUP: old.hardlink_group != new.hardlink_group,
        Aspect.NESTED_CATALOG: (old.is_nested_root, old.is_nested_mountpoint)
        != (new.is_nested_root, new.is_nested_mountpoint),
        Aspect.CHUNKED: bool(old.chunks) != bool(new.chunks),
        Aspect.EXTERNAL: old.is_external != new.is_external,
        Aspect.BIND_MOUNTPOINT: old.is_bind_mountpoint != new.is_bind_mountpoint,
        Aspect.DIRECT_IO: old.is_direct_io != new.is_direct_io,
    }
    aspects = {aspect for aspect, differs in compared.items() if differs}
    if not aspects and old.chunks != new.chunks:
        aspects.add(Aspect.CONTENT)
    return aspects
