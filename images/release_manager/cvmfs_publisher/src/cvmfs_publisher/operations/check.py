# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server check``: is a repository whole?

Looks for what ``cvmfs_swissknife check`` looks for, and more: counters of every catalog, link counts, the transition
between nested catalogs, the existence of every object, and, if asked, its content. Object stores are asked for listings
rather than for each object, which takes a thousandth of the requests.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..catalog.catalog import Catalog, NestedReference
from ..catalog.entry import MARKER, DirectoryEntry
from ..catalog.statistics import Counters
from ..content import ContentHash, HashSuffix, fetch_object
from ..errors import CorruptObject, EndpointUnreachable, ObjectNotFound, PublisherError, RepositoryError, StorageError
from ..paths import ROOT, display, join, parse
from ..repository.manifest import Manifest
from ..repository.repository import alt_path
from ..storage import ObjectStore
from .environment import Environment
from .repair import Reference, RepairSource, open_repair_source, repair

_PARALLEL_REQUESTS = 32
_MOST_PROBLEMS = 1000
_LISTING_PAYS_FROM = 2000  # objects; a listing covers the whole repository, whatever part of it is checked

_LISTERS = 8  # on Ceph, twice as fast as one; more are no faster
_PREFIXES = [f"data/{number:02x}/" for number in range(256)]
_SLOW = 10.0  # seconds for one object after which it is worth a word
_FETCH_AHEAD = 8  # catalogs

Result = TypeVar("Result")

_Referrers = Mapping[ContentHash, Reference]
"""Objects, each with one place that needs it."""


