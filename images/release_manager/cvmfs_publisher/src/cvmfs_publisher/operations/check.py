# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server check``: is a repository whole?

Looks for what ``cvmfs_swissknife check`` looks for, and more: counters of every catalog, link counts, the transition
between nested catalogs, the existence of every object, and, if asked, its content. Object stores are asked for listings
rather than for each object, which takes a thousandth of the requests.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..catalog.catalog import Catalog, NestedReference
from ..catalog.entry import MARKER, DirectoryEntry
from ..catalog.statistics import Counters
from ..content import Compression, ContentHash, HashSuffix, fetch_object
from ..errors import ObjectNotFound, PublisherError, RepositoryError, StorageError
from ..paths import ROOT, display, join, parse
from ..storage import ObjectStore
from .environment import Environment

_PARALLEL_REQUESTS = 32
_MOST_PROBLEMS = 1000
_LISTING_PAYS_FROM = 2000  # objects; a listing covers the whole repository, whatever part of it is checked

_Referrers = Mapping[ContentHash, tuple[bytes, Compression]]
"""Objects, each with the path of one file that needs it, and how it is compressed."""


@dataclass(slots=True)
class CheckReport:
    """What a check looked at and found.

    :param revision: the revision that was checked
    :param problems: one sentence each, naming the path or object; cut off after the first thousand
    """

    repository: str
    revision: int
    catalogs: int = 0
    entries: int = 0
    objects: int = 0
    problems: list[str] = field(default_factory=list)

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
) -> CheckReport:
    """Check a repository; needs no keys and no transaction.

    :param objects: whether to look for the existence of every object
    :param integrity: whether to read every object and compare its content with its name
    :param tag: check this tag's revision instead of the newest
    :param subtree: check only the nested catalog at this path, and those below
    :raises PublisherError: when there is nothing that can be checked, e.g. because signatures do not fit
    """
    with environment.open(name) as repository, tempfile.TemporaryDirectory(prefix="cvmfs-check-") as scratch:
        manifest = repository.manifest
        root, revision = manifest.root_hash, manifest.revision
        if tag is not None:
            found = repository.history().get(tag)
            root, revision = found.root_hash, found.revision
        report = CheckReport(name, revision)
        walk = _Walk(repository.store, Path(scratch), report)
        if subtree:
            reference = walk.find(root, parse(subtree))
        else:
            reference = NestedReference(ROOT, root, manifest.catalog_size if tag is None else 0)
            for content_hash in (manifest.certificate, manifest.history, manifest.meta_info):
                if content_hash is not None:
                    walk.fetch(content_hash, f"the manifest of {name}")
            reflog_problem = repository.reflog_problem()
            if reflog_problem is not None:
                report.problem(reflog_problem)
        walk.catalog(reference)
        walk.objects.update(walk.catalog_objects)
        report.objects = len(walk.objects)
        if integrity:
            _check_content(repository.store, walk.objects, report)
        elif objects:
            _check_existence(repository.store, walk.objects, report)
    return report


class _Walk:
    """Goes through all catalogs, top down, one file at a time."""

    def __init__(self, store: ObjectStore, scratch: Path, report: CheckReport) -> None:
        self.objects: dict[ContentHash, tuple[bytes, Compression]] = {}
        self.catalog_objects: dict[ContentHash, tuple[bytes, Compression]] = {}
        self._store = store
        self._scratch = scratch
        self._report = report
        self._numbers = itertools.count()

    def fetch(self, content_hash: ContentHash, referrer: str) -> bytes | None:
        """Return an object's content, or note why it cannot be had."""
        try:
            return fetch_object(self._store, content_hash)
        except ObjectNotFound:
            self._report.problem(f"{content_hash.key()} is missing; {referrer} refers to it")
        except StorageError as error:
            self._report.problem(f"{error} {referrer} refers to it")
        return None

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
        """Check one catalog and those below it; return its counters with theirs, None if it cannot be had."""
        where = f"/{display(reference.path)}"
        try:
            opened = self._open(reference)
        except StorageError as error:
            self._report.problem(f"The catalog of {where}: {error}")
            return None
        self._report.catalogs += 1
        self.catalog_objects[reference.hash] = (reference.path, Compression.ZLIB)
        with opened as catalog:
            if catalog.path != reference.path:
                self._report.problem(f"The catalog of {where} says that it is the one of /{display(catalog.path)}")
            reachable = self._directories(catalog)
            stored = catalog.count_entries()
            if stored != reachable:
                self._report.problem(
                    f"The catalog of {where} has {stored - reachable} entries that no directory leads to"
                )
            own, statistics, nested = catalog.count_own(), catalog.statistics(), catalog.nested()
        catalog.file.unlink()
        if statistics.own != own:
            self._report.problem(f"The catalog of {where} counts {statistics.own} as its own, but has {own}")
        total = own
        for child in nested:
            below = self.catalog(child)
            if below is None:
                return None
            total += below
        if statistics.own + statistics.subtree != total:
            self._report.problem(
                f"The catalog of {where} counts {statistics.subtree} below it, but there are {total - own}"
            )
        return total

    def _open(self, reference: NestedReference) -> Catalog:
        file = self._scratch / f"{next(self._numbers)}.db"
        data = fetch_object(self._store, reference.hash)
        try:
            file.write_bytes(data)
        except OSError as error:
            raise PublisherError(
                f"Cannot write a catalog to the temporary directory {self._scratch}: {error.strerror}",
                remedy="Free space there, or set TMPDIR",
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
                self.objects.setdefault(entry.hash, (child, entry.compression))
            for chunk in entry.chunks:
                self.objects.setdefault(chunk.hash, (child, entry.compression))
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


def _check_existence(store: ObjectStore, objects: _Referrers, report: CheckReport) -> None:
    """Note the objects that the store does not have."""
    missing = list(objects)
    if len(objects) >= _LISTING_PAYS_FROM:
        listed = {info.key for info in store.list("data/")}
        # A bucket without an index lists nothing, so what seems to be missing is asked for by name.
        missing = [content_hash for content_hash in objects if content_hash.key() not in listed]
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        for content_hash, exists in zip(missing, pool.map(store.exists, (h.key() for h in missing)), strict=True):
            if not exists:
                _report_missing(content_hash, objects, report)


def _check_content(store: ObjectStore, objects: _Referrers, report: CheckReport) -> None:
    """Note the objects that are missing, damaged, or cannot be decompressed."""

    def read(content_hash: ContentHash) -> StorageError | None:
        try:
            fetch_object(store, content_hash, objects[content_hash][1])
        except StorageError as error:
            return error
        return None

    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        for content_hash, error in zip(objects, pool.map(read, objects), strict=True):
            if isinstance(error, ObjectNotFound):
                _report_missing(content_hash, objects, report)
            elif error is not None:
                report.problem(f"/{display(objects[content_hash][0])}: {error}")


def _report_missing(content_hash: ContentHash, objects: _Referrers, report: CheckReport) -> None:
    kind = " (the catalog)" if content_hash.suffix == HashSuffix.CATALOG else ""
    report.problem(f"{content_hash.key()} is missing; /{display(objects[content_hash][0])}{kind} refers to it")
