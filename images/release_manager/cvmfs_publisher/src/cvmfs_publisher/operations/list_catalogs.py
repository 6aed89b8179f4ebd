# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server list-catalogs``: the tree of nested catalogs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..catalog import Catalog, NestedReference
from ..catalog.tree import fetch_catalog
from ..content import ContentHash
from ..errors import CorruptObject
from ..paths import ROOT, display
from ..storage import ObjectStore
from .checked_out import find_checkout
from .environment import Environment, writing_to

_PARALLEL_REQUESTS = 8  # each may have a large catalog in memory, and on the scratch disk


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
        with environment.scratch(settings) as scratch:
            found = _read_all(repository.store, root, scratch)
    pending = [(root, 0)]
    while pending:
        reference, level = pending.pop()
        catalog = found[reference.path]
        yield CatalogInfo(
            path=reference.path, level=level, hash=reference.hash, size=catalog.size, entries=catalog.entries
        )
        pending += [(nested, level + 1) for nested in reversed(catalog.nested)]


def _read_all(store: ObjectStore, root: NestedReference, scratch: Path) -> dict[bytes, _Found]:
    """Return what there is to know of each catalog, by its path."""
    found: dict[bytes, _Found] = {}
    with ThreadPoolExecutor(_PARALLEL_REQUESTS, thread_name_prefix="catalog") as pool:

        def read(reference: NestedReference) -> _Found:
            file = Path(scratch, reference.hash.hex)
            data = fetch_catalog(store, reference)
            with writing_to(scratch):
                file.write_bytes(data)
            del data
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
