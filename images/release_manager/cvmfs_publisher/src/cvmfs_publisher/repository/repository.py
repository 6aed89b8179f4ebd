# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in its storage: what a publisher reads when it begins, and writes when it commits.

Order of a commit, and why a publisher may die at any moment of it:

1. Objects under ``data/`` are named by their content; until a manifest leads to them, nobody sees them.
2. The manifest is replaced, on condition that it is still the one that was read. This one request is the commit:
   before it clients have the old revision, after it the new one. Who loses a race has written nothing that others see.
3. The reflog is replaced. It has a fixed key, and the manifest has its hash, so there is no order in which the two
   could always agree. Written last, it cannot be spoilt by a publisher that loses the race for the manifest. And what
   a dead winner did not write is known: the reflog as it is, plus the objects of the manifest at the manifest's time.
   Its bytes are a function of its content, so `repair_reflog` restores exactly what the manifest's hash asks for,
   without any key. The next commit does that first.

Clients and replicas read neither the reflog nor its hash. CernVM-FS's own publisher, garbage collection and check do,
and refuse to work between 2 and 3, as they do between the same two writes of their own. Its garbage collection, in
turn, replaces the reflog without a new manifest. So a reflog with another hash is no reason to stop; the next commit
brings both together again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from ..content import ContentHash, HashAlgorithm, HashSuffix, fetch_object, put_object
from ..errors import (
    ConcurrentPublish,
    CorruptObject,
    ObjectNotFound,
    OvertakenWrite,
    PreconditionFailed,
    RepositoryExists,
    RepositoryNotFound,
    SignatureError,
    StorageError,
    UsageError,
)
from . import manifest as manifest_module
from . import whitelist as whitelist_module
from .document import RESTORE
from .history import History
from .lease import Lease
from .manifest import MANIFEST_KEY, Manifest
from .reflog import REFLOG_KEY, Reflog
from .signing import Certificate, RepositoryKey, Signer
from .whitelist import WHITELIST_KEY, Whitelist

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric import rsa

    from ..storage import ObjectStore, Version

MASTER_REPLICA_KEY = ".cvmfs_master_replica"
MASTER_REPLICA = b"This file marks the repository as replicatable to stratum 1 servers\n"


