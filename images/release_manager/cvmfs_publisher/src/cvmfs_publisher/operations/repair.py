# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts back objects that the store has lost, or holds damaged, from wherever there is another copy."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..content import Compression, ContentHash, HashSuffix, mapped
from ..content.compression import LEVEL
from ..errors import StorageError, UsageError
from ..storage import Bytes, HttpStore, LocalStore, ObjectStore
from .environment import writing_to

_PART_SIZE = 4 << 20  # bytes
_AT_ONCE = 64 << 20
"""Bytes of an object that is in memory as a whole. Where chunk sizes are not far above their defaults, larger ones were
compressed piece by piece."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an object is needed.

    :param path: of a file, or of a catalog
    :param offset: of a chunk in its file
    :param size: bytes of a chunk; None for all of the file
    """

    path: bytes
    compression: Compression = Compression.ZLIB
    offset: int = 0
    size: int | None = None


class RepairSource(Protocol):
    """Where copies of objects may be."""

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> Iterator[Iterable[Bytes]]:
        """Yield what may be the object as it is stored, in parts; they may end early."""
        ...

    def describe(self) -> str:
        """Return where it is, for messages."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def open_repair_source(text: str) -> RepairSource:
    """Return a source for repairs.

    :param text: URL of a replica; or a directory: a repository's storage, or a tree of the files that were published
    :raises UsageError: when it is none of these
    """
    if text.startswith(("http://", "https://")):
        return _Replica(HttpStore(text))
    directory = Path(text)
    if not directory.is_dir():
        raise UsageError(f"{text!r} is neither a URL nor a directory", remedy="Name a replica, or a tree of files")
    if (directory / ".cvmfspublished").exists():
        return _Replica(LocalStore(directory))
    return _Files(directory)


def repair(
    store: ObjectStore, content_hash: ContentHash, reference: Reference, source: RepairSource, scratch: Path
) -> bool:
    """Put an object back.

    :param scratch: directory for a copy of it
    :returns: False when the source has no good copy of it
    :raises StorageError: when the store does not take it
    """
    for parts in source.stored_forms(content_hash, reference):
        hasher = content_hash.algorithm.hasher()
        with writing_to(scratch), tempfile.TemporaryFile(dir=scratch) as file:
            for part in parts:
                hasher.update(part)
                file.write(part)
            if hasher.digest() == content_hash.digest:
                key = content_hash.key()
                store.delete(key)  # a damaged one; stores that look before they write would leave it
                store.put(key, mapped(file))
                return True
    return False


class _Replica:
    """A copy of the repository."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> Iterator[Iterable[Bytes]]:
        del reference
        yield self._read(content_hash.key())

    def _read(self, key: str) -> Iterator[bytes]:
        with contextlib.suppress(StorageError):
            yield from self._store.get_in_parts(key, _PART_SIZE)

    def describe(self) -> str:
        return self._store.describe()

    def close(self) -> None:
        self._store.close()


class _Files:
    """The files that were published, by their paths in the repository."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> Iterator[Iterable[Bytes]]:
        if content_hash.suffix not in (HashSuffix.NONE, HashSuffix.PARTIAL):
            return
        path = os.path.join(self._directory, reference.path)
        try:
            size = os.stat(path).st_size if reference.size is None else reference.size
        except OSError:
            return
        if size <= _AT_ONCE:
            yield [reference.compression.compress(b"".join(_read(path, reference)))]
        yield _read(path, reference)
        yield _compress(_read(path, reference))

    def describe(self) -> str:
        return f"directory {os.fsdecode(self._directory)}"

    def close(self) -> None:
        """Nothing to release."""


def _read(path: bytes, reference: Reference) -> Iterator[bytes]:
    left = reference.size
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(reference.offset)
        while part := file.read(_PART_SIZE if left is None else min(_PART_SIZE, left)):
            left = None if left is None else left - len(part)
            yield part


def _compress(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Compress as CernVM-FS's own publisher does, and ours where it does so piece by piece."""
    stream = zlib.compressobj(LEVEL)
    yield from map(stream.compress, parts)
    yield stream.flush()
