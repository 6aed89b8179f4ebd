# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server tag``: named snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..catalog import CatalogTree
from ..content import ContentHash, HashSuffix
from ..errors import CorruptObject, ObjectNotFound, RepositoryError, UsageError
from ..paths import ROOT
from ..repository import History, Repository, Tag
from .environment import Environment
from .transaction import exclusive


def list_tags(environment: Environment, name: str) -> list[Tag]:
    """Return all tags, newest first."""
    with environment.open(name) as repository:
        return repository.history().tags()


def inspect(environment: Environment, name: str, tag: str) -> Tag:
    """Return one tag.

    :raises RepositoryError: when there is none of that name
    """
    with environment.open(name) as repository:
        return repository.history().get(tag)


def add(environment: Environment, name: str, tag: str, *, description: str = "", root_hash: str | None = None) -> Tag:
    """Name a snapshot; an existing tag of that name is moved, as upstream does.

    :param root_hash: the snapshot's root catalog; by default the newest revision's
    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises RepositoryError: when there is no such root catalog
    """

    def edit(repository: Repository, history: History) -> None:
        content_hash = repository.manifest.root_hash
        if root_hash is not None:
            content_hash = _parse(root_hash, name)
        with environment.scratch(environment.settings(name)) as scratch:
            history.move(_snapshot(repository, tag, description, content_hash, scratch))

    return _edit(environment, name, edit).get(tag)


def remove(environment: Environment, name: str, tags: Iterable[str]) -> None:
    """Remove tags, all or none.

    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises RepositoryError: when there is none of a name
    """

    def edit(_: Repository, history: History) -> None:
        for tag in tags:
            history.remove(tag)

    _edit(environment, name, edit)


def _edit(environment: Environment, name: str, edit: Callable[[Repository, History], None]) -> History:
    """Change the tag database, and sign a manifest that refers to it; the revision stays."""
    settings = environment.settings(name)
    key = environment.repository_key(name)
    with (
        contextlib.closing(environment.store(settings)) as store,
        exclusive(environment, settings, store) as lease,
        environment.open(name, settings) as repository,
    ):
        history = repository.history()
        edit(repository, history)
        manifest = replace(repository.manifest, history=repository.put_history(history))
        repository.commit(manifest, key, lease=lease)
        return history


def _parse(root_hash: str, name: str) -> ContentHash:
    try:
        return ContentHash.parse(root_hash).with_suffix(HashSuffix.CATALOG)
    except CorruptObject:
        raise UsageError(
            f"{root_hash!r} is not the hash of a root catalog", remedy=f"Take it from: cvmfs_server tag -l -x {name}"
        ) from None


def _snapshot(repository: Repository, name: str, description: str, root_hash: ContentHash, scratch: Path) -> Tag:
    """Return a tag for a root catalog, which must exist.

    Its time is that of the catalog, whenever the tag is made: clients look for the state at a date
    (``CVMFS_REPOSITORY_DATE``) by the times of tags.
    """
    try:
        with CatalogTree(repository.store, root_hash, scratch) as tree:
            catalog = tree.catalog(ROOT)
            return Tag(
                name=name,
                root_hash=root_hash,
                size=catalog.file.stat().st_size,
                revision=catalog.revision,
                timestamp=catalog.last_modified,
                description=description,
            )
    except ObjectNotFound:
        raise RepositoryError(
            f"{repository.name} has no root catalog {root_hash.hex}",
            remedy=f"Take the hash from: cvmfs_server tag -l -x {repository.name}",
        ) from None
