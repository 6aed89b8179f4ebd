# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server gc``: delete what no preserved revision needs.

Mark and sweep, with CernVM-FS's rules for what is preserved: the newest revision, as many before it as asked for, and
every named snapshot. What is swept are the objects of the other revisions in the reflog, so nothing has to be listed.
Objects that no revision has ever named, as interrupted publishes leave them, are only found by listing the store.

Why it cannot take away what a publisher is about to refer to, however long any of the two is put to sleep:

1. Both hold the lease, so normally they do not meet.
2. A publisher whose lease has ended may still be in the middle of its commit. Before anything is deleted, the manifest
   is replaced (`Repository.fence`). From then on, the conditional write of whoever read the one before is refused.
3. A garbage collection whose lease has ended may still be in the middle of a deletion. So the store itself refuses its
   requests from the lease's end on (`Permit`).
4. A deletion that was sent, and not answered, may be carried out later. The lease is not given back then; it ends by
   itself, after the time in which the store could still begin with that. Nobody who breaks it can take it earlier.

Data objects go first, then nested catalogs, children before parents, then root catalogs, then their lines in the
reflog. So what an interrupted garbage collection leaves is found by the next one.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from ..content import ContentHash, HashAlgorithm, HashSuffix
from ..content.hash import DIGEST_SIZE
from ..content.object_filter import ObjectFilter
from ..errors import (
    ConfigurationError,
    CorruptObject,
    ObjectNotFound,
    RepositoryError,
    StorageError,
    UsageError,
)
from ..paths import ROOT, display
from ..repository import Lease, Repository, ServerConfig
from ..repository.reflog import ReferenceType, Reflog
from ..repository.status import note_time
from .condemned import read_condemned, write_condemned
from .environment import Environment
from .reflogs import rebuild_reflog
from .statistics import GcStatistics, failure_recorded, record
from .sweeper import UNCERTAIN, Sweeper
from .transaction import Keeper, open_exclusively
from .traversal import CatalogTraversal, Found, Visit

LAST_GC = "last_gc"
_WAVE = 50_000  # digests that are gathered before they are looked up and deleted
_KEY = re.compile(r"data/([0-9a-f]{2})/([0-9a-f]{38}(?:-[a-z0-9]+)?[CHMPX]?)", re.ASCII)
_AUXILIARY = (ReferenceType.CERTIFICATE, ReferenceType.HISTORY, ReferenceType.METAINFO)
_PREFIXES = [f"data/{number:02x}/" for number in range(256)]
_LISTERS = 8

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcOptions:
    """What to preserve, and what to do with the rest. Times are in seconds since 1970.

    :param revisions: number of revisions before the newest to preserve; None for all that are young enough
    :param newer_than: preserve revisions that were published since, and the last one before
    :param orphans_before: also delete objects that no revision in the reflog names, if they were written before this
    :param dry_run: delete nothing; needs neither lease nor key
    :param deletion_log: file to which the names of deleted objects are appended, instead of ``CVMFS_GC_DELETION_LOG``
    """

    revisions: int | None = None
    newer_than: int = 0
    orphans_before: int | None = None
    dry_run: bool = False
    deletion_log: Path | None = None

    def __post_init__(self) -> None:
        if self.revisions is None and self.newer_than <= 0:
            raise UsageError("There is no limit to what is preserved", remedy="Give a number of revisions or a time")
        if self.revisions is not None and self.newer_than > 0:
            raise UsageError("A number of revisions and a time exclude each other", remedy="Give one of them")


@dataclass(slots=True, kw_only=True)
class GcReport:
    """What a garbage collection did; of a dry run, what it would do.

    :param preserved_revisions: root catalogs that stay
    :param condemned_revisions: root catalogs that were in the reflog, and are gone
    :param condemned_objects: everything that is gone, catalogs included
    :param orphans: those of the objects that no revision in the reflog has named
    :param orphan_bytes: of these
    :param condemned_bytes: of the data objects that are gone; None unless ``CVMFS_EXTENDED_GC_STATS`` asks for it, as
        the store then has to be asked for the size of each. A dry run does not.
    """

    repository: str
    dry_run: bool
    preserved_revisions: int = 0
    preserved_catalogs: int = 0
    condemned_revisions: int = 0
    condemned_catalogs: int = 0
    condemned_objects: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    condemned_bytes: int | None = None
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def collectable(environment: Environment) -> list[str]:
    """Return the names of the garbage-collectable repositories that are configured here."""
    names = []
    for name in environment.names():
        settings = environment.settings(name)
        with environment.open(name, settings) as repository:
            if _is_allowed(repository, settings):
                names.append(name)
    return names


