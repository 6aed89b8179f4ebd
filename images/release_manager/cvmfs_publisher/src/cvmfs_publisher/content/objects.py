# SPDX-License-Identifier: GPL-3.0-or-later
"""Single objects: catalogs, history, certificate and metainfo. Files that are published go through the pipeline."""

from __future__ import annotations

import mmap
import zlib
from typing import TYPE_CHECKING

from ..errors import CorruptObject, ObjectNotFound
from .compression import Compression
from .hash import ContentHash, HashAlgorithm, HashSuffix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..storage import Bytes, ObjectStore
    from .pipeline import Chunk

_REPACKED = (HashSuffix.CERTIFICATE, HashSuffix.METAINFO)
"""What CernVM-FS's ``cvmfs_server snapshot`` compresses anew, and stores under the name that it has read."""

_PART_SIZE = 4 << 20  # bytes
_RESTORE = "Restore it from a replica of the repository, and run 'cvmfs_server check'"


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
            stream.flush()
            if stream.tell():
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                    _require_match(store, content_hash, view)
            else:
                _require_match(store, content_hash, b"")
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


def _missing(store: ObjectStore, content_hash: ContentHash) -> ObjectNotFound:
    return ObjectNotFound(f"Object {content_hash.key()} is missing in {store.describe()}", remedy=_RESTORE)


def _require_match(store: ObjectStore, content_hash: ContentHash, stored: Bytes) -> None:
    if content_hash.algorithm.digest(stored) != content_hash.digest:
        raise CorruptObject(
            f"Object {content_hash.key()} in {store.describe()} does not match its name", remedy=_RESTORE
        )


def _damaged(store: ObjectStore, content_hash: ContentHash, error: CorruptObject) -> CorruptObject:
    return CorruptObject(f"Object {content_hash.key()} in {store.describe()}: {error.message}", remedy=_RESTORE)