@dataclass(slots=True)
class CheckReport:
    """What a check looked at and found.

    :param revision: the revision that was checked
    :param problems: one sentence each, naming the path or object; cut off after the first thousand
    :param warnings: what is no fault of the repository's, but should be known
    :param repaired: objects that were put back
    """

    repository: str
    revision: int
    catalogs: int = 0
    entries: int = 0
    objects: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    def warning(self, text: str) -> None:
        """Note something that is no problem."""
        if len(self.warnings) < _MOST_PROBLEMS:
            self.warnings.append(text)

    def problem(self, text: str) -> None:
        """Note a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(text)


def check(
    environment: Environment,
    name: str,
    *,
    objects: bool = True,
    integrity: bool = False,
    tag: str | None = None,
    subtree: str = "",
    repair_from: str | None = None,
    scratch: Path | None = None,
) -> CheckReport:
    """Check a repository; needs no keys and no transaction.

    :param objects: whether to look for the existence of every object
    :param integrity: whether to read every object and compare its content with its name
    :param tag: check this tag's revision instead of the newest
    :param subtree: check only the nested catalog at this path, and those below
    :param repair_from: where there may be copies of objects that are missing or damaged; these are put back
    :param scratch: directory for temporary files; by default the spool directory
    :raises PublisherError: when there is nothing that can be checked, e.g. because signatures do not fit
    """
    settings = environment.settings(name)
    with (
        environment.open(name, settings) as repository,
        environment.scratch(settings, scratch) as directory,
        _source(repair_from) as source,
        contextlib.ExitStack() as stack,
    ):
        manifest = repository.manifest
        root, revision = manifest.root_hash, manifest.revision
        if tag is not None:
            found = repository.history().get(tag)
            root, revision = found.root_hash, found.revision
        report = CheckReport(name, revision)
        mender = _Mender(repository.store, source, report)
        walk = stack.enter_context(_Walk(repository.store, directory, report, mender))
        if subtree:
            reference = walk.find(root, parse(subtree))
        else:
            reference = NestedReference(ROOT, root, manifest.catalog_size if tag is None else 0)
            for content_hash in (manifest.certificate, manifest.history, manifest.meta_info):
                if content_hash is not None:
                    walk.fetch(content_hash, f"the manifest of {name}")
            if manifest.has_alt_catalog_path:
                _check_alt_paths(repository.store, manifest, report)
            if reflog_problem := repository.reflog_problem():
                report.problem(reflog_problem)
            elif disagreement := repository.reflog_disagreement():
                report.warning(disagreement)
        walk.catalog(reference)
        walk.objects.update(walk.catalog_objects)
        report.objects = len(walk.objects)
        if integrity:
            _check_content(walk.objects, mender, report)
        elif objects:
            _check_existence(repository.store, walk.objects, mender, report)
    return report


class _Mender:
    """Puts objects back, if there is a source of them."""

    def __init__(self, store: ObjectStore, source: RepairSource | None, report: CheckReport) -> None:
        self._store = store
        self._source = source
        self._report = report

    def mend(self, content_hash: ContentHash, reference: Reference) -> bool:
        """Put an object back; say whether it is there now."""
        if self._source is None or not repair(self._store, content_hash, reference, self._source):
            return False
        self._report.repaired.append(content_hash.key())
        return True

    def fetch(self, content_hash: ContentHash, reference: Reference) -> bytes:
        """Return an object's content, having put it back if need be.

        :raises StorageError: when there is no good copy
        """
        started = time.monotonic()
        try:
            return fetch_object(self._store, content_hash, reference.compression)
        except (ObjectNotFound, CorruptObject):
            if not self.mend(content_hash, reference):
                raise
            return fetch_object(self._store, content_hash, reference.compression)
        finally:
            if (seconds := time.monotonic() - started) > _SLOW:
                self._report.warning(
                    f"{content_hash.key()} took {seconds:.0f} s to read; /{display(reference.path)} refers to it"
                )


class _Walk:
    """Goes through all catalogs, top down; those that come next are fetched meanwhile."""

    def __init__(self, store: ObjectStore, scratch: Path, report: CheckReport, mender: _Mender) -> None:
        self.objects: dict[ContentHash, Reference] = {}
        self.catalog_objects: dict[ContentHash, Reference] = {}
        self._scratch = scratch
        self._report = report
        self._mender = mender
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(min(store.concurrency, _FETCH_AHEAD))
        self._ahead: dict[ContentHash, Future[bytes]] = {}

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fetch(self, content_hash: ContentHash, referrer: str) -> None:
        """Note it if an object cannot be read."""
        try:
            self._mender.fetch(content_hash, Reference(ROOT))
        except ObjectNotFound:
            self._report.problem(f"{content_hash.key()} is missing; {referrer} refers to it")
        except StorageError as error:
            self._report.problem(f"{error} {referrer} refers to it")

    def find(self, root: ContentHash, path: bytes) -> NestedReference:
        """Return the reference to the nested catalog at `path`.

        :raises RepositoryError: when there is none
        """
        reference = NestedReference(ROOT, root, 0)
        while reference.path != path:
            with self._open(reference) as catalog:
                towards = [nested for nested in catalog.nested() if (path + b"/").startswith(nested.path + b"/")]
            if not towards:
                raise RepositoryError(
                    f"There is no nested catalog at /{display(path)}", remedy="Name the directory of a nested catalog"
                )
            reference = towards[0]
        return reference

    def catalog(self, reference: NestedReference) -> Counters | None:
        """Check one catalog and those below it; return its counters with theirs, None if they cannot be had."""
        where = f"/{display(reference.path)}"
        own = statistics = None
        nested: list[NestedReference] = []
        try:
            with self._open(reference) as catalog:
                self._report.catalogs += 1
                self.catalog_objects[reference.hash] = Reference(reference.path)
                if catalog.path != reference.path:
                    self._report.problem(f"The catalog of {where} says that it is the one of /{display(catalog.path)}")
                nested = catalog.nested()
                reachable = self._directories(catalog)
                stored = catalog.count_entries()
                if stored != reachable:
                    self._report.problem(
                        f"The catalog of {where} has {stored - reachable} entries that no directory leads to"
                    )
                own, statistics = catalog.count_own(), catalog.statistics()
            catalog.file.unlink()
        except StorageError as error:
            self._report.problem(f"The catalog of {where}: {error}")
        total = own
        for number, child in enumerate(nested):
            for next_one in nested[number : number + _FETCH_AHEAD]:
                if next_one.hash not in self._ahead:
                    self._ahead[next_one.hash] = self._pool.submit(
                        self._mender.fetch, next_one.hash, Reference(next_one.path)
                    )
            below = self.catalog(child)
            total = None if total is None or below is None else total + below
        if own is None or statistics is None:
            return None
        if statistics.own != own:
            self._report.problem(f"The catalog of {where} counts {statistics.own} as its own, but has {own}")
        if total is not None and statistics.own + statistics.subtree != total:
            self._report.problem(
                f"The catalog of {where} counts {statistics.subtree} below it, but there are {total - own}"
            )
        return total

    def _open(self, reference: NestedReference) -> Catalog:
        file = self._scratch / f"{next(self._numbers)}.db"
        ahead = self._ahead.pop(reference.hash, None)
        data = ahead.result() if ahead else self._mender.fetch(reference.hash, Reference(reference.path))
        try:
            file.write_bytes(data)
        except OSError as error:
            raise PublisherError(
                f"Cannot write a catalog to the scratch directory {self._scratch}: {error.strerror}",
                remedy="Free space there, or set CVMFS_SPOOL_DIR",
            ) from error
        size = file.stat().st_size
        if reference.size not in (0, size):
            self._report.problem(
                f"The catalog of /{display(reference.path)} has {size} bytes, its reference says {reference.size}"
            )
        return Catalog(file)

    def _directories(self, catalog: Catalog) -> int:
        """Check every directory of a catalog; return how many entries there are in them."""
        references = {nested.path for nested in catalog.nested()}
        mountpoints: set[bytes] = set()
        root = catalog.entry(catalog.path)
        if root is None:
            self._report.problem(f"The catalog of /{display(catalog.path)} has no entry for its root")
            return 0
        if root.is_nested_root != bool(catalog.path):
            self._report.problem(f"The root entry of the catalog of /{display(catalog.path)} is marked wrongly")
        reachable = 1
        remaining = [(catalog.path, root)]
        while remaining:
            path, directory = remaining.pop()
            entries = list(catalog.listing(path))
            reachable += len(entries)
            self._directory(catalog, path, directory, entries)
            for entry in entries:
                child = join(path, entry.name)
                if entry.is_nested_mountpoint:
                    mountpoints.add(child)
                    if child not in references:
                        self._report.problem(f"There is no reference to the nested catalog at /{display(child)}")
                    if next(catalog.listing(child), None) is not None:
                        self._report.problem(
                            f"The nested catalog's mountpoint /{display(child)} is not empty in the parent"
                        )
                elif entry.is_directory and not entry.is_bind_mountpoint:
                    remaining.append((child, entry))
        for path in references - mountpoints:
            self._report.problem(f"A nested catalog is referred to at /{display(path)}, where there is no mountpoint")
        self._report.entries += reachable
        return reachable

    def _directory(
        self, catalog: Catalog, path: bytes, directory: DirectoryEntry, entries: list[DirectoryEntry]
    ) -> None:
        """Check the entries of one directory, and remember their objects."""
        links: Counter[int] = Counter()
        for entry in entries:
            child = join(path, entry.name)
            wrong = entry.problem() if entry.name else "it has no name"
            if wrong is not None:
                self._report.problem(f"/{display(child)}: {wrong}")
            if entry.hardlink_group:
                links[entry.hardlink_group] += 1
            elif entry.linkcount > 1 and not entry.is_directory:
                self._report.problem(f"/{display(child)} has {entry.linkcount} links, but is in no hard link group")
            if entry.is_external:
                continue
            if entry.hash is not None:
                self.objects.setdefault(entry.hash, Reference(child, entry.compression))
            for chunk in entry.chunks:
                self.objects.setdefault(chunk.hash, Reference(child, entry.compression, chunk.offset, chunk.size))
        for entry in entries:
            if entry.hardlink_group and entry.linkcount != links[entry.hardlink_group]:
                self._report.problem(
                    f"/{display(join(path, entry.name))} has a link count of {entry.linkcount}; "
                    f"its hard link group has {links[entry.hardlink_group]} members"
                )
        subdirectories = sum(entry.is_directory for entry in entries)
        if directory.linkcount != subdirectories + 2:
            self._report.problem(
                f"/{display(path)} has a link count of {directory.linkcount} instead of {subdirectories + 2}"
            )
        has_marker = any(entry.name == MARKER for entry in entries)
        if has_marker and path != catalog.path:
            self._report.problem(f"/{display(join(path, MARKER))} is there, but the directory is no nested catalog")
        if path == catalog.path != ROOT and not has_marker:
            self._report.problem(f"The nested catalog at /{display(path)} lacks its {MARKER.decode()}")


def _check_alt_paths(store: ObjectStore, manifest: Manifest, report: CheckReport) -> None:
    """Look for the copies outside ``data/`` that clients begin with; CernVM-FS's publisher makes no others."""
    for content_hash in (manifest.root_hash, manifest.certificate):
        if content_hash is not None and not store.exists(alt_path(content_hash)):
            report.problem(f"{alt_path(content_hash)} is missing; clients begin with it where data/ is protected")