class Repository:
    """A repository, opened and verified. Use `open`, or `create` for a new one.

    :ivar name: fully qualified name
    :ivar store: where it is; closed with the repository
    :ivar manifest: the current revision
    :ivar certificate: of the key that signed the manifest
    :ivar whitelist: signed by a trusted master key, lists the certificate; may have expired
    """

    def __init__(
        self,
        name: str,
        store: ObjectStore,
        manifest: Manifest,
        version: Version,
        certificate: Certificate,
        whitelist: Whitelist,
        master_keys: Sequence[rsa.RSAPublicKey] = (),
    ) -> None:
        self.name = name
        self.store = store
        self.manifest = manifest
        self.certificate = certificate
        self.whitelist = whitelist
        self._version = version
        self._reflog_version: Version | None = None
        self._master_keys = master_keys

    @classmethod
    def open(
        cls, name: str, store: ObjectStore, master_keys: Sequence[rsa.RSAPublicKey], *, unlisted: bool = False
    ) -> Self:
        """Read a repository's entry points, and verify them as clients do.

        An expired whitelist is no error here, as resigning and looking must be possible.

        :param master_keys: public halves of the master keys that are trusted
        :param unlisted: take a manifest whose certificate the whitelist does not list
        :raises RepositoryNotFound: when there is none
        :raises SignatureError: when a signature, name or fingerprint does not fit
        :raises StorageError: when it cannot be read
        """
        manifest, version, certificate = read_manifest(store, name)
        whitelist = read_whitelist(store, name, master_keys)
        if not unlisted and not whitelist.lists(certificate):
            raise SignatureError(
                f"The manifest of {name} is signed with certificate {certificate.fingerprint()}, "
                "which is not in the whitelist",
                remedy=f"Resign the whitelist for the current certificate: cvmfs_server resign {name}",
            )
        return cls(name, store, manifest, version, certificate, whitelist, master_keys)

    @classmethod
    def create(
        cls,
        manifest: Manifest,
        store: ObjectStore,
        key: RepositoryKey,
        signed_whitelist: bytes,
        *,
        replicable: bool = True,
    ) -> Self:
        """Write the first revision of a new repository. Its objects have to be in the store already.

        :param manifest: without certificate, time and reflog's hash
        :param signed_whitelist: lists the key's certificate
        :param replicable: whether Stratum 1 servers may copy it
        :raises RepositoryExists: when there is a repository in the store; it is not touched
        :raises LeaseHeld: when another is being made with other keys
        """
        whitelist = Whitelist.parse(signed_whitelist)
        require_may_sign(whitelist, key)
        # Keeps two of them with different keys from mixing their whitelists and manifests. With the same keys one may
        # go on where another died.
        lease = Lease.acquire(
            store,
            manifest.repository,
            session=key.session(),
            holder="cvmfs_server mkfs",
            transaction="mkfs",
            base_revision=0,
        )
        try:
            require_absent(store, manifest.repository)
            # Until there is a manifest, the whitelist of a mkfs that died is in nobody's way
            store.put(WHITELIST_KEY, signed_whitelist)
            if replicable:
                store.put(MASTER_REPLICA_KEY, MASTER_REPLICA)
            complete, reflog = _complete(store, manifest, key, Reflog(manifest.repository), int(time.time()))
            try:
                version = store.put_if_absent(MANIFEST_KEY, complete.signed(key))
            except PreconditionFailed:
                raise _exists(store, manifest.repository) from None
            if reflog is not None:
                # The repository is there now. The next commit writes what is missing, as after any commit that died.
                with contextlib.suppress(StorageError):
                    store.put(REFLOG_KEY, reflog)
        finally:
            # A lease that cannot be given back expires by itself, and does not undo what was done
            with contextlib.suppress(StorageError):
                lease.release()
        return cls(manifest.repository, store, complete, version, key.certificate, whitelist)

    def reread(self) -> Self:
        """Return the repository as it is now: itself, if nobody has published since it was opened.

        :raises PublisherError: as `open`
        """
        with contextlib.suppress(ObjectNotFound):
            if self.store.get_versioned(MANIFEST_KEY)[1] == self._version:
                return self
        return type(self).open(self.name, self.store, self._master_keys)

    def history(self) -> History:
        """Return the tags; none when the repository has no tag database.

        :raises StorageError: when it cannot be read
        """
        if self.manifest.history is None:
            return History(self.name)
        history = History.parse(fetch_object(self.store, self.manifest.history))
        if history.repository != self.name:
            raise CorruptObject(f"The tag database is that of {history.repository}, not of {self.name}", remedy=RESTORE)
        return history

    def put_history(self, history: History, algorithm: HashAlgorithm) -> ContentHash:
        """Upload a changed tag database for the next manifest.

        :param algorithm: what names it: that of the revision
        """
        history.previous = self.manifest.history
        return put_object(self.store, history.serialise(), HashSuffix.HISTORY, algorithm)[0]

    def meta_info(self) -> bytes:
        """Return the JSON object that describes the repository; empty when there is none."""
        return fetch_object(self.store, self.manifest.meta_info) if self.manifest.meta_info else b""

    def is_replicable(self) -> bool:
        """Say whether Stratum 1 servers may copy the repository."""
        return self.store.exists(MASTER_REPLICA_KEY)

    def require_signer(self, key: Signer) -> None:
        """Refuse to publish what clients would not accept. The whitelist may have been resigned in the meantime.

        :raises SignatureError: when the key's certificate is not in the whitelist
        :raises WhitelistExpired: when the whitelist has expired
        """
        if self._master_keys:
            self.whitelist = read_whitelist(self.store, self.name, self._master_keys)
        require_may_sign(self.whitelist, key)

    def commit(
        self,
        manifest: Manifest,
        key: Signer,
        *,
        lease: Lease | None = None,
        reflog: Reflog | None = None,
        tagged: Iterable[ContentHash] = (),
        clock: Callable[[], float] = time.time,
    ) -> tuple[str, ...]:
        """Make a new manifest the current one; its objects have to be in the store already.

        Certificate, time and the reflog's hash are filled in.

        :param tagged: new root catalogs that the manifest leads to by tags alone, for the reflog
        :param lease: renewed before, so that a lost one is found out in time
        :param reflog: what the new reflog shall have besides this revision; by default what the current one has
        :returns: warnings, about what failed once the revision was published already
        :raises ConcurrentPublish: when somebody else has published since the repository was opened; nothing has changed
        :raises LeaseHeld, NotInTransaction: when the lease is lost; nothing has changed
        :raises SignatureError, WhitelistExpired: as `require_signer`; nothing has changed
        :raises SigningRefused, SigningServiceUnreachable: when there is no signature to be had; nothing has changed
        """
        self.require_signer(key)
        if manifest.revision < self.manifest.revision:
            raise UsageError(
                f"Revision {manifest.revision} is older than {self.manifest.revision}, the current one",
                remedy="Give a larger number",
            )
        if reflog is None:
            reflog = self._reflog_to_extend(self._finish_commit(self._read_reflog()))
        else:
            self._read_reflog()
        # Clients refuse a manifest that is older than the one they have, even if only a clock went backwards
        timestamp = max(int(clock()), self.manifest.timestamp)
        if reflog is not None:
            _add_missing(reflog, tagged, timestamp)
        # Most often, the certificate is that of the revision before, which has been read
        known = self.manifest.certificate if key.certificate.pem == self.certificate.pem else None
        complete, reflog_bytes = _complete(self.store, manifest, key, reflog, timestamp, known)
        signed = key.sign_manifest(complete, lease)
        if lease is not None:
            lease.renew()
        try:
            self._version = self.store.put_if_match(MANIFEST_KEY, signed, self._version)
        except OvertakenWrite:
            raise ConcurrentPublish(
                f"Somebody else has published {self.name} since revision {self.manifest.revision} was opened; whether "
                "this publish was visible before that is not known",
                remedy="See whether the newest revision has it (cvmfs_server info), and publish again if not",
            ) from None
        except PreconditionFailed:
            raise ConcurrentPublish(
                f"Somebody else has published {self.name} since revision {self.manifest.revision} was opened; "
                "nothing of this publish is visible",
                remedy="Publish again on top of the new revision",
            ) from None
        self.manifest = complete
        self.certificate = key.certificate
        if reflog_bytes is None:
            return ()
        try:
            self._write_reflog(reflog_bytes)
        except StorageError as error:
            return (f"Revision {complete.revision} is published, but the reflog was not written: {error}",)
        return ()

    def fence(self, key: Signer, lease: Lease, reflog: Reflog) -> None:
        """Replace the manifest by one that differs in nothing but its time.

        Then nobody who has read the old one, and sleeps now, can still commit.

        :param reflog: as for `commit`, which has the errors
        """
        newer = self.manifest.timestamp + 1
        for warning in self.commit(
            self.manifest, key, lease=lease, reflog=reflog, clock=lambda: max(time.time(), newer)
        ):
            raise StorageError(warning, remedy="Try again")

    # Reflog

    def reflog(self) -> Reflog | None:
        """Return the reflog with everything up to the current revision; None when it is missing.

        :raises CorruptObject: when it is damaged
        """
        return self._up_to_manifest(self._read_reflog())

    def _up_to_manifest(self, data: bytes | None) -> Reflog | None:
        if data is None:
            return None
        reflog = _parse_reflog(data)
        if not all(map(reflog.contains, named_objects(self.manifest))):
            reflog.add_manifest(self.manifest)
        return reflog

    def reflog_problem(self) -> str | None:
        """Say what is wrong with the reflog, in words for a user; None if it has all it needs, or there is none."""
        data = self._read_reflog()
        expected = self.manifest.reflog_hash
        if data is None and expected is None:
            return None
        if data is None:
            return f"{REFLOG_KEY} is missing; the next publish restores it"
        try:
            reflog = _parse_reflog(data)
        except CorruptObject as error:
            return str(error)
        for content_hash in named_objects(self.manifest):
            if not reflog.contains(content_hash):
                return f"{REFLOG_KEY} lacks {content_hash.key()} of the current revision; the next publish adds it"
        return None

    def reflog_disagreement(self) -> str | None:
        """Say how manifest and reflog differ though the reflog may be well, as CernVM-FS's own tools leave them."""
        data = self._read_reflog()
        expected = self.manifest.reflog_hash
        if data is None:
            return None
        if expected is None:
            return f"{REFLOG_KEY} is there, but the manifest has no hash of it; the next publish adds that"
        if ContentHash.of(data, expected.algorithm) != expected:
            return f"{REFLOG_KEY} is not the one that the manifest names; the next publish brings them together"
        return None

    def repair_reflog(self) -> bool:
        """Finish a commit whose publisher died after it had replaced the manifest.

        :returns: whether there was something to finish
        """
        data = self._read_reflog()
        return self._finish_commit(data) is not data

    def _finish_commit(self, data: bytes | None) -> bytes | None:
        """Return what `repair_reflog` has made of the reflog `data`; the same when there was nothing to finish."""
        expected = self.manifest.reflog_hash
        if expected is None or (data is not None and ContentHash.of(data, expected.algorithm) == expected):
            return data
        reflog = _parse_reflog(data) if data is not None else Reflog(self.name)
        reflog.add_manifest(self.manifest)
        finished = reflog.serialise()
        if ContentHash.of(finished, expected.algorithm) != expected:
            # The publisher may have tagged root catalogs that no manifest names, as on a branch
            _add_missing(reflog, (tag.root_hash for tag in self.history().tags()), self.manifest.timestamp)
            finished = reflog.serialise()
        if ContentHash.of(finished, expected.algorithm) != expected:
            return data  # garbage collection, or another engine's publisher: the next commit settles it
        self._write_reflog(finished)
        return finished

    def _reflog_to_extend(self, data: bytes | None) -> Reflog | None:
        """Return the reflog `data` with all up to the current manifest; None in a repository that has none."""
        reflog = self._up_to_manifest(data)
        if reflog is None and self.manifest.reflog_hash is not None:
            # Lost. What can be known without reading all old catalogs:
            reflog = Reflog(self.name)
            for tag in self.history().tags():
                reflog.add(tag.root_hash, tag.timestamp)
            reflog.add_manifest(self.manifest)
        return reflog

    def _read_reflog(self) -> bytes | None:
        try:
            data, self._reflog_version = self.store.get_versioned(REFLOG_KEY)
        except ObjectNotFound:
            self._reflog_version = None
            return None
        return data

    def _write_reflog(self, data: bytes) -> None:
        """Replace the reflog as it was read; who falls asleep before must not undo what others have done since."""
        if self._reflog_version is None:
            self._reflog_version = self.store.put_if_absent(REFLOG_KEY, data)
        else:
            self._reflog_version = self.store.put_if_match(REFLOG_KEY, data, self._reflog_version)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_manifest(store: ObjectStore, name: str) -> tuple[Manifest, Version, Certificate]:
    """Read a repository's manifest, and verify that it is signed by the key of the certificate that it names.

    Whether that is to be trusted, the whitelist has to say.

    :raises RepositoryNotFound: when there is none
    :raises SignatureError: when signature or name do not fit
    :raises StorageError: when it cannot be read
    """
    try:
        data, version = store.get_versioned(MANIFEST_KEY)
    except ObjectNotFound:
        raise RepositoryNotFound(
            f"There is no repository {name} in {store.describe()}",
            remedy=f"Check CVMFS_UPSTREAM_STORAGE, or create it: cvmfs_server mkfs {name}",
        ) from None
    try:
        manifest = Manifest.parse(data)
    except CorruptObject as error:
        raise CorruptObject(
            f"{MANIFEST_KEY} of {name} in {store.describe()} cannot be used: {error.message}", remedy=error.remedy
        ) from None
    if manifest.repository != name:
        raise SignatureError(
            f"The repository in {store.describe()} is {manifest.repository}, not {name}",
            remedy="Check CVMFS_UPSTREAM_STORAGE",
        )
    if manifest.certificate is None:
        raise SignatureError(f"The manifest of {name} names no certificate", remedy=RESTORE)
    certificate = Certificate(fetch_object(store, manifest.certificate))
    manifest_module.verify(data, certificate, f"The manifest of {name}")
    return manifest, version, certificate


