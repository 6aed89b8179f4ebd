# SPDX-License-Identifier: GPL-3.0-or-later
"""Repairs the reflog, and rebuilds it if it is lost, from what leads from the manifest to older revisions.

Source of the method: CernVM-FS's ``cvmfs_swissknife reconstruct_reflog``. Unlike there, revisions get the time of their
catalogs, not that of the repair, so that garbage collection by age finds them as old as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..content import fetch_object
from ..errors import CorruptObject, ObjectNotFound, StorageError
from ..paths import ROOT
from ..repository import History, Repository
from ..repository.reflog import Reflog
from .environment import Environment
from .transaction import open_exclusively
from .traversal import CatalogTraversal, Found, Visit


def rebuild_reflog(repository: Repository, scratch: Path) -> Reflog:
    """Return a reflog with everything that can be found: chains of root catalogs and of tag databases.

    :param scratch: room for catalogs
    :raises StorageError: when something cannot be read, for another reason than that it is gone
    """
    reflog = Reflog(repository.name)
    roots = [repository.manifest.root_hash]
    content_hash = repository.manifest.history
    while content_hash is not None and not reflog.contains(content_hash):
        try:
            history = History.parse(fetch_object(repository.store, content_hash))
        except ObjectNotFound:
            break
        tags = history.tags()
        reflog.add(content_hash, max((tag.timestamp for tag in tags), default=0))
        roots += (tag.root_hash for tag in tags)
        content_hash = history.previous
    seen = set(roots)

    def found(visit: Visit, catalog: Found) -> Iterator[Visit]:
        if isinstance(catalog, ObjectNotFound):
            return
        if isinstance(catalog, StorageError):
            raise catalog
        reflog.add(visit.hash, catalog.last_modified)
        if catalog.previous is not None and catalog.previous not in seen:
            seen.add(catalog.previous)
            yield Visit(catalog.previous, ROOT, 0)

    CatalogTraversal(repository.store, scratch).run([Visit(root, ROOT, 0) for root in seen], found)
    reflog.add_manifest(repository.manifest)
    return reflog


def repair_reflog(environment: Environment, name: str, *, create: bool = False) -> str | None:
    """Make reflog and manifest agree, and restore a reflog that is missing or damaged.

    :param create: give one to a repository that never had any, too
    :returns: what was done; None when there was nothing to do
    :raises InTransaction, LeaseHeld: while a transaction is open
    """
    settings = environment.settings(name)
    with environment.open(name, settings) as repository:
        is_well = repository.reflog_problem() is None and repository.reflog_disagreement() is None
        if is_well and not (create and repository.manifest.reflog_hash is None):
            return None
    key = environment.signer(settings)
    with (
        open_exclusively(environment, settings) as (repository, lease),
        environment.scratch(settings) as scratch,
    ):
        done = "Brought reflog and manifest together"
        try:
            if repository.repair_reflog():
                return "Finished the reflog that a publisher had left unfinished"
            reflog = repository.reflog()
        except CorruptObject:
            reflog = None
        if reflog is None:
            reflog = rebuild_reflog(repository, scratch)
            done = "Rebuilt the reflog from the revisions that can still be found"
        for warning in repository.commit(repository.manifest, key, lease=lease, reflog=reflog):
            raise StorageError(warning, remedy="Try again")
        return done
