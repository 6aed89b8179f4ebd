# SPDX-License-Identifier: GPL-3.0-or-later
"""Single objects: catalogs, history, certificate and metainfo. Files that are published go through the pipeline."""

from __future__ import annotations

import collections
import mmap
import os
import zlib
from typing import IO, TYPE_CHECKING

from ..errors import CorruptObject, ObjectNotFound
from .compression import Compression
from .hash import ContentHash, HashAlgorithm, HashSuffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ..storage import Bytes, ObjectStore
    from .pipeline import Chunk

_REPACKED = (HashSuffix.CERTIFICATE, HashSuffix.METAINFO)
"""What CernVM-FS's ``cvmfs_server snapshot`` compresses anew, and stores under the name that it has read."""

_PART_SIZE = 4 << 20  # bytes
_RESTORE = "Restore it from a replica of the repository: cvmfs_server check --repair-from URL"


def put_object(
    store: ObjectStore,
    data: Bytes,
    suffix: str = "",
    algorithm: HashAlgorithm = HashAlgorithm.SHA1,
    compression: Compression = Compression.ZLIB,
) -> tuple[ContentHash, int]:
    """Compress and upload `data`.

    :param compression: of anything but a file it has to be zlib
    :returns: the object's name, and the bytes that it takes in the store
    :raises StorageError: when the store does not take it
    """
    # Where replicas repack, only the bytes that zlib itself makes are the same there, and still match their name
    stored = memoryview(zlib.compress(data) if suffix in _REPACKED else compression.compress(data))
    content_hash = ContentHash.of(stored, algorithm, suffix)
    store.put(content_hash.key(), stored)
    return content_hash, stored.nbytes


def fetch_file(
    store: ObjectStore, content_hash: ContentHash | None, chunks: Sequence[Chunk], compression: Compression
) -> bytes:
    """Return the content of a small file, which may be in one object or in chunks.

    :raises ObjectNotFound, CorruptObject: as `fetch_object`
    """
    pieces = [chunk.hash for chunk in chunks] or ([content_hash] if content_hash else [])
    return b"".join(fetch_object(store, piece, compression) for piece in pieces)


def fetch_object(store: ObjectStore, content_hash: ContentHash, compression: Compression = Compression.ZLIB) -> bytes:
    """Return the decompressed content of an object, having compared its stored form with its name.

    :raises ObjectNotFound: when there is none
    :raises CorruptObject: when the store returns something else
    """
    try:
        stored = store.get(content_hash.key())
    except ObjectNotFound:
        raise _missing(store, content_hash) from None
    _require_match(store, content_hash, stored)
    try:
        return compression.decompress(stored)
    except CorruptObject as error:
        raise _damaged(store, content_hash, error) from None


def fetch_large_object(store: ObjectStore, content_hash: ContentHash, compression: Compression, target: Path) -> None:
    """Write the decompressed content of an object to the new file `target`, with little of it in memory at a time.

    :raises ObjectNotFound: when there is none
    :raises CorruptObject: when the store returns something else
    :raises OSError: when the file, or one beside it for the object as it is stored, cannot be written
    """
    stored = target.with_name(target.name + ".stored")
    try:
        with stored.open("xb+") as stream:
            try:
                for part in store.get_in_parts(content_hash.key(), _PART_SIZE):
                    stream.write(part)
            except ObjectNotFound:
                raise _missing(store, content_hash) from None
            _require_match(store, content_hash, mapped(stream))
            stream.seek(0)
            parts = iter(lambda: stream.read(_PART_SIZE), b"")
            with target.open("xb") as output:
                try:
                    for part in compression.decompress_parts(parts, _PART_SIZE):
                        output.write(part)
                except CorruptObject as error:
                    raise _damaged(store, content_hash, error) from None
    finally:
        stored.unlink(missing_ok=True)


def mapped(file: IO[bytes]) -> memoryview:
    """Return what is in a file that is open for reading, without taking it into memory.

    It is released with the last reference. Nobody else can know when that is: an error may still hold parts of it.
    """
    file.flush()
    if not os.fstat(file.fileno()).st_size:
        return memoryview(b"")  # an empty file cannot be mapped
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def verify_object(store: ObjectStore, content_hash: ContentHash, compression: Compression) -> int:
    """Read an object, with little of it in memory at a time; return how many bytes it has in the store.

    :raises ObjectNotFound, CorruptObject: as `fetch_object`
    """
    hasher = content_hash.algorithm.hasher()
    size = 0

    def read() -> Iterator[bytes]:
        nonlocal size
        try:
            for part in store.get_in_parts(content_hash.key(), _PART_SIZE):
                hasher.update(part)
                size += len(part)
                yield part
        except ObjectNotFound:
            raise _missing(store, content_hash) from None

    damage = None
    parts = read()
    try:
        collections.deque(compression.decompress_parts(parts, _PART_SIZE), maxlen=0)
    except CorruptObject as error:
        damage = error
    collections.deque(parts, maxlen=0)  # what is behind the damage
    _require_digest(store, content_hash, hasher.digest())
    if damage is not None:
        raise _damaged(store, content_hash, damage)
    return size


def _missing(store: ObjectStore, content_hash: ContentHash) -> ObjectNotFound:
    return ObjectNotFound(f"Object {content_hash.key()} is missing in {store.describe()}", remedy=_RESTORE)


def _require_match(store: ObjectStore, content_hash: ContentHash, stored: Bytes) -> None:
    _require_digest(store, content_hash, content_hash.algorithm.digest(stored))


def _require_digest(store: ObjectStore, content_hash: ContentHash, digest: bytes) -> None:
    if digest != content_hash.digest:
        raise CorruptObject(
            f"Object {content_hash.key()} in {store.describe()} does not match its name", remedy=_RESTORE
        )


def _damaged(store: ObjectStore, content_hash: ContentHash, error: CorruptObject) -> CorruptObject:
    return CorruptObject(f"Object {content_hash.key()} in {store.describe()}: {error.message}", remedy=_RESTORE)
