# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories that have everything a catalog can express, and real mounts of them."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from cvmfs_publisher.catalog import DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.content import Chunk, Compression, ContentHash, HashSuffix, fetch_object, put_object
from cvmfs_publisher.mount import ObjectCache, RevisionView, mounted, start
from cvmfs_publisher.storage import LocalStore, ObjectStore

NAME = "test.example.org"
MTIME = 1_700_000_000
LIMIT = 1 << 30


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that do not compress, the same each time."""
    parts = (hashlib.sha256(b"%d %d" % (seed, number)).digest() for number in range(size // 32 + 1))
    return b"".join(parts)[:size]


class Repository:
    """A repository in a directory, of which one revision is made, entry by entry."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = LocalStore(base / "storage")
        (base / "scratch").mkdir()
        self.tree = WritableCatalogTree(self.store, None, base / "scratch")
        self.tree.add(b"", self.directory_entry())
        self.revision = 0

    def directory_entry(self, **attributes: object) -> DirectoryEntry:
        return DirectoryEntry(**{"name": b"", "mode": 0o040755, "size": 4096, "mtime": MTIME, **attributes})  # type: ignore[arg-type]

    def directory(self, path: bytes, **attributes: object) -> None:
        self.tree.add(path, self.directory_entry(**attributes))

    def file(
        self, path: bytes, content: bytes = b"", *, compression: Compression = Compression.ZLIB, **attributes: object
    ) -> ContentHash:
        stored = compression.compress(content)
        name = ContentHash.of(stored)
        self.store.put(name.key(), stored)
        values = {"name": b"", "mode": 0o100644, "size": len(content), "mtime": MTIME, "hash": name, **attributes}
        self.tree.add(path, DirectoryEntry(**values, compression=compression))  # type: ignore[arg-type]
        return name

    def chunked(self, path: bytes, content: bytes, chunk_size: int, *, compression: Compression) -> list[ContentHash]:
        chunks = []
        for offset in range(0, len(content), chunk_size):
            piece = content[offset : offset + chunk_size]
            stored = compression.compress(piece)
            name = ContentHash.of(stored, suffix=HashSuffix.PARTIAL)
            self.store.put(name.key(), stored)
            chunks.append(Chunk(offset, len(piece), name))
        self.tree.add(
            path,
            DirectoryEntry(
                name=b"",
                mode=0o100644,
                size=len(content),
                mtime=MTIME,
                chunks=tuple(chunks),
                compression=compression,
            ),
        )
        return [chunk.hash for chunk in chunks]

    def symlink(self, path: bytes, target: bytes) -> None:
        self.tree.add(path, DirectoryEntry(name=b"", mode=0o120777, size=len(target), mtime=MTIME, symlink=target))

    def special(self, path: bytes, mode: int, device: int = 0) -> None:
        self.tree.add(path, DirectoryEntry(name=b"", mode=mode, size=device, mtime=MTIME))

    def commit(self) -> ContentHash:
        """Make the revision, and return its root catalog."""
        self.revision += 1
        result = self.tree.commit(lambda data: put_object(self.store, data, HashSuffix.CATALOG), self.revision, MTIME)
        self.tree.close()
        return result.root_hash

    def edit_catalog(self, root: ContentHash, *statements: tuple[str, tuple[object, ...]]) -> ContentHash:
        """Change the database of a catalog as nothing else does, and return the new object."""
        file = self.base / "edited"
        file.write_bytes(fetch_object(self.store, root))
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
            for statement, values in statements:
                connection.execute(statement, values)
        return put_object(self.store, file.read_bytes(), HashSuffix.CATALOG)[0]

    def remove(self, name: ContentHash) -> None:
        self.store.delete(name.key())

    def damage(self, name: ContentHash) -> None:
        data = bytearray(self.store.get(name.key()))
        data[len(data) // 2] ^= 1
        self.store.put(name.key(), data)


class Mount:
    """A mounted revision.

    :ivar path: where it is mounted
    :ivar pid: of the server
    """

    def __init__(self, base: Path, store: ObjectStore, root: ContentHash, limit: int = LIMIT, **options: bool) -> None:
        self.path = base / "mnt"
        self.path.mkdir(exist_ok=True)
        self.cache = base / "cache"
        self.log = base / "log"
        self.pid = 0
        self._store, self._root, self._limit, self._options = store, root, limit, options

    @contextlib.contextmanager
    def open_view(self) -> Iterator[RevisionView]:
        with (
            ObjectCache(self._store, self.cache, self._limit) as cache,
            RevisionView(NAME, self._root, 1, cache, **self._options) as view,
        ):
            yield view

    def start(self) -> None:
        self.pid = start(self.open_view, self.path, self.log)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        with mounted(self.open_view, self.path, self.log) as self.pid:
            yield self.path

    @property
    def messages(self) -> str:
        return self.log.read_text()

    @property
    def cached(self) -> int:
        """Bytes on disk in the cache, of the files that stay there while they are counted."""
        total = 0
        for file in self.cache.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_blocks * 512
        return total


@contextlib.contextmanager
def mounted_revision(base: Path, store: ObjectStore, root: ContentHash, **options: bool) -> Iterator[Path]:
    """Mount a revision for as long as the block takes."""
    with Mount(base, store, root, **options).mounted() as path:
        yield path


def let_pass(directory: Path) -> None:
    """Let other users reach what is in a directory of pytest's."""
    for above in (directory, *directory.parents):
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
