# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server check``: is a repository whole?

Looks for what ``cvmfs_swissknife check`` looks for, and more: counters of every catalog, link counts, the transition
between nested catalogs, the existence of every object, and, if asked, its content. Object stores are asked for listings
rather than for each object, which takes a thousandth of the requests.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..catalog.catalog import Catalog, NestedReference
from ..catalog.entry import MARKER, DirectoryEntry
from ..catalog.statistics import Counters
from ..content import (
    Compression,
    ContentHash,
    DigestSet,
    HashAlgorithm,
    fetch_object,
    verify_object,
)
from ..content.hash import DIGEST_SIZE
from ..content.object_filter import ObjectFilter
from ..errors import CorruptObject, EndpointUnreachable, ObjectNotFound, PublisherError, RepositoryError, StorageError
from ..paths import ROOT, display, join, parse
from ..progress import format_bytes
from ..repository.manifest import Manifest
from ..repository.repository import alt_path
from ..repository.status import last_outcome, last_time, note_time
from ..storage import ObjectStore
from .environment import Environment, writing_to
from .repair import Reference, RepairSource, open_repair_source, repair

_PARALLEL_REQUESTS = 32
_PARALLEL_READS = 16  # each has some megabytes in memory
_MOST_PROBLEMS = 1000
_LAST_CHECK, _CHECK_STATUS, _FAILED = "last_check", "check_status", "failed"
_LISTING_PAYS_FROM = 2000  # objects; a listing covers the whole repository, whatever part of it is checked

_LISTERS = 8  # on Ceph, twice as fast as one; more are no faster
_PREFIXES = [f"data/{number:02x}/" for number in range(256)]
_SLOW = 10.0  # seconds for one object after which it is worth a word
_FETCH_AHEAD = 8  # catalogs

Result = TypeVar("Result")

_KEY = re.compile(r"data/([0-9a-f]{2})/([0-9a-f]{38})(?:-[a-z0-9]+)?([A-Z]?)", re.ASCII)

Item = TypeVar("Item")
_Kind = tuple[HashAlgorithm, str, Compression]
_Objects = Mapping[_Kind, DigestSet]
_Suspects = dict[ContentHash, StorageError | None]
"""Objects that cannot be read, and why; None for those that are missing."""


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

    def took(self, seconds: float, content_hash: ContentHash, size: int) -> None:
        """Note an object that was read if it took long.

        :param size: in bytes
        """
        if seconds > _SLOW:
            self.warning(f"{content_hash.key()} ({format_bytes(size)}) took {seconds:.0f} s to read")

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
        mender = _Mender(repository.store, source, directory, report)
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
        report.objects = sum(map(len, walk.objects.values())) + len(walk.catalogs)
        if integrity:
            walk.explain(_damaged(repository.store, walk.objects, report))
        elif objects:
            walk.explain(_missing(repository.store, walk.objects))
    return report


def checked_lately(environment: Environment, name: str) -> float | None:
    """Return when a repository was found whole, if that is so lately that a check of all repositories spares it.

    :raises PublisherError: when that is not known
    """
    settings = environment.supported_settings(name)
    days = settings.number("CVMFS_CHECK_ALL_MIN_DAYS", 30)
    with contextlib.closing(environment.store(settings)) as store:
        last = last_time(store, _LAST_CHECK)
        if last is None or last_outcome(store, _CHECK_STATUS) == _FAILED or store.now() - last >= days * 86400:
            return None
        return last


def note_check(environment: Environment, name: str, *, is_whole: bool, first: bool = True) -> list[str]:
    """Note for monitoring, and for `checked_lately`, when a repository was checked and how that went.

    :param first: whether to do so if that was never done before
    :returns: warnings: a check needs no right to write
    """
    try:
        with contextlib.closing(environment.store(environment.settings(name))) as store:
            if first or last_time(store, _LAST_CHECK) is not None:
                note_time(store, _LAST_CHECK, **{_CHECK_STATUS: "succeeded" if is_whole else _FAILED})
    except PublisherError as error:
        return [f"The time of this check was not noted: {error}"]
    return []


