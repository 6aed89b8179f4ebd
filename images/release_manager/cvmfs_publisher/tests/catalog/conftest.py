# SPDX-License-Identifier: GPL-3.0-or-later
"""A small workshop for catalogs in a local repository."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree, CommitResult, DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.content import Chunk, ContentHash, HashAlgorithm, HashSuffix, put_object
from cvmfs_publisher.storage import Bytes, LocalStore

from .judge import Judgement, judge, swissknife_check


def directory(**attributes: object) -> DirectoryEntry:
    return DirectoryEntry(**{"name": b"", "mode": 0o040755, "size": 4096, "mtime": 1_700_000_000, **attributes})  # type: ignore[arg-type]


def content_hash(text: bytes, suffix: str = "") -> ContentHash:
    return ContentHash(hashlib.sha1(text, usedforsecurity=False).digest(), HashAlgorithm.SHA1, suffix)


def regular(text: bytes = b"", **attributes: object) -> DirectoryEntry:
    values = {
        "name": b"",
        "mode": 0o100644,
        "size": len(text),
        "mtime": 1_700_000_000,
        "hash": content_hash(text),
        **attributes,
    }
    return DirectoryEntry(**values)  # type: ignore[arg-type]


def chunked(text: bytes, sizes: tuple[int, ...], **attributes: object) -> DirectoryEntry:
    chunks, offset = [], 0
    for size in sizes:
        chunks.append(Chunk(offset, size, content_hash(text + b"%d" % offset, HashSuffix.PARTIAL)))
        offset += size
    return regular(b"", size=offset, hash=None, chunks=tuple(chunks), **attributes)


def symlink(target: bytes, **attributes: object) -> DirectoryEntry:
    return regular(b"", mode=0o120777, hash=None, symlink=target, size=len(target), **attributes)


class Workshop:
    """A repository in a temporary directory."""

    def __init__(self, base: Path) -> None:
        self.storage = base / "storage"
        self.scratch = base / "scratch"
        self.scratch.mkdir()
        self.store = LocalStore(self.storage)
        self.root: ContentHash | None = None
        self.result: CommitResult | None = None
        self.revision = 0
        self._trees: list[CatalogTree] = []

    def change(self) -> WritableCatalogTree:
        """Return the tree of the next revision; of the first one, with its root directory."""
        tree = WritableCatalogTree(self.store, self.root, self.scratch)
        self._trees.append(tree)
        if self.root is None:
            tree.add(b"", directory())
        return tree

    def put(self, data: Bytes) -> tuple[ContentHash, int]:
        return put_object(self.store, data, HashSuffix.CATALOG)

    def commit(self, tree: WritableCatalogTree) -> Judgement:
        """Commit, and have the result judged."""
        self.revision += 1
        self.result = tree.commit(self.put, self.revision, 1_700_000_000 + self.revision)
        self.root = self.result.root_hash
        return self.judge()

    def judge(self) -> Judgement:
        assert self.result is not None
        swissknife_check(self.storage, self.result.root_hash.hex, self.result.root_size)
        return judge(self.storage, self.result.root_hash.hex)

    def read(self) -> CatalogTree:
        """Return the published tree."""
        tree = CatalogTree(self.store, self.root, self.scratch)
        self._trees.append(tree)
        return tree

    def close(self) -> None:
        for tree in self._trees:
            tree.close()
        assert list(self.scratch.iterdir()) == [], "scratch files stay behind"


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    shop = Workshop(tmp_path)
    yield shop
    shop.close()
