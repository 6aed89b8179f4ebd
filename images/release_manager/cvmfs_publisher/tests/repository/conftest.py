# SPDX-License-Identifier: GPL-3.0-or-later
"""A small repository in a local directory, and the keys for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CommitResult, DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.content import HashSuffix, put_object
from cvmfs_publisher.repository import (
    History,
    Lease,
    Manifest,
    MasterKey,
    Repository,
    RepositoryKey,
    Tag,
    Whitelist,
    metainfo,
)
from cvmfs_publisher.storage import LocalStore, ObjectStore

NAME = "test.example.org"


@dataclass(frozen=True)
class Keys:
    """A repository's keys; making them takes a while."""

    master: MasterKey
    repository: RepositoryKey

    def whitelist(self, days: int = 30) -> bytes:
        return Whitelist.create(NAME, [self.repository.certificate], days=days).signed(self.master)


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys(MasterKey.generate(), RepositoryKey.generate(NAME))


@pytest.fixture(scope="session")
def other_keys() -> Keys:
    return Keys(MasterKey.generate(), RepositoryKey.generate(NAME))


class Publisher:
    """Publishes small revisions, step by step as the operations do."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        self.storage = directory / "storage"
        self.scratch = directory / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.keys = keys

    def store(self) -> LocalStore:
        return LocalStore(self.storage)

    def open(self, store: ObjectStore | None = None) -> Repository:
        return Repository.open(NAME, store or self.store(), [self.keys.master.public_key])

    def create(self, store: ObjectStore | None = None, keys: Keys | None = None) -> Repository:
        """Make the repository."""
        keys = keys or self.keys
        store = store or self.store()
        with WritableCatalogTree(store, None, self.scratch) as tree:
            tree.add(b"", DirectoryEntry(name=b"", mode=0o040755, size=4096))
            result = tree.commit(lambda data: put_object(store, data, HashSuffix.CATALOG), 1, int(time.time()))
        history = History(NAME)
        history.set_trunk(result.root_hash, result.root_size, 1, int(time.time()))
        meta_info, _ = put_object(store, metainfo.dump(metainfo.REPOSITORY_META), HashSuffix.METAINFO)
        manifest = Manifest(
            repository=NAME,
            root_hash=result.root_hash,
            catalog_size=result.root_size,
            revision=1,
            history=put_object(store, history.serialise(), HashSuffix.HISTORY)[0],
            meta_info=meta_info,
        )
        return Repository.create(manifest, store, keys.repository, keys.whitelist())

    def prepare(self, repository: Repository, text: bytes) -> Manifest:
        """Upload the objects of the next revision, which has one file more."""
        store, base = repository.store, repository.manifest
        content_hash, _ = put_object(store, text)
        with WritableCatalogTree(store, base.root_hash, self.scratch) as tree:
            tree.replace(text, DirectoryEntry(name=text, mode=0o100644, size=len(text), hash=content_hash))
            result: CommitResult = tree.commit(
                lambda data: put_object(store, data, HashSuffix.CATALOG), base.revision + 1, int(time.time())
            )
        history = repository.history()
        history.set_trunk(result.root_hash, result.root_size, base.revision + 1, int(time.time()))
        history.add(
            Tag(
                name=f"tag-{text.decode()}",
                root_hash=result.root_hash,
                size=result.root_size,
                revision=base.revision + 1,
                timestamp=int(time.time()),
            )
        )
        return replace(
            base,
            root_hash=result.root_hash,
            catalog_size=result.root_size,
            revision=base.revision + 1,
            history=repository.put_history(history, result.root_hash.algorithm),
        )

    def publish(self, text: bytes, store: ObjectStore | None = None, lease: Lease | None = None) -> tuple[str, ...]:
        """Publish one file more."""
        repository = self.open(store)
        return repository.commit(self.prepare(repository, text), self.keys.repository, lease=lease)


@pytest.fixture
def publisher(tmp_path: Path, keys: Keys) -> Publisher:
    return Publisher(tmp_path, keys)