class _Mender:
    """Puts objects back, if there is a source of them."""

    def __init__(self, store: ObjectStore, source: RepairSource | None, scratch: Path, report: CheckReport) -> None:
        self._store = store
        self._source = source
        self._scratch = scratch
        self._report = report

    def mend(self, content_hash: ContentHash, reference: Reference) -> bool:
        """Put an object back; say whether it is there now."""
        if self._source is None or not repair(self._store, content_hash, reference, self._source, self._scratch):
            return False
        self._report.repaired.append(content_hash.key())
        return True

    def fetch(self, content_hash: ContentHash, reference: Reference) -> bytes:
        """Return an object's content, having put it back if need be.

        :raises StorageError: when there is no good copy
        """
        started = time.monotonic()
        try:
            data = fetch_object(self._store, content_hash, reference.compression)
        except (ObjectNotFound, CorruptObject):
            if not self.mend(content_hash, reference):
                raise
            return fetch_object(self._store, content_hash, reference.compression)
        self._report.took(time.monotonic() - started, content_hash, len(data))
        return data

    def settle(self, content_hash: ContentHash, reference: Reference, error: StorageError | None) -> str | None:
        """Put an object back, and return the problem that there is if that is impossible.

        :param error: why it cannot be read; None when it is missing
        """
        where = f"/{display(reference.path)}"
        try:
            if error is None and not self.mend(content_hash, reference):
                return f"{content_hash.key()} is missing; {where} refers to it"
            if error is not None and not (isinstance(error, CorruptObject) and self.mend(content_hash, reference)):
                return f"{where}: {error}"
            verify_object(self._store, content_hash, reference.compression)
        except EndpointUnreachable:
            raise  # nor will the others be read
        except StorageError as remaining:
            return f"{where}: {remaining}"
        return None


class _Walk:
    """Goes through all catalogs, top down; those that come next are fetched meanwhile."""

    def __init__(self, store: ObjectStore, scratch: Path, report: CheckReport, mender: _Mender) -> None:
        self.objects: dict[_Kind, DigestSet] = {}
        self.catalogs: dict[ContentHash, bytes] = {}
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
                self.catalogs[reference.hash] = reference.path
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

    def explain(self, suspects: _Suspects) -> None:
        """Note where objects are needed that are missing or damaged, unless they can be put back.

        To remember a place for each object would take far more memory than the objects themselves. So the catalogs
        that are known by now are read once more, if need be.
        """

        def settle(item: tuple[ContentHash, Reference]) -> str | None:
            return self._mender.settle(*item, suspects[item[0]])

        for content_hash, path in self.catalogs.items():
            if not suspects:
                break
            found: dict[ContentHash, Reference] = {}
            with self._open(NestedReference(path, content_hash, 0)) as catalog, contextlib.suppress(CorruptObject):
                for suspect, reference in self._places(catalog):
                    if suspect in suspects:
                        found.setdefault(suspect, reference)
            catalog.file.unlink()
            for (suspect, _), problem in _in_parallel(settle, found.items(), _LISTERS):
                if problem is not None:
                    self._report.problem(problem)
                del suspects[suspect]
        for suspect, error in suspects.items():  # needed by what a damaged catalog no longer shows
            self._report.problem(str(error) if error is not None else f"{suspect.key()} is missing")

    @staticmethod
    def _places(catalog: Catalog) -> Iterator[tuple[ContentHash, Reference]]:
        """Yield the objects of a catalog's files."""
        remaining = [catalog.path]
        while remaining:
            path = remaining.pop()
            for entry in catalog.listing(path):
                child = join(path, entry.name)
                yield from _references(child, entry)
                if entry.is_directory and not (entry.is_nested_mountpoint or entry.is_bind_mountpoint):
                    remaining.append(child)

    def _open(self, reference: NestedReference) -> Catalog:
        file = self._scratch / f"{next(self._numbers)}.db"
        ahead = self._ahead.pop(reference.hash, None)
        data = ahead.result() if ahead else self._mender.fetch(reference.hash, Reference(reference.path))
        with writing_to(self._scratch):
            file.write_bytes(data)
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
            for content_hash, _ in _references(child, entry):
                kind = (content_hash.algorithm, content_hash.suffix, entry.compression)
                if kind not in self.objects:
                    self.objects[kind] = DigestSet()
                self.objects[kind].add(content_hash.digest)
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


