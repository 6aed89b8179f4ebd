# SPDX-License-Identifier: GPL-3.0-or-later
"""Instant snapshots: with ``CVMFS_VIRTUAL_DIR=true``, each tag's revision is a directory in ``/.cvmfs/snapshots``.

The layout is that of CernVM-FS's ``catalog_virtual.cc``: a hidden directory ``/.cvmfs`` with a nested catalog of its
own, in which each tag is a bind mountpoint that refers to the root catalog of its revision.

A revision cannot show itself. So a revision that gets a tag is followed by another one that has its snapshot.
"""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from pathlib import Path

from ..catalog import MARKER, CatalogTree, DirectoryEntry, NestedReference, WritableCatalogTree
from ..changes.draft import VIRTUAL_DIRECTORY
from ..content import ContentHash, HashAlgorithm, put_object
from ..errors import RepositoryError, UsageError
from ..paths import ROOT, display, join, name
from ..repository import History, Manifest, Repository, ServerConfig
from ..repository.history import TRUNK, TRUNK_PREVIOUS
from ..storage import ObjectStore
from .revision import commit_catalogs, hash_algorithm

_SNAPSHOTS = join(VIRTUAL_DIRECTORY, b"snapshots")
_DIRECTORY_SIZE = 97  # what CernVM-FS gives to these directories


def require_directory_name(tag: str, settings: ServerConfig) -> None:
    """Refuse the name of a new tag that cannot be the name of its snapshot.

    Upstream's own tools damage the catalog then. Of tags from before there were snapshots, such ones are left out.

    :raises UsageError: then
    """
    if settings.flag("CVMFS_VIRTUAL_DIR", default=False) and not _is_file_name(tag):
        raise UsageError(
            f"The tag {tag!r} cannot have a directory in /{display(_SNAPSHOTS)}",
            remedy="Use a name without slashes, or set CVMFS_VIRTUAL_DIR=false",
        )


def are_outdated(tree: CatalogTree, history: History, settings: ServerConfig) -> bool:
    """Say whether the snapshots in a tree are not those of the tags.

    :raises RepositoryError: when there is something else in their place
    """
    return _shown(tree) != _wanted(history, settings)


def update_snapshots(
    store: ObjectStore, tree: WritableCatalogTree, history: History, settings: ServerConfig, scratch: Path
) -> bool:
    """Make the snapshots in a tree those of the tags, or remove them all if there are to be none.

    :returns: whether that changed anything
    :raises RepositoryError: when there is something else in their place
    """
    shown, wanted = _shown(tree), _wanted(history, settings)
    if shown == wanted:
        return False
    if wanted is None:
        tree.remove(VIRTUAL_DIRECTORY)
        return True
    if shown is None:
        _create(store, tree, settings.hash_algorithm)
        shown = {}
    for tag, root_hash in shown.items():
        if wanted.get(tag) != root_hash:
            tree.remove(join(_SNAPSHOTS, tag))
    for tag, root_hash in wanted.items():
        if shown.get(tag) != root_hash:
            _add(store, tree, tag, root_hash, scratch)
    return True


def settle(
    repository: Repository,
    tree: WritableCatalogTree,
    manifest: Manifest,
    history: History,
    settings: ServerConfig,
    timestamp: int,
    scratch: Path,
    *,
    revision: int | None = None,
    sizes: list[int] | None = None,
) -> Manifest:
    """Return the manifest of a revision that shows all tags, the newest included: the given one, or one after it.

    :param tree: as it was committed for `manifest`
    :param revision: number of the one after it; by default the next one
    :param sizes: as `commit_catalogs`
    """
    if not update_snapshots(repository.store, tree, history, settings, scratch):
        return manifest
    revision = manifest.revision + 1 if revision is None else revision
    algorithm = hash_algorithm(manifest, settings)
    return commit_catalogs(repository, tree, replace(manifest, revision=revision), algorithm, timestamp, sizes=sizes)


def _wanted(history: History, settings: ServerConfig) -> dict[bytes, ContentHash] | None:
    """Return the root catalogs to show by the names of their directories; None for no snapshots at all."""
    if not settings.flag("CVMFS_VIRTUAL_DIR", default=False):
        return None
    return {
        tag.name.encode(): tag.root_hash
        for tag in history.tags()
        if tag.name not in (TRUNK, TRUNK_PREVIOUS) and _is_file_name(tag.name)
    }


def _is_file_name(tag: str) -> bool:
    return tag not in (".", "..") and "/" not in tag


def _shown(tree: CatalogTree) -> dict[bytes, ContentHash] | None:
    """Return the root catalogs that a tree shows; None when it has no snapshots."""
    entry = tree.entry(VIRTUAL_DIRECTORY)
    if entry is None:
        return None
    if not (entry.is_directory and entry.is_hidden and entry.is_nested_mountpoint):
        raise RepositoryError(
            f"/{display(VIRTUAL_DIRECTORY)} is in the repository, but not as CernVM-FS makes it",
            remedy="Move it elsewhere: it is the place of instant snapshots (CVMFS_VIRTUAL_DIR)",
        )
    return {name(bind.path): bind.hash for bind in tree.catalog(VIRTUAL_DIRECTORY).bind_mountpoints()}


def _create(store: ObjectStore, tree: WritableCatalogTree, algorithm: HashAlgorithm) -> None:
    mtime = int(time.time())
    directory = DirectoryEntry(name=b"", mode=stat.S_IFDIR | 0o555, size=_DIRECTORY_SIZE, mtime=mtime)
    empty, _ = put_object(store, b"", algorithm=algorithm)
    tree.add(VIRTUAL_DIRECTORY, replace(directory, is_hidden=True))
    marker = DirectoryEntry(name=MARKER, mode=stat.S_IFREG | 0o444, mtime=mtime, hash=empty)
    tree.add(join(VIRTUAL_DIRECTORY, MARKER), marker)
    tree.add(_SNAPSHOTS, directory)


def _add(store: ObjectStore, tree: WritableCatalogTree, tag: bytes, root_hash: ContentHash, scratch: Path) -> None:
    with CatalogTree(store, root_hash, scratch) as shown:
        root = shown.entry(ROOT)
        size = shown.catalog(ROOT).file.stat().st_size
    if root is None:
        raise RepositoryError(
            f"The root catalog {root_hash.hex} of the tag {display(tag)} has no root directory",
            remedy="Check the repository with 'cvmfs_server check'",
        )
    tree.bind(join(_SNAPSHOTS, tag), root, NestedReference(ROOT, root_hash, size))