def _is_allowed(repository: Repository, settings: ServerConfig) -> bool:
    """Tell whether the configuration does not forbid it, which is so at once, and the manifest tells replicas."""
    return repository.manifest.garbage_collectable and settings.flag("CVMFS_GARBAGE_COLLECTION", default=True)


def collect(environment: Environment, name: str, options: GcOptions, *, tell: Tell | None = None) -> GcReport:
    """Collect a repository's garbage.

    :param tell: gets the name of each object before it is deleted
    :raises RepositoryError: when the repository is not garbage-collectable
    :raises InTransaction, LeaseHeld: while a transaction is open
    :raises ConcurrentPublish: when somebody has published in spite of that; nothing is deleted
    :raises StorageError: when something that has to be preserved cannot be read; nothing is deleted
    """
    started = time.monotonic()
    settings = environment.supported_settings(name)
    deletion_log = options.deletion_log
    if deletion_log is None and settings.get("CVMFS_GC_DELETION_LOG"):
        deletion_log = Path(settings["CVMFS_GC_DELETION_LOG"])
    report = GcReport(repository=name, dry_run=options.dry_run)
    with contextlib.ExitStack() as stack:
        lease = None
        keeper = Keeper()
        if options.dry_run:
            repository = stack.enter_context(environment.open(name, settings))
        else:
            repository, lease = stack.enter_context(open_exclusively(environment, settings, keeper=keeper))
        scratch = stack.enter_context(environment.scratch(settings))
        if not _is_allowed(repository, settings):
            raise RepositoryError(
                f"Garbage collection is not enabled for {name}",
                remedy="Set CVMFS_GARBAGE_COLLECTION=true, and publish a revision",
            )
        log = stack.enter_context(_DeletionLog.opened(deletion_log, report)) if deletion_log is not None else None
        began = time.time()
        if not options.dry_run:
            stack.enter_context(
                failure_recorded(environment, settings, repository.store, GcStatistics(), started=began)
            )
        _Collection(environment, settings, repository, options, report, lease, keeper, scratch, log, tell).run()
        if not options.dry_run:
            statistics = GcStatistics(
                n_preserved_catalogs=report.preserved_catalogs,
                n_condemned_catalogs=report.condemned_catalogs,
                n_condemned_objects=report.condemned_objects,
                sz_condemned_bytes=report.condemned_bytes,
            )
            report.warnings += record(environment, settings, repository.store, statistics, started=began)
    report.seconds = round(time.monotonic() - started, 3)
    return report


