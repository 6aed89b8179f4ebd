# SPDX-License-Identifier: GPL-3.0-or-later
"""Revisions that a garbage collection has begun to delete, as an object in the repository's storage.

Their root catalogs go last, so one that broke off leaves revisions that look whole and are not. Nobody may refer to
them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..content import ContentHash
from ..errors import CorruptObject, ObjectNotFound, RepositoryError
from ..storage import ObjectStore, Version

CONDEMNED_KEY = ".cvmfs_publishing_condemned.json"


def read_condemned(store: ObjectStore) -> tuple[set[str], Version | None]:
    """Return the root catalogs' hashes, and the version of the object that has them; None when there is none yet.

    :raises CorruptObject: when the object is damaged
    """
    try:
        data, version = store.get_versioned(CONDEMNED_KEY)
    except ObjectNotFound:
        return set(), None
    try:
        return set(map(str, json.loads(data)["roots"])), version
    except (ValueError, TypeError, KeyError):
        raise CorruptObject(
            f"{CONDEMNED_KEY} is damaged", remedy="Delete it, then collect garbage: cvmfs_server gc"
        ) from None


def write_condemned(store: ObjectStore, roots: Iterable[str], version: Version | None) -> Version:
    """Replace the list, and return its new version.

    :raises PreconditionFailed: when somebody else has replaced it
    """
    data = json.dumps({"roots": sorted(roots)}).encode()
    if version is None:
        return store.put_if_absent(CONDEMNED_KEY, data)
    return store.put_if_match(CONDEMNED_KEY, data, version)


def require_whole(repository: str, store: ObjectStore, root_hash: ContentHash) -> None:
    """Refuse a revision that is not whole any more. To be called while holding the lease.

    :raises RepositoryError: then
    """
    if root_hash.hex in read_condemned(store)[0]:
        raise RepositoryError(
            f"The revision {root_hash.hex} of {repository} was being deleted by a garbage collection that broke off",
            remedy="Choose another revision",
        )
