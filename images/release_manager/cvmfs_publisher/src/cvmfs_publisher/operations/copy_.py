# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server copy``: a repository moves to another storage, as it is, while it is in use.

Objects are compared with their names on the way. Those that the destination has are not sent again, so a copy that
broke off goes on, and one that is repeated brings over what is new. The manifest comes last: at every moment the
destination holds no repository, or a whole one. Nothing is signed, and no private key is needed.

The source may be published to meanwhile. What is copied counts if the manifest was the same before and after, since
garbage collection never touches the newest revision, and replaces the manifest; otherwise what came is copied, too. The
reflog and the like are read in between, so they know no revision that was not copied.

The destination may have signatures of its own, as the key may have been replaced there since. Of two whitelists the
one that was signed later counts, and of two manifests of a revision as well, unless the later one names an object that
is lost. A key that clients do not trust any more in the destination is not brought back: that is refused before
anything is written.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..content import ContentHash, mapped
from ..errors import (
    ConcurrentPublish,
    ConfigurationError,
    CorruptObject,
    ObjectNotFound,
    PreconditionFailed,
    RepositoryError,
    SignatureError,
    UsageError,
)
from ..progress import Progress
from ..repository import Certificate, Manifest, Repository, ServerConfig, Whitelist
from ..repository import whitelist as whitelist_module
from ..repository.lease import LEASE_KEY
from ..repository.manifest import MANIFEST_KEY
from ..repository.reflog import REFLOG_KEY
from ..repository.repository import MASTER_REPLICA_KEY, alt_paths, named_objects, read_manifest
from ..repository.signing import load_public_keys
from ..repository.status import STATUS_KEY
from ..repository.whitelist import WHITELIST_KEY
from ..storage import ObjectInfo, ObjectStore, Version
from .condemned import CONDEMNED_KEY
from .environment import Environment, writing_to
from .publish import show_progress
from .transaction import exclusive, leased

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_PREFIXES = [f"data/{number:02x}/" for number in range(256)]
_LISTERS = 8
_MOST_PASSES = 10
_LARGE = 8 << 20  # bytes from which on an object is not kept in memory, as many are copied at a time
_PART_SIZE = 4 << 20  # bytes
_DOCUMENTS = (CONDEMNED_KEY, REFLOG_KEY, MASTER_REPLICA_KEY, STATUS_KEY)
"""What a repository has besides content and what is signed, and is not about who is publishing."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """From where to where; one of both is None, and stands for the repository's own storage.

    :param source: as ``CVMFS_UPSTREAM_STORAGE``
    :param destination: as ``CVMFS_UPSTREAM_STORAGE``
    :param overwrite: replace a repository in the destination that is no older state of the source's, or is signed with
        a later key. Clients refuse it then until it is signed with that
    :param dry_run: only say what there is to do
    """

    source: str | None = None
    destination: str | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(slots=True, kw_only=True)
class CopyResult:
    """What was copied, or would be.

    :param source: for people
    :param destination: for people
    :param revision: the newest one, which the destination now has
    :param objects: number of objects that were copied
    :param bytes: their size
    :param present: number of objects that were in the destination before
    :param changed: whether anything was written to the destination
    """

    repository: str
    source: str
    destination: str
    revision: int = 0
    root_hash: str = ""
    objects: int = 0
    bytes: int = 0
    present: int = 0
    changed: bool = False
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Trust:
    """What the destination has a whitelist for.

    :param kept: that whitelist, if it stays
    :param version: of its object; None if there is none
    :param keeps_manifest: whether the manifest stays, too, which is of the same revision and was signed later
    :param lost: keys of the objects for whose lack it does not
    """

    kept: Whitelist | None = None
    version: Version | None = None
    keeps_manifest: bool = False
    lost: tuple[str, ...] = ()


def copy(environment: Environment, name: str, options: CopyOptions) -> CopyResult:
    """Copy a repository from one storage to another.

    :raises RepositoryNotFound, SignatureError: when the source has none that the repository's public key vouches for
    :raises CorruptObject: when objects of the source do not match their names; all others have been copied then
    :raises RepositoryError: when the destination has something that is no older state of the source's repository, or
        clients there do not trust the key any more that has signed the source
    :raises ConcurrentPublish: when the source changes faster than it can be copied, or the destination meanwhile
    :raises InTransaction, LeaseHeld: when somebody publishes to the destination
    :raises NotInTransaction: when the destination's lease was lost meanwhile; it has its old revision
    """
    settings = environment.settings(name)
    storage = options.source or options.destination
    if storage is None or (options.source and options.destination):
        raise UsageError("A copy has one other side than the repository's own storage", remedy="Give --from or --to")
    keys = load_public_keys(environment.public_keys(settings))
    elsewhere = ServerConfig({**settings, "CVMFS_UPSTREAM_STORAGE": storage}, "the command line")
    with (
        contextlib.closing(environment.store(settings)) as own,
        contextlib.closing(environment.store(elsewhere)) as other,
        environment.scratch(settings) as scratch,
        contextlib.ExitStack() as stack,
    ):
        source, destination = (other, own) if options.source else (own, other)
        result = CopyResult(
            repository=name,
            source=source.describe(),
            destination=destination.describe(),
            dry_run=options.dry_run,
        )
        Repository.open(name, source, keys)  # before anything is written for a source that there is not
        lease = None
        if not options.dry_run:
            is_own = destination is own
            lease = stack.enter_context(
                exclusive(environment, settings, own) if is_own else leased(destination, settings.repository)
            )
        progress = stack.enter_context(show_progress(f"Copying {name}", unit="objects"))
        for _ in range(_MOST_PASSES):
            repository = Repository.open(name, source, keys)
            version = _require_older(repository, destination, overwrite=options.overwrite)
            _trust(repository, destination, keys, overwrite=options.overwrite)
            _copy_objects(source, destination, scratch, result, progress)
            documents = _read_documents(repository)
            whitelist, manifest = source.get(WHITELIST_KEY), source.get(MANIFEST_KEY)
            if Manifest.parse(manifest) == repository.manifest:
                if lease is not None:
                    lease.renew()
                trust = _trust(repository, destination, keys, overwrite=options.overwrite)
                _put_documents(documents, destination, result, only_missing=trust.keeps_manifest)
                if trust.kept is None:
                    _replace(WHITELIST_KEY, whitelist, trust.version, destination, result)
                if not trust.keeps_manifest:
                    _replace(MANIFEST_KEY, manifest, version, destination, result)
                    _warn_of_lost(repository, trust, result)
                    _warn_of_signature(repository, trust, result)
                result.revision = repository.manifest.revision
                result.root_hash = repository.manifest.root_hash.hex
                return result
    raise ConcurrentPublish(
        f"{name} was published to in {result.source} each time that its objects were being copied",
        remedy="Copy again, while nobody publishes; what was copied stays",
    )


def _require_older(repository: Repository, destination: ObjectStore, *, overwrite: bool) -> Version | None:
    """Return the version of the destination's manifest; None if there is none.

    :raises RepositoryError: when it is of another repository, or of no revision that the source has had
    """
    try:
        data, version = destination.get_versioned(MANIFEST_KEY)
    except ObjectNotFound:
        return None
    there = Manifest.parse(data)
    newest = repository.manifest
    if there.repository != repository.name:
        raise RepositoryError(
            f"{destination.describe()} has the repository {there.repository}",
            remedy=f"Choose another place for {repository.name}, or remove that repository first",
        )
    reflog = repository.reflog()
    is_known = there.root_hash == newest.root_hash
    is_known |= reflog is not None and reflog.contains(there.root_hash)
    if not overwrite and (not is_known or there.revision > newest.revision):
        where = repository.store.describe()
        problem = f"newer than revision {newest.revision} in {where}" if is_known else f"no revision that {where} knows"
        raise RepositoryError(
            f"{destination.describe()} has {there.repository} in revision {there.revision} ({there.root_hash.hex}), "
            f"which is {problem}",
            remedy="Either it was published to since it was copied, or its revision was garbage-collected in the "
            "source; to lose it, add --overwrite",
        )
    return version


def _trust(
    repository: Repository, destination: ObjectStore, keys: Sequence[rsa.RSAPublicKey], *, overwrite: bool
) -> _Trust:
    """Say what of the destination's signatures stays.

    If each whitelist lacks the other side's certificate, the key was replaced on one side: where the certificate is
    that was made later.

    :raises RepositoryError: when it was in the destination, and that has not the same revision
    """
    there, version = _whitelist_there(repository, destination, keys, overwrite=overwrite)
    signed = _signed_there(destination, repository.name)
    here, own, newest = repository.whitelist, repository.certificate, repository.manifest
    if there is not None:
        is_later = (there.created, there.expires) >= (here.created, here.expires)
        if not is_later and (there.lists(own) or signed is None or signed[1].made < own.made):
            there = None
    trusted = there or here
    keeps_manifest = False
    lost: tuple[str, ...] = ()
    if signed is not None and trusted.lists(signed[1]):
        is_same = (signed[0].root_hash, signed[0].revision) == (newest.root_hash, newest.revision)
        keeps_manifest = is_same and (not trusted.lists(own) or signed[0].timestamp > newest.timestamp)
        lost = _lost(signed[0], repository.store, destination) if keeps_manifest else ()
        keeps_manifest = keeps_manifest and not lost
    if not trusted.lists(own) and not keeps_manifest and not overwrite:
        raise RepositoryError(
            f"Clients of {destination.describe()} do not trust {own.fingerprint()}, with which revision "
            f"{newest.revision} in {repository.store.describe()} is signed: the key was replaced since"
            + (f", but {', '.join(lost)} of what the new key has signed is lost" if lost else ""),
            remedy="Copy from where it is signed with the new key; or add --overwrite, by which that whitelist stays, "
            f"and sign the revision there: cvmfs_server resign -p -f {repository.name}",
        )
    return _Trust(there, version, keeps_manifest, lost)


def _lost(manifest: Manifest, source: ObjectStore, destination: ObjectStore) -> tuple[str, ...]:
    """Return the keys of objects that the destination's manifest names, and that are not there after the copy."""
    keys = (content_hash.key() for content_hash in named_objects(manifest))
    return tuple(key for key in keys if not destination.exists(key) and not source.exists(key))


