# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations that go through all catalogs, and publish those that they change as a new revision.

The content of files stays as it is, so the new revision refers to no other objects than the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..catalog import WritableCatalogTree
from ..catalog.catalog import WritableCatalog
from ..content import ContentHash
from .checked_out import refuse_checked_out
from .environment import Environment
from .revision import commit_catalogs, commit_history, hash_algorithm
from .transaction import open_exclusively


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteResult:
    """What became of the catalogs.

    :param revision: the newest revision now
    :param changed: whether it is a new one
    :param catalogs: how many there are
    :param rewritten: how many of them were written anew: those that changed, and those that refer to them
    """

    repository: str
    revision: int
    root_hash: ContentHash
    changed: bool
    catalogs: int
    rewritten: int
    warnings: list[str]


def rewrite(
    environment: Environment,
    name: str,
    change: Callable[[WritableCatalog], bool],
    *,
    recount: bool = False,
) -> RewriteResult:
    """Change all catalogs, and publish the result; when none changes, there is no new revision.

    :param change: changes the rows of a catalog, but neither adds nor removes any, and says whether it has
    :param recount: make the counters of changed catalogs anew
    :raises InTransaction, LeaseHeld: while a transaction is open
    :raises PublisherError: when something is wrong with storage, keys or configuration
    """
    settings = environment.supported_settings(name)
    refuse_checked_out(environment, settings, "The newest revision")
    key = environment.signer(settings)
    with (
        open_exclusively(environment, settings) as (repository, lease),
        environment.scratch(settings) as scratch,
        WritableCatalogTree(repository.store, repository.manifest.root_hash, scratch) as tree,
    ):
        repository.require_signer(key)
        catalogs = tree.rewrite(change, recount=recount)
        rewritten = len(tree.changed_catalogs())
        warnings: list[str] = []
        if rewritten:
            timestamp = int(time.time())
            base = repository.manifest
            manifest = replace(base, revision=base.revision + 1)
            manifest = commit_catalogs(repository, tree, manifest, hash_algorithm(base, settings), timestamp)
            manifest = commit_history(repository, manifest, repository.history(), timestamp)
            warnings += repository.commit(manifest, key, lease=lease)
        return RewriteResult(
            repository=name,
            revision=repository.manifest.revision,
            root_hash=repository.manifest.root_hash,
            changed=rewritten > 0,
            catalogs=catalogs,
            rewritten=rewritten,
            warnings=warnings,
        )