def _references(path: bytes, entry: DirectoryEntry) -> Iterator[tuple[ContentHash, Reference]]:
    """Yield the objects of a file, and what they are of it; none of an external one."""
    if entry.is_external:
        return
    if entry.hash is not None:
        yield entry.hash, Reference(path, entry.compression)
    for chunk in entry.chunks:
        yield chunk.hash, Reference(path, entry.compression, chunk.offset, chunk.size)


def _missing(store: ObjectStore, objects: _Objects) -> _Suspects:
    """Return the objects that the store does not have."""
    listed = ObjectFilter()
    if sum(map(len, objects.values())) >= _LISTING_PAYS_FROM:
        with ThreadPoolExecutor(_LISTERS) as pool:
            for found in pool.map(lambda prefix: _list(store, prefix), _PREFIXES):
                for suffix, digests in found.items():
                    listed.add(digests, suffix)

    def unlisted() -> Iterator[ContentHash]:
        for (algorithm, suffix, _), digests in objects.items():
            table = digests.tobytes()
            missing = np.frombuffer(table, f"V{DIGEST_SIZE}")[~listed.contains(table, suffix)].tobytes()
            yield from (
                ContentHash(missing[start : start + DIGEST_SIZE], algorithm, suffix)
                for start in range(0, len(missing), DIGEST_SIZE)
            )

    # A bucket without an index lists nothing, so what seems to be missing is asked for by name.
    answers = _in_parallel(lambda content_hash: store.exists(content_hash.key()), unlisted(), _PARALLEL_REQUESTS)
    return {content_hash: None for content_hash, exists in answers if not exists}


def _list(store: ObjectStore, prefix: str) -> dict[str, bytes]:
    """Return the digests of the objects below a prefix by their suffix."""
    found: dict[str, bytearray] = {}
    for info in store.list(prefix):
        match = _KEY.fullmatch(info.key)
        if match is not None:
            found.setdefault(match[3], bytearray()).extend(bytes.fromhex(match[1] + match[2]))
    return {suffix: bytes(digests) for suffix, digests in found.items()}


def _damaged(store: ObjectStore, objects: _Objects, report: CheckReport) -> _Suspects:
    """Return the objects that are missing, damaged, or cannot be decompressed."""

    def read(item: tuple[ContentHash, Compression]) -> StorageError | None:
        content_hash, compression = item
        started = time.monotonic()
        try:
            size = verify_object(store, content_hash, compression)
        except EndpointUnreachable:
            raise  # nor will the others be read
        except StorageError as error:
            return error
        report.took(time.monotonic() - started, content_hash, size)
        return None

    everything = (
        (ContentHash(digest, algorithm, suffix), compression)
        for (algorithm, suffix, compression), digests in objects.items()
        for digest in digests
    )
    suspects: _Suspects = {}
    for (content_hash, _), error in _in_parallel(read, everything, _PARALLEL_READS):
        if error is not None:
            suspects[content_hash] = None if isinstance(error, ObjectNotFound) else error
    return suspects


def _in_parallel(do: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """Yield items, in their order, with what `do` returns for each; few of them are in memory at a time."""
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                running.append((item, pool.submit(do, item)))
                if len(running) >= 8 * threads:
                    first, future = running.popleft()
                    yield first, future.result()
            for first, future in running:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _source(text: str | None) -> Iterator[RepairSource | None]:
    if text is None:
        yield None
        return
    with contextlib.closing(open_repair_source(text)) as source:
        yield source