def _whitelist_there(
    repository: Repository, destination: ObjectStore, keys: Sequence[rsa.RSAPublicKey], *, overwrite: bool
) -> tuple[Whitelist | None, Version | None]:
    """Return the destination's whitelist, None if it is good for nothing, and the version of its object, if any.

    :raises RepositoryError: when it is of another master key
    """
    try:
        data, version = destination.get_versioned(WHITELIST_KEY)
    except ObjectNotFound:
        return None, None
    try:
        return whitelist_module.verify(data, keys, repository.name), version
    except CorruptObject:
        return None, version
    except SignatureError as error:
        if overwrite:
            return None, version
        raise RepositoryError(
            f"{destination.describe()} has another whitelist: {error.message}", remedy="To lose it, add --overwrite"
        ) from error


def _signed_there(destination: ObjectStore, name: str) -> tuple[Manifest, Certificate] | None:
    """Return the destination's manifest, and the certificate that it is signed with; None if it is not."""
    try:
        manifest, _, certificate = read_manifest(destination, name)
    except (RepositoryError, CorruptObject, ObjectNotFound):
        return None
    return manifest, certificate


def _warn_of_lost(repository: Repository, trust: _Trust, result: CopyResult) -> None:
    if trust.lost:
        result.warnings.append(
            f"The manifest of revision {repository.manifest.revision} in {result.destination} was signed later, but "
            f"{', '.join(trust.lost)}, which it names, is lost: that of {result.source} replaces it, with its tags"
        )