def read_whitelist(store: ObjectStore, name: str, master_keys: Sequence[rsa.RSAPublicKey]) -> Whitelist:
    """Read a repository's whitelist, and verify its signature.

    :raises SignatureError: when it is missing, or not signed by one of the master keys
    """
    try:
        data = store.get(WHITELIST_KEY)
    except ObjectNotFound:
        raise SignatureError(
            f"{name} has no whitelist", remedy=f"Sign one where the master key is: cvmfs_server resign {name}"
        ) from None
    return whitelist_module.verify(data, master_keys, name)


def require_may_sign(whitelist: Whitelist, key: Signer) -> None:
    """Refuse a key whose signature clients would not accept.

    :raises SignatureError: when its certificate is not in the whitelist
    :raises WhitelistExpired: when the whitelist has expired
    """
    if not whitelist.lists(key.certificate):
        raise SignatureError(
            f"The certificate {key.certificate.fingerprint()} is not in the whitelist of {whitelist.repository}",
            remedy="Use the repository's own key and certificate, "
            f"or sign a whitelist for these: cvmfs_server resign {whitelist.repository}",
        )
    whitelist.require_valid()


def require_absent(store: ObjectStore, name: str) -> None:
    """Refuse a store that has a repository.

    :raises RepositoryExists: then
    """
    if store.exists(MANIFEST_KEY):
        raise _exists(store, name)