def _check_existence(store: ObjectStore, objects: _Referrers, mender: _Mender, report: CheckReport) -> None:
    """Note the objects that the store does not have."""
    missing = list(objects)
    if len(objects) >= _LISTING_PAYS_FROM:
        listed: set[str] = set()
        with ThreadPoolExecutor(_LISTERS) as pool:
            for keys in pool.map(lambda prefix: [info.key for info in store.list(prefix)], _PREFIXES):
                listed.update(keys)
        # A bucket without an index lists nothing, so what seems to be missing is asked for by name.
        missing = [content_hash for content_hash in objects if content_hash.key() not in listed]

    def has(content_hash: ContentHash) -> bool:
        return store.exists(content_hash.key()) or mender.mend(content_hash, objects[content_hash])

    for content_hash, exists in _in_parallel(has, missing):
        if not exists:
            _report_missing(content_hash, objects, report)


def _check_content(objects: _Referrers, mender: _Mender, report: CheckReport) -> None:
    """Note the objects that are missing, damaged, or cannot be decompressed."""

    def read(content_hash: ContentHash) -> StorageError | None:
        try:
            mender.fetch(content_hash, objects[content_hash])
        except EndpointUnreachable:
            raise  # nor will the others be read
        except StorageError as error:
            return error
        return None

    for content_hash, error in _in_parallel(read, list(objects)):
        if isinstance(error, ObjectNotFound):
            _report_missing(content_hash, objects, report)
        elif error is not None:
            report.problem(f"/{display(objects[content_hash].path)}: {error}")


def _in_parallel(
    do: Callable[[ContentHash], Result], objects: list[ContentHash]
) -> Iterator[tuple[ContentHash, Result]]:
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        try:
            yield from zip(objects, pool.map(do, objects), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _source(text: str | None) -> Iterator[RepairSource | None]:
    if text is None:
        yield None
        return
    with contextlib.closing(open_repair_source(text)) as source:
        yield source


def _report_missing(content_hash: ContentHash, objects: _Referrers, report: CheckReport) -> None:
    kind = " (the catalog)" if content_hash.suffix == HashSuffix.CATALOG else ""
    report.problem(f"{content_hash.key()} is missing; /{display(objects[content_hash].path)}{kind} refers to it")