class _Collection:
    """One garbage collection."""

    def __init__(
        self,
        environment: Environment,
        settings: ServerConfig,
        repository: Repository,
        options: GcOptions,
        report: GcReport,
        lease: Lease | None,
        keeper: Keeper,
        scratch: Path,
        log: _DeletionLog | None,
        tell: Tell | None,
    ) -> None:
        self._environment = environment
        self._settings = settings
        self._scratch = scratch
        self._repository = repository
        self._options = options
        self._report = report
        self._lease = lease
        self._keeper = keeper
        self._log = log
        self._tell = tell
        self._traversal = CatalogTraversal(repository.store, scratch)
        self._preserved = ObjectFilter()
        self._catalogs: set[ContentHash] = set()  # preserved, or about to be looked at
        self._oldest = 0

    def run(self) -> None:
        reflog = self._repository.reflog()
        if reflog is None:
            if self._lease is None:
                raise RepositoryError(
                    f"{self._repository.name} has no reflog, so what a garbage collection would do is not known",
                    remedy=f"Rebuild it: cvmfs_server check -r {self._repository.name}",
                )
            reflog = rebuild_reflog(self._repository, self._scratch)
        self._mark(reflog)
        condemned = [
            content_hash
            for content_hash, _ in reflog.references(ReferenceType.CATALOG)
            if content_hash not in self._catalogs
        ]
        if self._lease is None:
            self._sweep(reflog, condemned, _Pretender())
            return
        count_bytes = self._settings.flag("CVMFS_EXTENDED_GC_STATS", default=False)
        key = self._environment.signer(self._settings)
        store = self._repository.store
        self._repository.fence(key, self._lease, reflog)
        noted, version = read_condemned(store)
        going = {root.hex for root in condemned}
        version = write_condemned(store, noted | going, version)
        with Sweeper(self._repository.store, self._lease, count_bytes=count_bytes) as sweeper:
            self._keeper.on_loss(sweeper.call_off)
            self._sweep(reflog, condemned, sweeper)
        if count_bytes:
            self._report.condemned_bytes = sweeper.bytes
        if not sweeper.is_certain:
            self._report.warnings.append(UNCERTAIN)
        self._report.warnings += self._repository.commit(
            self._repository.manifest, key, lease=self._lease, reflog=reflog
        )
        write_condemned(store, noted - going, version)
        try:
            note_time(store, LAST_GC)
        except StorageError as error:
            self._report.warnings.append(f"The time of this garbage collection was not noted: {error}")

    # Mark

    def _mark(self, reflog: Reflog) -> None:
        manifest = self._repository.manifest
        tags = {tag.root_hash: f"tag {tag.name}" for tag in self._repository.history().tags()}
        numbers = {manifest.root_hash: 0}  # of the revisions in a row with the newest, which is 0
        times: list[int] = []
        missing: set[ContentHash] = set()
        bound: list[Visit] = []

        def wanted(visit: Visit) -> bool:
            if visit.is_needed and visit.hash in missing:
                raise _unreadable(visit, ObjectNotFound(f"{visit.hash.key()} is missing"))
            return self._is_new(visit.hash)

        def preserve(visit: Visit, found: Found) -> Iterator[Visit]:
            if isinstance(found, StorageError):
                if visit.is_needed or not isinstance(found, ObjectNotFound):
                    raise _unreadable(visit, found)
                missing.add(visit.hash)
                return
            self._report.preserved_catalogs += 1
            self._report.preserved_revisions += not visit.depth
            for (_, suffix), digests in found.objects.items():
                self._preserved.add(digests, suffix)
            yield from filter(wanted, map(visit.below, found.nested))
            # Who removes a tag leaves its directory behind until the next publish
            bound.extend(Visit(other.hash, ROOT, 0, f"snapshot at /{display(other.path)}") for other in found.bound)

        def trunk(visit: Visit, found: Found) -> Iterator[Visit]:
            yield from preserve(visit, found)
            if visit.depth or isinstance(found, StorageError):
                return
            added = reflog.timestamp(visit.hash)
            times.append(found.last_modified if added is None else added)
            number = numbers[visit.hash]
            is_last = times[-1] < self._options.newer_than or number == self._options.revisions
            if found.previous is not None and not is_last and self._is_new(found.previous):
                numbers[found.previous] = number + 1
                # Unless it has a tag, it may have been swept, wholly, or in part when that was interrupted
                tag = tags.get(found.previous)
                yield Visit(found.previous, ROOT, 0, tag or f"revision before {found.revision}", tag is not None)

        newest = Visit(manifest.root_hash, ROOT, 0, "newest revision", is_needed=True)
        self._catalogs.add(newest.hash)
        self._traversal.run([newest], trunk)
        self._oldest = min(times)
        tagged = [Visit(root, ROOT, 0, tag, is_needed=True) for root, tag in tags.items()]
        self._traversal.run(filter(wanted, tagged), preserve)
        while bound:
            shown, bound = bound, []
            self._traversal.run(filter(wanted, shown), preserve)
        for content_hash in self._catalogs:
            self._preserved.add(content_hash.digest, content_hash.suffix)

    def _is_new(self, catalog: ContentHash) -> bool:
        if catalog in self._catalogs:
            return False
        self._catalogs.add(catalog)
        return True

    # Sweep

    def _sweep(self, reflog: Reflog, roots: list[ContentHash], sweeper: Sweeper | _Pretender) -> None:
        swept = ObjectFilter()
        for depth, catalogs in self._sweep_data(roots, swept, sweeper):
            self._delete(catalogs, sweeper)
            sweeper.wait()
            if depth == 0:
                self._report.condemned_revisions = len(catalogs)
        auxiliary = self._outdated(reflog)
        self._delete(auxiliary, sweeper)
        for content_hash in auxiliary:
            swept.add(content_hash.digest, content_hash.suffix)
        # Tag databases and the like that are not outdated have no other sign that they are no orphans
        named = itertools.chain.from_iterable(map(reflog.references, _AUXILIARY))
        for content_hash in (*self._in_use(), *(content_hash for content_hash, _ in named)):
            self._preserved.add(content_hash.digest, content_hash.suffix)
        if self._options.orphans_before is not None:
            self._sweep_orphans(self._options.orphans_before, swept, sweeper)
        sweeper.wait()
        for content_hash in (*roots, *auxiliary):
            reflog.remove(content_hash)

    def _sweep_data(
        self, roots: list[ContentHash], swept: ObjectFilter, sweeper: Sweeper | _Pretender
    ) -> Iterator[tuple[int, list[ContentHash]]]:
        """Delete the objects of condemned revisions; then yield their catalogs, deepest first."""
        wave: dict[tuple[HashAlgorithm, HashSuffix], list[bytes]] = {}
        size = 0
        levels: dict[int, list[ContentHash]] = {0: []}

        def flush() -> None:
            nonlocal size
            for (algorithm, suffix), parts in wave.items():
                digests = _unique(b"".join(parts))
                stays = self._preserved.contains(digests, suffix) | swept.contains(digests, suffix)
                gone = np.frombuffer(digests, f"V{DIGEST_SIZE}")[~stays].tobytes()
                swept.add(gone, suffix)
                self._delete((ContentHash(digest, algorithm, suffix) for digest in _cut(gone)), sweeper)
            wave.clear()
            size = 0

        def condemn(visit: Visit, found: Found) -> Iterator[Visit]:
            nonlocal size
            if isinstance(found, ObjectNotFound):
                return  # swept before
            levels.setdefault(visit.depth, []).append(visit.hash)
            swept.add(visit.hash.digest, visit.hash.suffix)
            if isinstance(found, CorruptObject):
                self._report.warnings.append(
                    f"{found.message}. It is not needed, and was deleted; what only it names is found by: "
                    "cvmfs_server gc --orphans"
                )
                return
            if isinstance(found, StorageError):
                raise found
            self._report.condemned_catalogs += 1
            for kind, digests in found.objects.items():
                wave.setdefault(kind, []).append(digests)
                size += len(digests) // DIGEST_SIZE
            if size >= _WAVE:
                flush()
            yield from (visit.below(nested) for nested in found.nested if self._is_new(nested.hash))

        start = [Visit(root, ROOT, 0) for root in roots]
        self._catalogs.update(roots)
        self._traversal.run(start, condemn)
        flush()
        sweeper.wait()
        for depth in sorted(levels, reverse=True):
            yield depth, levels[depth]

    def _outdated(self, reflog: Reflog) -> list[ContentHash]:
        """Return the tag databases, certificates and meta information that only older revisions have used."""
        current = self._in_use()
        references = itertools.chain.from_iterable(map(reflog.references, _AUXILIARY))
        return [item for item, added in references if added < self._oldest and item not in current]

    def _in_use(self) -> list[ContentHash]:
        """Return what the manifest, which the fence may have given another certificate, names besides the catalog."""
        manifest = self._repository.manifest
        named = (manifest.certificate, manifest.history, manifest.meta_info)
        return [content_hash for content_hash in named if content_hash is not None]

    def _sweep_orphans(self, before: int, swept: ObjectFilter, sweeper: Sweeper | _Pretender) -> None:
        """Delete old objects that neither a preserved nor a condemned revision names, found by listing the store."""
        store = self._repository.store
        catalogs: list[ContentHash] = []

        def find(prefix: str) -> dict[tuple[HashAlgorithm, str], list[tuple[bytes, int]]]:
            found: dict[tuple[HashAlgorithm, str], list[tuple[bytes, int]]] = {}
            for info in store.list(prefix):
                match = _KEY.fullmatch(info.key)
                if match is not None and info.last_modified.timestamp() < before:
                    with contextlib.suppress(CorruptObject):  # the name of an algorithm that nobody knows
                        name = ContentHash.parse(match[1] + match[2])
                        found.setdefault((name.algorithm, name.suffix), []).append((name.digest, info.size))
            return found

        with ThreadPoolExecutor(_LISTERS) as pool:
            for (algorithm, suffix), listed in itertools.chain.from_iterable(
                found.items() for found in pool.map(find, _PREFIXES)
            ):
                digests = b"".join(digest for digest, _ in listed)
                named = self._preserved.contains(digests, suffix) | swept.contains(digests, suffix)
                orphans = [item for item, is_named in zip(listed, named, strict=True) if not is_named]
                self._report.orphans += len(orphans)
                self._report.orphan_bytes += sum(size for _, size in orphans)
                objects = [ContentHash(digest, algorithm, suffix) for digest, _ in orphans]
                if suffix == HashSuffix.CATALOG:
                    catalogs += objects
                else:
                    self._delete(objects, sweeper)
        sweeper.wait()
        self._delete(catalogs, sweeper)

    def _delete(self, objects: Iterable[ContentHash], sweeper: Sweeper | _Pretender) -> None:
        for content_hash in objects:
            self._report.condemned_objects += 1
            if self._tell is not None:
                self._tell(str(content_hash))
            if self._log is not None:
                self._log.write(f"{content_hash}\n")
            sweeper.delete(content_hash.key())