def _warn_of_signature(repository: Repository, trust: _Trust, result: CopyResult) -> None:
    if trust.kept is not None and not trust.kept.lists(repository.certificate):
        result.warnings.append(
            f"Clients refuse revision {repository.manifest.revision} in {result.destination} until it is signed with "
            f"the key that they trust: cvmfs_server resign -p -f {repository.name}"
        )


def _copy_objects(
    source: ObjectStore, destination: ObjectStore, scratch: Path, result: CopyResult, progress: Progress
) -> None:
    """Copy all objects that the destination does not have.

    :raises CorruptObject: in the end, when some were left out for not matching their names
    """
    transfer = _Transfer(source, destination, scratch, result, progress)
    workers = max(source.concurrency, destination.concurrency)
    with ThreadPoolExecutor(_LISTERS) as listers, ThreadPoolExecutor(workers) as pool:
        try:
            wanted = (info for missing in _ahead(listers, transfer.compare, _PREFIXES, _LISTERS) for info in missing)
            for _ in _ahead(pool, transfer.copy, wanted, 4 * workers):
                pass
        finally:
            listers.shutdown(cancel_futures=True)
            pool.shutdown(cancel_futures=True)
    if transfer.damaged:
        keys = sorted(transfer.damaged)
        raise CorruptObject(
            f"{len(keys)} objects in {source.describe()} do not match their names: {', '.join(keys[:3])}"
            + (", …" if len(keys) > 3 else ""),
            remedy="All others were copied. Restore these from a replica of the repository, or remove them if nothing "
            "refers to them (cvmfs_server check says what does), and copy again",
        )
    if not result.objects and not result.present:
        raise ConfigurationError(
            f"{source.describe()} lists no objects, although a repository is in it",
            remedy="A bucket without an index cannot be copied; replicate it to one that has an index",
        )


