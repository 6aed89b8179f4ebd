# SPDX-License-Identifier: GPL-3.0-or-later
"""What every new revision needs, whatever made it."""

from __future__ import annotations

from dataclasses import replace

from ..catalog import WritableCatalogTree
from ..content import ContentHash, HashAlgorithm, HashSuffix, put_object
from ..repository import History, Manifest, Repository, ServerConfig
from ..storage import Bytes


def hash_algorithm(base: Manifest, settings: ServerConfig) -> HashAlgorithm:
    """Return what new objects are named by; where the configuration does not say, it stays as it is.

    As upstream's, a repository's algorithm can change: old objects keep their names, which tell the algorithm.
    """
    return settings.hash_algorithm if settings.get("CVMFS_HASH_ALGORITHM") else base.root_hash.algorithm


def commit_catalogs(
    repository: Repository,
    tree: WritableCatalogTree,
    manifest: Manifest,
    algorithm: HashAlgorithm,
    timestamp: int,
    *,
    previous: ContentHash | None = None,
    sizes: list[int] | None = None,
) -> Manifest:
    """Upload the changed catalogs, and return the manifest with them; it still lacks history and signature.

    The root catalog's hash decides which algorithm everything else in the revision is named by.

    :param previous: root catalog of the revision before, if that is not what the tree was opened with
    :param sizes: gets the bytes that each new catalog takes in the store
    """

    def put(data: Bytes) -> tuple[ContentHash, int]:
        content_hash, size = put_object(repository.store, data, HashSuffix.CATALOG, algorithm)
        if sizes is not None:
            sizes.append(size)
        return content_hash, size

    committed = tree.commit(put, manifest.revision, timestamp, previous=previous)
    return replace(manifest, root_hash=committed.root_hash, catalog_size=committed.root_size)


def commit_history(repository: Repository, manifest: Manifest, history: History, timestamp: int) -> Manifest:
    """Upload the tag database that belongs to a manifest, and return the manifest with it; it still lacks a signature.

    :param manifest: of a new revision, which becomes the trunk, or of the current one
    :param timestamp: of the new revision, in seconds since 1970
    """
    if manifest.revision != repository.manifest.revision:
        history.set_trunk(manifest.root_hash, manifest.catalog_size, manifest.revision, timestamp)
    return replace(manifest, history=repository.put_history(history, manifest.root_hash.algorithm))
