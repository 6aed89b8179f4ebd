# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server list-catalogs``: the tree of nested catalogs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..catalog import Catalog, NestedReference
from ..content import ContentHash, fetch_object
from ..errors import CorruptObject
from ..paths import ROOT, display
from ..storage import ObjectStore
from .checked_out import find_checkout
from .environment import Environment

_PARALLEL_REQUESTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogInfo:
    """One catalog.

    :param path: the directory whose content it holds
    :param level: how many catalogs are above it
    :param size: bytes of its database, uncompressed
    :param entries: files, directories and so on in it, but not in those nested in it
    """

    path: bytes
    level: int
    hash: ContentHash
    size: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Found:
    size: int
    entries: int
    nested: list[NestedReference]


def list_catalogs(environment: Environment, name: str) -> Iterator[CatalogInfo]:
    """Yield all catalogs of what is checked out here, most often the newest revision.

    Each comes before those nested in it, and these by their paths.

    :raises StorageError: when a catalog is missing or damaged
    """
    settings = environment.settings(name)
    with environment.open(name, settings) as repository:
        checkout = find_checkout(environment, settings)
        root = NestedReference(ROOT, checkout.root_hash if checkout else repository.manifest.root_hash, 0)
        found = _read_all(repository.store, root)
    pending = [(root, 0)]
    while pending:
        reference, level = pending.pop()
        catalog = found[reference.path]
        yield CatalogInfo(
            path=reference.path, level=level, hash=reference.hash, size=catalog.size, entries=catalog.entries
        )
        pending += [(nested, level + 1) for nested in reversed(catalog.nested)]


def _read_all(store: ObjectStore, root: NestedReference) -> dict[bytes, _Found]:
    """Return what there is to know of each catalog, by its path."""
    found: dict[bytes, _Found] = {}
    with (
        tempfile.TemporaryDirectory(prefix="cvmfs-list-") as scratch,
        ThreadPoolExecutor(_PARALLEL_REQUESTS, thread_name_prefix="catalog") as pool,
    ):

        def read(reference: NestedReference) -> _Found:
            file = Path(scratch, reference.hash.hex)
            file.write_bytes(fetch_object(store, reference.hash))
            with Catalog(file) as catalog:
                if catalog.path != reference.path:
                    raise CorruptObject(
                        f"{reference.hash.key()} is not the catalog of /{display(reference.path)}",
                        remedy="Check the repository with 'cvmfs_server check'",
                    )
                size = file.stat().st_size
                result = _Found(size, catalog.count_entries(), catalog.nested())
            file.unlink()
            return result

        running: dict[Future[_Found], bytes] = {pool.submit(read, root): root.path}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    path = running.pop(future)
                    found[path] = future.result()
                    running |= {pool.submit(read, nested): nested.path for nested in found[path].nested}
        finally:
            for future in running:
                future.cancel()
    return found