class _Transfer:
    """Copies objects, in many threads. What it counts is in the result."""

    def __init__(
        self, source: ObjectStore, destination: ObjectStore, scratch: Path, result: CopyResult, progress: Progress
    ) -> None:
        self.damaged: list[str] = []
        self._source = source
        self._destination = destination
        self._scratch = scratch
        self._result = result
        self._progress = progress
        self._lock = threading.Lock()
        self._lists = _lists(destination)
        # What an earlier pass has copied was not in the destination before, and counts as copied
        self._counts_present = result.dry_run or not result.changed
        if self._counts_present:
            result.objects = result.bytes = result.present = 0

    def compare(self, prefix: str) -> list[ObjectInfo]:
        """Return the objects that only the source has, or the destination in another size."""
        wanted = {info.key: info for info in self._source.list(prefix) if _name_of(info.key) is not None}
        count = len(wanted)
        if self._lists:
            for info in self._destination.list(prefix):
                if info.key in wanted and wanted[info.key].size == info.size:
                    del wanted[info.key]
        else:
            wanted = {key: info for key, info in wanted.items() if not self._destination.exists(key)}
        if self._counts_present:
            with self._lock:
                self._result.present += count - len(wanted)
        return list(wanted.values())

    def copy(self, info: ObjectInfo) -> None:
        """Copy one object; not one that has gone meanwhile, and none that is damaged."""
        if not self._result.dry_run:
            try:
                copied = self._copy_large(info) if info.size > _LARGE else self._put(info, self._source.get(info.key))
            except ObjectNotFound:
                if self._source.exists(info.key):  # then it is the destination that is not there
                    raise
                return
            if not copied:
                with self._lock:
                    self.damaged.append(info.key)
                return
        self._progress.add(files=1, bytes=info.size)
        with self._lock:
            self._result.objects += 1
            self._result.bytes += info.size
            self._result.changed = True

    def _copy_large(self, info: ObjectInfo) -> bool:
        file = self._scratch / info.key.replace("/", "-")
        try:
            with writing_to(self._scratch), file.open("xb+") as stream:
                for part in self._source.get_in_parts(info.key, _PART_SIZE):
                    stream.write(part)
                return self._put(info, mapped(stream))
        finally:
            file.unlink(missing_ok=True)

    def _put(self, info: ObjectInfo, data: bytes | memoryview) -> bool:
        """Write an object if it matches its name, and say whether it does."""
        name = _name_of(info.key)
        if name is None or name.algorithm.digest(data) != name.digest:
            return False
        self._destination.put(info.key, data)
        return True


def _read_documents(repository: Repository) -> dict[str, bytes]:
    """Return what clients do not find by its hash, except for the manifest."""
    keys = (*_DOCUMENTS, *alt_paths(repository.manifest))
    return {key: data for key in keys if (data := _get(repository.store, key)) is not None}


def _put_documents(
    documents: Mapping[str, bytes], destination: ObjectStore, result: CopyResult, *, only_missing: bool
) -> None:
    for key, data in documents.items():
        there = _get(destination, key)
        if there != data and (there is None or not only_missing):
            result.changed = True
            if not result.dry_run:
                destination.put(key, data)


def _replace(key: str, data: bytes, version: Version | None, destination: ObjectStore, result: CopyResult) -> None:
    """Let the destination have what is signed.

    :param version: of what is replaced; None if there was nothing
    :raises ConcurrentPublish: when somebody else was faster
    """
    if _get(destination, key) == data:
        return
    result.changed = True
    if result.dry_run:
        return
    try:
        if version is None:
            destination.put_if_absent(key, data)
        else:
            destination.put_if_match(key, data, version)
    except PreconditionFailed as error:
        raise ConcurrentPublish(
            f"Somebody else has replaced {key} in {destination.describe()} meanwhile", remedy="See who, then copy again"
        ) from error


def _lists(store: ObjectStore) -> bool:
    """Say whether a store lists its objects; buckets without an index do not."""
    return next(iter(store.list(".cvmfs")), None) is not None or not (
        store.exists(MANIFEST_KEY) or store.exists(LEASE_KEY)
    )


def _name_of(key: str) -> ContentHash | None:
    """Return the hash that is the name of an object; None for anything else that may be in the storage."""
    folder, _, rest = key.removeprefix("data/").partition("/")
    try:
        name = ContentHash.parse(folder + rest)
    except CorruptObject:
        return None
    return name if name.key() == key else None


def _get(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except ObjectNotFound:
        return None


def _ahead(
    pool: ThreadPoolExecutor, do: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """Yield results in the order of the items; at most so many of them are in progress or done at a time."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(do, item))
        if len(running) == most:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
