# SPDX-License-Identifier: GPL-3.0-or-later
"""Visits catalogs of many revisions, each once, several at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from ..catalog.catalog import Catalog, NestedReference
from ..content import ContentHash, HashAlgorithm, HashSuffix, fetch_object
from ..errors import StorageError
from ..storage import ObjectStore
from .environment import writing_to

_MOST_WORKERS = 16


@dataclass(frozen=True, slots=True)
class CatalogSummary:
    """What a catalog refers to.

    :param objects: digests of objects that its files are stored in, one after the other, by their kind
    :param bound: root catalogs of other revisions that it shows
    """

    revision: int
    last_modified: int
    previous: ContentHash | None
    nested: list[NestedReference]
    bound: list[NestedReference]
    objects: Mapping[tuple[HashAlgorithm, HashSuffix], bytes]


@dataclass(frozen=True, slots=True)
class Visit:
    """A catalog to look at.

    :param depth: catalogs above it
    :param revision: that it belongs to, for messages
    :param is_needed: whether it must be there
    """

    hash: ContentHash
    path: bytes
    depth: int
    revision: str = ""
    is_needed: bool = False

    def below(self, nested: NestedReference) -> Visit:
        """Return the visit of a catalog nested in it."""
        return replace(self, hash=nested.hash, path=nested.path, depth=self.depth + 1)


Found = CatalogSummary | StorageError


class CatalogTraversal:
    """Reads catalogs in several threads; what is found is handled in the caller's.

    :param scratch: room for as many catalogs as there are threads
    """

    def __init__(self, store: ObjectStore, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch
        self._numbers = itertools.count()

    def run(self, start: Iterable[Visit], found: Callable[[Visit, Found], Iterable[Visit]]) -> None:
        """Visit catalogs, until there are none left.

        :param found: gets each catalog, or why it cannot be read; returns those to visit next. It is its business to
            name none twice.
        """
        pending = deque(start)
        running: dict[Future[Found], Visit] = {}
        workers = min(self._store.concurrency, _MOST_WORKERS)
        with ThreadPoolExecutor(workers) as pool:
            try:
                while pending or running:
                    while pending and len(running) < 2 * workers:
                        visit = pending.popleft()
                        running[pool.submit(self._read, visit)] = visit
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        pending.extend(found(running.pop(done), done.result()))
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, visit: Visit) -> Found:
        file = self._scratch / f"catalog-{next(self._numbers)}"
        try:
            data = fetch_object(self._store, visit.hash)
            with writing_to(self._scratch):
                file.write_bytes(data)
            del data
            with Catalog(file) as catalog:
                return CatalogSummary(
                    catalog.revision,
                    catalog.last_modified,
                    catalog.previous_revision,
                    catalog.nested(),
                    catalog.bind_mountpoints(),
                    catalog.objects(),
                )
        except StorageError as error:
            return error
        finally:
            file.unlink(missing_ok=True)