def named_objects(manifest: Manifest) -> list[ContentHash]:
    """Return what a manifest names of the content: root catalog, certificate, tag database and description."""
    every = (manifest.root_hash, manifest.certificate, manifest.history, manifest.meta_info)
    return [content_hash for content_hash in every if content_hash is not None]


def alt_paths(manifest: Manifest) -> list[str]:
    """Return the keys of the copies outside ``data/`` that a revision has."""
    return [alt_path(content_hash) for content_hash in named_objects(manifest)] if manifest.has_alt_catalog_path else []


def alt_path(content_hash: ContentHash) -> str:
    """Return the key of an object's copy outside ``data/``."""
    return f".cvmfsalt-{content_hash}"


def _parse_reflog(data: bytes) -> Reflog:
    try:
        return Reflog.parse(data)
    except CorruptObject as error:
        raise CorruptObject(
            f"{REFLOG_KEY} cannot be read: {error.message}",
            remedy="Rebuild it: cvmfs_server check -r",
        ) from error


def _exists(store: ObjectStore, name: str) -> RepositoryExists:
    return RepositoryExists(
        f"There is a repository in {store.describe()} already",
        remedy=f"To use it, provide its keys and configuration; {name} needs a place of its own",
    )


def _complete(
    store: ObjectStore,
    manifest: Manifest,
    key: Signer,
    reflog: Reflog | None,
    timestamp: int,
    certificate: ContentHash | None = None,
) -> tuple[Manifest, bytes | None]:
    """Return the manifest with certificate, time and reflog's hash, and the reflog's bytes.

    :param certificate: the key's, if it is in the store already
    """
    algorithm = manifest.root_hash.algorithm
    if certificate is None or certificate.algorithm is not algorithm:
        certificate, _ = put_object(store, key.certificate.pem, HashSuffix.CERTIFICATE, algorithm)
    complete = replace(manifest, certificate=certificate, timestamp=timestamp, reflog_hash=None)
    if complete.has_alt_catalog_path:
        # For web servers that protect data/: clients look for these copies first
        for content_hash in named_objects(complete):
            store.put(alt_path(content_hash), store.get(content_hash.key()))
    if reflog is None:
        return complete, None
    reflog.add_manifest(complete)
    data = reflog.serialise()
    return replace(complete, reflog_hash=ContentHash.of(data, algorithm)), data


def _add_missing(reflog: Reflog, root_hashes: Iterable[ContentHash], timestamp: int) -> None:
    for root_hash in root_hashes:
        if not reflog.contains(root_hash):
            reflog.add(root_hash, timestamp)
