# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection: what survives it is what is needed, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.errors import (
    ConcurrentPublish,
    LeaseHeld,
    NotInTransaction,
    RepositoryError,
    StorageError,
)
from cvmfs_publisher.operations import tags
from cvmfs_publisher.operations.check import check
from cvmfs_publisher.operations.gc import GcOptions, GcReport, collect
from cvmfs_publisher.operations.publish import PublishOptions, publish
from cvmfs_publisher.operations.transaction import abort, open_transaction
from cvmfs_publisher.repository.lease import CLOCK_MARGIN
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY
from cvmfs_publisher.storage.faults import Fault
from operations.conftest import from_template
from operations.managers import NAME, ReleaseManager, make, mirror
from operations.reading import below, on_disk, published
from operations.stores import FaultyEnvironment, MeanwhileEnvironment

COLLECTABLE = {"CVMFS_GARBAGE_COLLECTION": "true", "CVMFS_AUTO_TAG": "false"}

Keys = frozenset[str]


def collectable(manager: ReleaseManager) -> ReleaseManager:
    manager.configure(**COLLECTABLE)
    return manager


def gc(manager: ReleaseManager, revisions: int = 0, **options: object) -> GcReport:
    return collect(manager.environment, NAME, GcOptions(revisions=revisions, **options))  # type: ignore[arg-type]


def content(manager: ReleaseManager) -> Keys:
    """Return all objects that files or catalogs are in."""
    with manager.store() as store:
        keys = frozenset(info.key for info in store.list("data/"))
    return frozenset(key for key in keys if key[-1] not in "HMX")


def reachable(manager: ReleaseManager, root: ContentHash) -> Keys:
    """Return all objects that a revision needs, looked at as a publisher does."""
    found = set()
    with manager.store() as store, CatalogTree(store, root, manager.tmp) as tree:
        found.update(reference.hash.key() for _, reference in tree.catalogs() if reference is not None)
        for _, entry in tree.walk():
            found.update(chunk.hash.key() for chunk in entry.chunks)
            if entry.hash is not None:
                found.add(entry.hash.key())
    return frozenset(found)


def numbered(base: Path, *numbers: int) -> Path:
    """Return a tree with some files, partly the same ones for other numbers."""
    files: dict[str, str | bytes] = {"nested__.cvmfscatalog": "", "nested__deep__.cvmfscatalog": ""}
    for number in numbers:
        files |= {f"f{number}": f"content {number}", f"nested__g{number}": f"nested {number}"}
        files[f"nested__deep__h{number % 2}"] = random.Random(number).randbytes(100_000)  # noqa: S311
    directory = base / f"{time.monotonic_ns()}"
    return make(directory, **files)


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 63)),
        st.tuples(st.just("publish"), st.integers(1, 63)),
        st.tuples(st.just("tag"), st.integers(0, 3)),
        st.tuples(st.just("untag"), st.integers(0, 3)),
        st.tuples(st.just("gc"), st.integers(0, 2)),
    ),
    min_size=3,
    max_size=8,
)


class _Model:
    """What the repository should have."""

    def __init__(self, manager: ReleaseManager, tmp_path: Path) -> None:
        self.manager = manager
        self.tmp_path = tmp_path
        self.revisions: list[tuple[ContentHash, Keys]] = []
        with manager.environment.open(NAME) as repository:
            made = {tag.name: tag.root_hash for tag in repository.history().tags() if not tag.name.startswith("trunk")}
        self.tags = {name: (root, reachable(manager, root)) for name, root in made.items()}
        self.note()

    def note(self) -> None:
        root = self.manager.manifest().root_hash
        self.revisions.append((root, reachable(self.manager, root)))

    def do(self, step: Step) -> None:
        kind, number = step
        if kind == "publish":
            source = numbered(self.tmp_path, *(bit for bit in range(6) if number >> bit & 1))
            if self.manager.ingest(mirror(source)).changed:
                self.note()
        elif kind == "tag":
            tags.add(self.manager.environment, NAME, f"tag{number}")
            self.tags[f"tag{number}"] = self.revisions[-1]
        elif kind == "untag" and f"tag{number}" in self.tags:
            tags.remove(self.manager.environment, NAME, [f"tag{number}"])
            del self.tags[f"tag{number}"]
        elif kind == "gc":
            self.gc(number)

    def gc(self, number: int) -> None:
        kept = self.revisions[-1 - number :]
        trunk_tags = self.revisions[-2:]  # `trunk` and `trunk-previous` are tags, too
        needed = frozenset[str]().union(*(keys for _, keys in (*kept, *trunk_tags, *self.tags.values())))
        before = content(self.manager)
        pretended = gc(self.manager, number, dry_run=True)
        assert content(self.manager) == before
        report = gc(self.manager, number)
        assert content(self.manager) == needed
        assert (pretended.condemned_objects, pretended.condemned_revisions) == (
            report.condemned_objects,
            report.condemned_revisions,
        )
        assert report.warnings == []
        assert gc(self.manager, number).condemned_objects == 0
        self.manager.check()


