# SPDX-License-Identifier: GPL-3.0-or-later
"""What need not be uploaded, because the current revision refers to it.

A new release mostly consists of files of the release before, which is somewhere near it in the tree. So the catalogs
around the place that is published to say what the store has already, without a request for each object. They are only
looked at once there is enough to upload to make it worth while: the cost of a small publish must not depend on the
repository's size.

Objects of the current revision are safe from garbage collection. They are in the store, but for those of grafted files,
which need not be there yet: where files have been grafted, nothing is taken for known. And they may have been lost,
which a publish that compares content is to mend: it asks the store for each of them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from ..catalog import CatalogTree
from ..changes.change_set import ChangeSet, Content, UnionChanges
from ..changes.entry import FileContent
from ..content import ContentHash, HashSuffix
from ..paths import parent
from ..storage import ObjectStore

_WORTH_LOOKING = 500
"""Objects to upload before catalogs are looked at."""
_BUDGET = 128 << 20
"""Bytes of catalogs, uncompressed, that are looked at."""


class KnownObjects:
    """Says whether an object is known to be in the store. May be called by any thread.

    :param store: the repository
    :param root: the current revision's root catalog
    :param changes: what is to be published
    :param scratch: room for catalogs
    :param are_stored: whether what the revision refers to is said to be in the store
    :param trusted: whether the store need not be asked about each object all the same
    """

    def __init__(
        self,
        store: ObjectStore,
        root: ContentHash,
        changes: ChangeSet,
        scratch: Path,
        *,
        are_stored: bool,
        trusted: bool,
    ) -> None:
        self._are_stored = are_stored
        self._trusted = trusted
        self._store = store
        self._root = root
        self._directories = {parent(change.base_dir) for change in changes.changes if isinstance(change, Content)}
        self._directories |= {change.path for change in changes.changes if isinstance(change, UnionChanges)}
        self._scratch = scratch
        self._asked = itertools.count(1)
        self._files: set[bytes] = set()
        self._chunks: set[bytes] = set()

    def note(self, content: FileContent) -> None:
        """Take the content of a published file for known."""
        if content.hash is not None:
            self._files.add(content.hash.digest)
        self._chunks.update(chunk.hash.digest for chunk in content.chunks)

    def __call__(self, content_hash: ContentHash) -> bool:
        if not self._are_stored:
            return False
        # Only one thread gets to see this number, and loads; the others go on uploading meanwhile.
        if next(self._asked) == _WORTH_LOOKING:
            self._load()
        known = self._chunks if content_hash.suffix == HashSuffix.PARTIAL else self._files
        is_known = content_hash.digest in known and content_hash.algorithm is self._root.algorithm
        return is_known and (self._trusted or self._store.exists(content_hash.key()))

    def _load(self) -> None:
        files: set[bytes] = set()
        chunks: set[bytes] = set()
        with CatalogTree(self._store, self._root, self._scratch) as tree:
            for catalog in tree.catalogs_around(self._directories, _BUDGET):
                files.update(catalog.file_digests())
                chunks.update(catalog.chunk_digests())
        self._files |= files
        self._chunks |= chunks