class _Pretender:
    """Takes the place of the sweeper in a dry run."""

    def delete(self, key: str) -> None:
        """Delete nothing."""

    def wait(self) -> None:
        """Nothing is under way."""


class _DeletionLog:
    """The log of deleted objects, in CernVM-FS's format.

    What cannot be written any more, as on a full disk, is a warning: half a collection would help nobody.
    """

    def __init__(self, file: Path, stream: TextIO, report: GcReport) -> None:
        self._file = file
        self._stream: TextIO | None = stream
        self._report = report

    @classmethod
    @contextlib.contextmanager
    def opened(cls, file: Path, report: GcReport) -> Iterator[_DeletionLog]:
        """Open it.

        :param report: gets the warning
        :raises ConfigurationError: when that is impossible
        """
        try:
            stream = open(file, "a", encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise ConfigurationError(
                f"Cannot write the deletion log {file}: {error.strerror}",
                remedy="Correct CVMFS_GC_DELETION_LOG or the option -L",
            ) from error
        log = cls(file, stream, report)
        try:
            log.write(f"# Garbage Collection started at {_moment()}\n")
            yield log
            log.write(f"# Garbage Collection finished at {_moment()}\n\n")
        finally:
            log._close()

    def write(self, text: str) -> None:
        """Add to it, as long as that works."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)

    def _close(self) -> None:
        if self._stream is not None:
            try:
                self._stream.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
        self._report.warnings.append(f"The deletion log {self._file} is not complete: {error.strerror}")


def _moment() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return f"{now.day} {now:%b %Y %H:%M:%S}"


def _unreadable(visit: Visit, error: StorageError) -> StorageError:
    remedy = "Repair it (cvmfs_server check --repair-from), or remove what refers to it; nothing was deleted"
    what = f"The catalog of /{display(visit.path)} in the {visit.revision} has to be preserved, but cannot be read"
    return type(error)(f"{what}: {error.message}", remedy=remedy)


def _unique(digests: bytes) -> bytes:
    table = np.frombuffer(digests, f"S{DIGEST_SIZE}")  # compares as bytes; zeros at the end make no difference
    return np.unique(table).tobytes()


def _cut(digests: bytes) -> Iterator[bytes]:
    return (digests[start : start + DIGEST_SIZE] for start in range(0, len(digests), DIGEST_SIZE))
