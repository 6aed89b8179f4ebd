# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts back objects that the store has lost, or holds damaged, from wherever there is another copy."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..content import Compression, ContentHash, HashSuffix
from ..errors import StorageError, UsageError
from ..storage import HttpStore, LocalStore, ObjectStore


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

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> list[bytes]:
        """Return what may be the object as it is stored; nothing when there is no copy."""
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


def repair(store: ObjectStore, content_hash: ContentHash, reference: Reference, source: RepairSource) -> bool:
    """Put an object back.

    :returns: False when the source has no good copy of it
    :raises StorageError: when the store does not take it
    """
    for stored in source.stored_forms(content_hash, reference):
        if content_hash.algorithm.digest(stored) == content_hash.digest:
            key = content_hash.key()
            store.delete(key)  # a damaged one; stores that look before they write would leave it
            store.put(key, stored)
            return True
    return False


class _Replica:
    """A copy of the repository."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> list[bytes]:
        del reference
        try:
            return [self._store.get(content_hash.key())]
        except StorageError:
            return []

    def describe(self) -> str:
        return self._store.describe()

    def close(self) -> None:
        self._store.close()


class _Files:
    """The files that were published, by their paths in the repository."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.fsencode(directory)

    def stored_forms(self, content_hash: ContentHash, reference: Reference) -> list[bytes]:
        if content_hash.suffix not in (HashSuffix.NONE, HashSuffix.PARTIAL):
            return []
        try:
            with open(os.path.join(self._directory, reference.path), "rb") as file:
                file.seek(reference.offset)
                data = file.read() if reference.size is None else file.read(reference.size)
        except OSError:
            return []
        # The last is what CernVM-FS's own publisher makes
        return [bytes(reference.compression.compress(data)), data, zlib.compress(data)]

    def describe(self) -> str:
        return f"directory {os.fsdecode(self._directory)}"

    def close(self) -> None:
        """Nothing to release."""
