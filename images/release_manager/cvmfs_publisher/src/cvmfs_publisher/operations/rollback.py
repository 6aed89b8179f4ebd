# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server rollback``: publish an old revision once more as the newest."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ..catalog import WritableCatalogTree
from ..content import ContentHash
from ..errors import RepositoryError
from ..repository import History, Repository, Tag
from ..repository.history import TRUNK_PREVIOUS
from .checked_out import refuse_checked_out
from .environment import Environment
from .revision import commit_catalogs, commit_history, hash_algorithm
from .snapshots import settle
from .transaction import open_exclusively


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackResult:
    """What a rollback did.

    :param previous_root_hash: what was left behind
    :param tag: what was published once more; None for the revision before the last
    :param removed: the tags that went, newest first; that of the target is among them, and was made anew
    """

    repository: str
    revision: int
    root_hash: ContentHash
    previous_revision: int
    previous_root_hash: ContentHash
    tag: str | None
    removed: list[Tag]
    warnings: list[str]


def require_target(environment: Environment, name: str, tag: str | None, undo: int | None = None) -> None:
    """Refuse a rollback that cannot be, before anybody is asked whether it is meant.

    :raises RepositoryError: as `rollback`
    """
    settings = environment.supported_settings(name)
    refuse_checked_out(environment, settings, "The newest revision")
    with environment.open(name, settings) as repository:
        _target(repository, repository.history(), tag, undo)


def rollback(environment: Environment, name: str, tag: str | None = None, *, undo: int | None = None) -> RollbackResult:
    """Publish a tag's content as a new revision; tags of the revisions between are removed.

    :param tag: by default the revision before the last, which works once
    :param undo: the number that the newest revision has to have
    :raises InTransaction, LeaseHeld: while a transaction is open
    :raises RepositoryError: when there is nothing to go back to
    """
    settings = environment.supported_settings(name)
    refuse_checked_out(environment, settings, "The newest revision")
    key = environment.signer(settings)
    with (
        open_exclusively(environment, settings) as (repository, lease),
        environment.scratch(settings) as scratch,
    ):
        repository.require_signer(key)
        base = repository.manifest
        history = repository.history()
        target = _target(repository, history, tag, undo)
        timestamp = int(time.time())
        with WritableCatalogTree(repository.store, target.root_hash, scratch) as tree:
            manifest = commit_catalogs(
                repository,
                tree,
                replace(base, revision=base.revision + 1),
                hash_algorithm(base, settings),
                timestamp,
                previous=base.root_hash,
            )
            removed = history.rollback(target)
            if target.name != TRUNK_PREVIOUS:
                history.add(
                    replace(
                        target,
                        root_hash=manifest.root_hash,
                        size=manifest.catalog_size,
                        revision=manifest.revision,
                        timestamp=timestamp,
                    )
                )
            again = manifest.root_hash
            manifest = settle(repository, tree, manifest, history, settings, timestamp, scratch)
        manifest = commit_history(repository, manifest, history, timestamp)
        warnings = repository.commit(manifest, key, lease=lease, tagged=[again])
    return RollbackResult(
        repository=name,
        revision=manifest.revision,
        root_hash=manifest.root_hash,
        previous_revision=base.revision,
        previous_root_hash=base.root_hash,
        tag=tag,
        removed=removed,
        warnings=list(warnings),
    )


def _target(repository: Repository, history: History, tag: str | None, undo: int | None) -> Tag:
    """Return the tag to go back to, having refused what cannot be."""
    current = repository.manifest.revision
    if undo not in (None, current):
        raise RepositoryError(
            f"Revision {undo} of {repository.name} cannot be undone: the newest one is {current}",
            remedy=f"Name a tag (-t); list them: cvmfs_server tag -l {repository.name}",
        )
    target = history.find(TRUNK_PREVIOUS) if tag is None else history.get(tag)
    if target is None:
        raise RepositoryError(
            f"{repository.name} has no revision before the last that it could go back to without a tag's name",
            remedy=f"Name a tag (-t); list them: cvmfs_server tag -l {repository.name}",
        )
    if target.branch:
        raise RepositoryError(
            f"The tag {target.name!r} of {repository.name} is on the branch {target.branch}, not on the main line",
            remedy="Name a tag of the main line",
        )
    if target.revision >= current:
        raise RepositoryError(
            f"The tag {target.name!r} of {repository.name} is revision {target.revision}; "
            f"the current one is {current} already",
            remedy="Name an older tag",
        )
    return target
