# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server tag``: named snapshots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..catalog import Catalog, WritableCatalogTree
from ..content import ContentHash, HashSuffix, fetch_object
from ..errors import CorruptObject, ObjectNotFound, RepositoryError, UsageError
from ..paths import ROOT, display
from ..repository import History, Repository, Tag
from ..repository.history import check_description, check_tag_name
from .checked_out import refuse_checked_out
from .condemned import require_whole
from .environment import Environment, writing_to
from .revision import commit_history
from .snapshots import require_directory_name, settle
from .transaction import open_exclusively


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchLevel:
    """One line of the list of branches.

    :param branch: ``(default)`` for the main line
    :param level: branches between it and the main line, which has 0
    """

    branch: str
    level: int
    initial_revision: int


def list_tags(environment: Environment, name: str) -> list[Tag]:
    """Return all tags, newest first.

    :param name: or the repository's URL
    """
    with environment.open_for_reading(name) as repository:
        return repository.history().tags()


def list_branches(environment: Environment, name: str) -> list[BranchLevel]:
    """Return all branches that have tags, each after its parent; the main line comes first.

    :param name: or the repository's URL
    """
    with environment.open_for_reading(name) as repository:
        branches = repository.history().branches()

    def below(parent: str, level: int) -> Iterator[BranchLevel]:
        for branch in branches:
            if branch.name and branch.parent == parent:
                yield BranchLevel(branch=branch.name, level=level, initial_revision=branch.initial_revision)
                yield from below(branch.name, level + 1)

    return [BranchLevel(branch="(default)", level=0, initial_revision=0), *below("", 1)]


def inspect(environment: Environment, name: str, tag: str) -> Tag:
    """Return one tag.

    :param name: or the repository's URL
    :raises RepositoryError: when there is none of that name
    """
    with environment.open_for_reading(name) as repository:
        return repository.history().get(tag)


def add(
    environment: Environment, name: str, tag: str, *, description: str = "", root_hash: str | None = None
) -> tuple[Tag, Sequence[str]]:
    """Name a snapshot; an existing tag of that name is moved if the snapshot is given, as upstream does.

    :param root_hash: the snapshot's root catalog; by default the newest revision's
    :returns: the tag, and warnings
    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises RepositoryError: when there is no such root catalog, or the tag is there already
    """

    check_tag_name(tag)
    check_description(description)
    require_directory_name(tag, environment.settings(name))

    def edit(repository: Repository, history: History) -> list[ContentHash]:
        content_hash = repository.manifest.root_hash
        if root_hash is None:
            if history.find(tag) is not None:
                raise RepositoryError(
                    f"{name} already has a tag {tag!r}", remedy="To move it, add -h with the root catalog's hash"
                )
        else:
            content_hash = _parse(root_hash, name)
            old = history.find(tag)
            if old is not None and old.root_hash == content_hash:
                raise RepositoryError(
                    f"The tag {tag!r} of {name} already points to {content_hash.hex}", remedy="There is nothing to do"
                )
        with environment.scratch(environment.settings(name)) as scratch:
            history.move(_snapshot(repository, tag, description, content_hash, scratch))
        return [content_hash]

    history, warnings = _edit(environment, name, edit)
    return history.get(tag), warnings


def remove(environment: Environment, name: str, tags: Iterable[str]) -> tuple[list[Tag], Sequence[str]]:
    """Remove tags, all or none; return what they were, and warnings.

    :raises LeaseHeld, InTransaction: while a transaction is open
    :raises RepositoryError: when there is none of a name
    """
    removed: list[Tag] = []

    def edit(_: Repository, history: History) -> list[ContentHash]:
        removed.extend(map(history.remove, dict.fromkeys(tags)))
        return []

    _, warnings = _edit(environment, name, edit)
    return removed, warnings


def _edit(
    environment: Environment, name: str, edit: Callable[[Repository, History], Iterable[ContentHash]]
) -> tuple[History, Sequence[str]]:
    """Change the tag database, and sign a manifest that refers to it.

    The revision stays, unless the repository has instant snapshots.

    :param edit: returns the root catalogs that it tagged
    """
    settings = environment.supported_settings(name)
    refuse_checked_out(environment, settings, "Tags")
    key = environment.signer(settings)
    timestamp = int(time.time())
    with open_exclusively(environment, settings) as (repository, lease):
        manifest, history = repository.manifest, repository.history()
        tagged = edit(repository, history)
        if settings.flag("CVMFS_VIRTUAL_DIR", default=False):
            with (
                environment.scratch(settings) as scratch,
                WritableCatalogTree(repository.store, manifest.root_hash, scratch) as tree,
            ):
                manifest = settle(repository, tree, manifest, history, settings, timestamp, scratch)
        manifest = commit_history(repository, manifest, history, timestamp)
        return history, repository.commit(manifest, key, lease=lease, tagged=tagged)


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
    require_whole(repository.name, repository.store, root_hash)
    file = scratch / "tagged.db"
    try:
        data = fetch_object(repository.store, root_hash)
    except ObjectNotFound:
        raise RepositoryError(
            f"{repository.name} has no root catalog {root_hash.hex}",
            remedy=f"Take the hash from: cvmfs_server tag -l -x {repository.name}",
        ) from None
    with writing_to(scratch):
        file.write_bytes(data)
    with Catalog(file) as catalog:
        if catalog.path != ROOT:
            raise RepositoryError(
                f"{root_hash.hex} is the catalog of /{display(catalog.path)}, not a root catalog",
                remedy=f"Take the hash from: cvmfs_server tag -l -x {repository.name}",
            )
        return Tag(
            name=name,
            root_hash=root_hash,
            size=file.stat().st_size,
            revision=catalog.revision,
            timestamp=catalog.last_modified,
            description=description,
        )
