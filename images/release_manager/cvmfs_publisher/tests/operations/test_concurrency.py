# SPDX-License-Identifier: GPL-3.0-or-later
"""Many release managers publish to one repository at the same time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import FaultyStore

from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.errors import ConcurrentPublish, LeaseHeld
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.publish import PublishOptions, ingest
from cvmfs_publisher.repository import ServerConfig
from cvmfs_publisher.repository.lease import LEASE_KEY
from cvmfs_publisher.storage import ObjectStore, Version
from cvmfs_publisher.storage.store import Bytes
from operations.managers import NAME, ReleaseManager, make, merge
from operations.reading import published

PROCESSES = 8
ROUNDS = 3

Publish = Callable[[ReleaseManager, Path], int]
"""Publishes a directory into /sw, and returns the revision."""


def in_processes(managers: list[ReleaseManager], publish: Publish, results: Path) -> list[dict[str, Any]]:
    """Let each release manager publish files of its own, some times, all at once; return what each publish says."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(len(managers))

    def work(number: int) -> None:
        start.wait()
        done = []
        for turn in range(ROUNDS):
            name = f"{number}-{turn}"
            source = make(managers[number].base / name, **{name: name * 100})
            done.append({"name": name, "revision": publish(managers[number], source)})
        (results / f"{number}.json").write_text(json.dumps(done))

    processes = [context.Process(target=work, args=(number,)) for number in range(len(managers))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [item for file in sorted(results.iterdir()) for item in json.loads(file.read_bytes())]


def nothing_is_lost(manager: ReleaseManager, done: list[dict[str, Any]]) -> None:
    """Assert that everything that was published is there, one revision each."""
    assert sorted(item["revision"] for item in done) == list(range(2, len(done) + 2))
    found = published(manager)
    assert found.revision == len(done) + 1
    contents = {path: seen.content for path, seen in found.tree.items() if path.startswith(b"sw/")}
    assert contents == {f"sw/{item['name']}".encode(): (item["name"] * 100).encode() for item in done}
    with manager.environment.open(NAME) as repository:
        tagged = {tag.revision for tag in repository.history().tags()}
    assert tagged == set(range(1, len(done) + 2))


def test_all_of_them_get_their_turn(s3: ReleaseManager, tmp_path: Path) -> None:
    """The real command line, in as many processes; each tries until it is not kept out by another's lease."""
    managers = [s3.another(f"manager-{number}") for number in range(PROCESSES)]

    def publish(manager: ReleaseManager, source: Path) -> int:
        while True:
            outcome = manager.server("ingest", "--json", "--directory", source, "-b", "sw", real=True)
            if outcome.code == 0:
                revision: int = outcome.document["revision"]
                return revision
            assert "has a transaction open" in outcome.stderr or "Others keep taking the lease" in outcome.stderr
            time.sleep(random.uniform(0, 1))  # noqa: S311

    results = tmp_path / "results"
    results.mkdir()
    nothing_is_lost(s3, in_processes(managers, publish, results))
    s3.check()
    assert all(os.listdir(manager.spool) == ["stats.db"] for manager in managers)


def test_nothing_is_lost_without_leases(manager: ReleaseManager, tmp_path: Path) -> None:
    """Leases keep publishers out of each other's way; what makes them safe is the conditional write."""
    managers = [manager.another(f"manager-{number}") for number in range(5)]
    publish = _Reckless()
    results = tmp_path / "results"
    results.mkdir()
    done = in_processes(managers, publish, results)
    nothing_is_lost(manager, done)
    assert publish.collisions.value > 0  # else this test has tested nothing
    # A reflog may have been overtaken by an older one, which can only happen without leases; and it heals.
    manager.ingest(merge(make(tmp_path / "last", last="x")))
    manager.check()


class _Reckless:
    """Publishes without regard to others' leases, again and again until nobody else was faster."""

    def __init__(self) -> None:
        self.collisions = multiprocessing.get_context("fork").Value("i", 0)

    def __call__(self, manager: ReleaseManager, source: Path) -> int:
        while True:
            try:
                return ingest(_Lonely(manager.config_dir), NAME, ChangeSet((merge(source),)), PublishOptions()).revision
            except ConcurrentPublish:
                with self.collisions.get_lock():
                    self.collisions.value += 1


class _Lonely(Environment):
    """An environment that does not see the lease of others."""

    def store(self, settings: ServerConfig) -> ObjectStore:
        return _OwnLease(super().store(settings), str(self.config_dir.parent.name))


class _OwnLease(FaultyStore):
    def __init__(self, inner: ObjectStore, owner: str) -> None:
        super().__init__(inner)
        self._owner = owner

    def _key(self, key: str) -> str:
        return f"{key}.{self._owner}" if key == LEASE_KEY else key

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        return super().get_versioned(self._key(key))

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        return super().put_if_absent(self._key(key), data)

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        return super().put_if_match(self._key(key), data, version)


def test_readers_always_see_a_whole_revision(local: ReleaseManager, tmp_path: Path) -> None:
    """Whoever reads while others publish sees one revision or the next, and never less than before."""

    def publish(manager: ReleaseManager, source: Path) -> int:
        while True:
            try:
                return manager.ingest(merge(source)).revision
            except LeaseHeld:
                time.sleep(0.01)

    managers = [local.another(f"manager-{number}") for number in range(2)]
    results = tmp_path / "results"
    results.mkdir()
    context = multiprocessing.get_context("fork")
    seen = context.SimpleQueue()
    stop = context.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.put(published(local).revision)

    watcher = context.Process(target=watch)
    watcher.start()
    done = in_processes(managers, publish, results)
    stop.set()
    revisions = list(_drain(seen, watcher))
    assert watcher.exitcode == 0
    assert revisions == sorted(revisions)
    nothing_is_lost(local, done)


def _drain(queue: Any, process: Any) -> Iterator[int]:
    while process.is_alive() or not queue.empty():
        if queue.empty():
            process.join(0.05)
        else:
            yield queue.get()