def as_model(manager: ReleaseManager, tmp_path: Path, steps: list[Step]) -> None:
    collectable(manager)
    manager.ingest(mirror(numbered(tmp_path, 0)))
    model = _Model(manager, tmp_path)
    for step in steps:
        model.do(step)
    model.gc(1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_exactly_what_is_needed_survives(template: Path, tmp_path: Path, steps: list[Step]) -> None:
    base = tmp_path / f"{time.monotonic_ns()}"
    as_model(from_template(template, base), base / "sources", steps)


def test_what_is_needed_survives_in_a_bucket(s3: ReleaseManager, tmp_path: Path) -> None:
    publish_three: list[Step] = [("publish", 3), ("tag", 1), ("publish", 12), ("publish", 48)]
    as_model(s3, tmp_path, [*publish_three, ("gc", 1), ("untag", 1), ("publish", 5), ("gc", 0)])


# Meanwhile


def times_of_leases(monkeypatch: pytest.MonkeyPatch, lifetime: int, renew_every: float) -> None:
    """Let leases end fast."""
    monkeypatch.setattr("cvmfs_publisher.repository.lease.LIFETIME", lifetime)
    monkeypatch.setattr("cvmfs_publisher.repository.lease.CLOCK_MARGIN", 1)
    monkeypatch.setattr("cvmfs_publisher.operations.transaction._RENEW_EVERY", renew_every)


def with_garbage(manager: ReleaseManager, tmp_path: Path) -> Path:
    """Publish some revisions, and return a source whose content is in the first of them only."""
    collectable(manager)
    first = make(tmp_path / "first", precious="precious" * 1000, deep__more="more" * 1000)
    manager.ingest(mirror(first))
    for number in range(3):
        manager.ingest(mirror(make(tmp_path / f"next{number}", other=f"{number}")))
    return first


@pytest.mark.parametrize("finishes", [True, False])
def test_a_publisher_that_sleeps_in_its_commit(manager: ReleaseManager, tmp_path: Path, finishes: bool) -> None:
    """Its lease was renewed, and all is uploaded. When it wakes up, what it counts on has been swept.

    :param finishes: whether the collection that has done so has come to its end
    """
    first = with_garbage(manager, tmp_path)
    other = manager.another("other")

    def sleeps() -> None:
        manager.expire_lease(CLOCK_MARGIN + 1)
        if finishes:
            assert gc(other).condemned_objects > 0
            return
        broken = Fault(operations=("delete_many",), error=StorageError("broken"), done=True)
        with pytest.raises(StorageError, match="broken"):
            collect(FaultyEnvironment(other, [broken]), NAME, GcOptions(revisions=0))

    environment = MeanwhileEnvironment(manager, MANIFEST_KEY, sleeps)
    open_transaction(environment, NAME)
    revision = manager.manifest().revision
    with pytest.raises(ConcurrentPublish):
        publish(environment, NAME, ChangeSet((mirror(first),)), PublishOptions())
    assert manager.manifest().revision == revision
    for release_manager in (manager, other):  # the session, and the lease
        with contextlib.suppress(NotInTransaction):
            abort(release_manager.environment, NAME, force=True)
    manager.check()
    manager.ingest(mirror(first))
    manager.check()
    assert below(published(manager).tree, b"sw") == on_disk(first)


def test_a_publisher_that_sleeps_before_its_commit(manager: ReleaseManager, tmp_path: Path) -> None:
    first = with_garbage(manager, tmp_path)
    other = manager.another("other")

    def sleeps() -> None:
        manager.expire_lease(CLOCK_MARGIN + 1)
        gc(other)

    environment = MeanwhileEnvironment(manager, "data/", sleeps)
    open_transaction(environment, NAME)
    with pytest.raises((NotInTransaction, ConcurrentPublish)):
        publish(environment, NAME, ChangeSet((mirror(first),)), PublishOptions())
    with pytest.raises(NotInTransaction):  # nor when it tries again
        publish(manager.environment, NAME, ChangeSet((mirror(first),)), PublishOptions())
    manager.check()


def test_a_publisher_that_commits_in_spite_of_the_lease(manager: ReleaseManager, tmp_path: Path) -> None:
    """Between mark and sweep. What it has published is not known to the mark, so nothing is swept."""
    first = with_garbage(manager, tmp_path)
    other = manager.another("other")
    marked = manager.manifest()

    def publishes() -> None:
        manager.expire_lease(CLOCK_MARGIN + 1)
        other.ingest(mirror(first))

    environment = MeanwhileEnvironment(manager, MANIFEST_KEY, publishes)
    with pytest.raises(ConcurrentPublish):
        collect(environment, NAME, GcOptions(revisions=0))
    assert manager.manifest().revision == marked.revision + 1
    manager.check()


def test_a_collection_that_sleeps(manager: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease ends just before a deletion, and somebody publishes what it is about to delete."""
    times_of_leases(monkeypatch, lifetime=2, renew_every=60)
    first = with_garbage(manager, tmp_path)
    other = manager.another("other")

    def sleeps() -> None:
        time.sleep(4.5)
        other.ingest(mirror(first))

    environment = MeanwhileEnvironment(manager, "delete data/", sleeps)
    with pytest.raises((NotInTransaction, LeaseHeld)):
        collect(environment, NAME, GcOptions(revisions=0))
    other.check()
    assert below(published(other).tree, b"sw") == on_disk(first)
    time.sleep(3)
    gc(other)
    other.check()


def test_many_that_fall_asleep(manager: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers and collections of several hosts, stopped again and again for longer than their leases last."""
    times_of_leases(monkeypatch, lifetime=1, renew_every=0.25)
    collectable(manager)
    pool = {f"f{number}": f"content {number}" * 200 for number in range(12)}
    done = tmp_path / "done"
    done.mkdir()
    deadline = time.monotonic() + 20

    def work(number: int) -> None:
        mine = manager.another(f"host{number}")
        generator = random.Random(number)  # noqa: S311
        while time.monotonic() < deadline:
            try:
                if number < 2:
                    orphans_before = int(time.time()) + 10 if generator.random() < 0.5 else None
                    gc(mine, orphans_before=orphans_before)
                else:
                    names = generator.sample(sorted(pool), 5)
                    source = make(mine.base / f"{time.monotonic_ns()}", **{name: pool[name] for name in names})
                    mine.ingest(mirror(source, f"sw{number}"))
                (done / f"{number}-{time.monotonic_ns()}").touch()
            except (RepositoryError, StorageError):
                for session in mine.spool.glob("transaction.json"):
                    session.unlink()
                time.sleep(generator.random() / 5)

    children = [_in_child(lambda number=number: work(number)) for number in range(5)]  # type: ignore[misc]
    generator = random.Random(0)  # noqa: S311
    while time.monotonic() < deadline:
        child = generator.choice(children)
        os.kill(child, signal.SIGSTOP)
        time.sleep(generator.choice([0.1, 0.5, 2.5]))
        os.kill(child, signal.SIGCONT)
        time.sleep(0.1)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(children)
    finished = {file.name.partition("-")[0] for file in done.iterdir()}
    assert len(finished) > 2, finished
    time.sleep(2.5)
    for session in manager.spool.glob("transaction.json"):
        session.unlink()
    problems = check(manager.environment, NAME, integrity=True).problems
    assert [text for text in problems if not text.startswith(REFLOG_KEY)] == []


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child
