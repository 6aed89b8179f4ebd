# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection: what survives it is what is needed, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import re
import shutil
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import EXIT_CODE, Fault
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire import LOSE, PASS, Fate, Proxy, Request, answer

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.errors import (
    ConcurrentPublish,
    LeaseHeld,
    NotInTransaction,
    PreconditionFailed,
    RepositoryError,
    StorageError,
    UnansweredDeletion,
)
from cvmfs_publisher.operations import tags
from cvmfs_publisher.operations.check import check
from cvmfs_publisher.operations.gc import GcOptions, GcReport, collect
from cvmfs_publisher.operations.publish import PublishOptions, publish
from cvmfs_publisher.operations.transaction import abort, open_transaction
from cvmfs_publisher.repository.lease import CLOCK_MARGIN, LEASE_KEY, LIFETIME
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY, ReferenceType, Reflog
from cvmfs_publisher.repository.status import last_time
from cvmfs_publisher.storage import Permit, S3Config, S3Store, Version
from operations.conftest import from_template
from operations.managers import NAME, ReleaseManager, make, mirror, s3_settings, times_of_leases
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
            newest = self.revisions[-1]
            if self.tags.get(f"tag{number}") != newest:  # else it is refused, as there is nothing to do
                tags.add(self.manager.environment, NAME, f"tag{number}", root_hash=newest[0].hex)  # moves it, too
            self.tags[f"tag{number}"] = newest
        elif kind == "untag" and f"tag{number}" in self.tags:
            tags.remove(self.manager.environment, NAME, [f"tag{number}"])
            del self.tags[f"tag{number}"]
        elif kind == "gc":
            self.gc(number)

    def gc(self, number: int) -> None:
        kept = self.revisions[-1 - number :]
        trunk_tags = self.revisions[-2:]  # `trunk` and `trunk-previous` are tags, too
        survivors = (*kept, *trunk_tags, *self.tags.values())
        needed = frozenset[str]().union(*(keys for _, keys in survivors))
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
        # Each revision knows the one before it: no later collection finds those before one that is gone.
        gone = [number for number, revision in enumerate(self.revisions) if revision not in survivors]
        self.revisions = self.revisions[max(gone, default=-1) + 1 :]


def as_model(manager: ReleaseManager, tmp_path: Path, steps: list[Step]) -> None:
    collectable(manager)
    manager.ingest(mirror(numbered(tmp_path, 0)))
    model = _Model(manager, tmp_path)
    for step in steps:
        model.do(step)
    model.gc(1)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(steps=[("publish", 1), ("publish", 26), ("publish", 11), ("gc", 0), ("tag", 0), ("gc", 2)])
def test_exactly_what_is_needed_survives(template: Path, tmp_path: Path, steps: list[Step]) -> None:
    base = tmp_path / f"{time.monotonic_ns()}"
    as_model(from_template(template, base), base / "sources", steps)


def test_what_is_needed_survives_in_a_bucket(s3: ReleaseManager, tmp_path: Path) -> None:
    publish_three: list[Step] = [("publish", 3), ("tag", 1), ("publish", 12), ("publish", 48)]
    as_model(s3, tmp_path, [*publish_three, ("gc", 1), ("untag", 1), ("publish", 5), ("gc", 0)])


# Meanwhile


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
        abort_quietly(release_manager)
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


def test_a_collection_whose_lease_is_broken(
    manager: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is deleting cannot be published before it is certain that no deletion comes any more."""
    monkeypatch.setattr("cvmfs_publisher.operations.sweeper._BATCH", 1)
    first = with_garbage(manager, tmp_path)
    other = manager.another("other")
    told: list[str] = []

    def publish_it() -> None:
        told.extend(abort(other.environment, NAME, force=True))
        with contextlib.suppress(LeaseHeld):
            other.ingest(mirror(first))

    environment = MeanwhileEnvironment(manager, "delete data/", publish_it)
    with pytest.raises((LeaseHeld, NotInTransaction)) as caught:
        collect(environment, NAME, GcOptions(revisions=0))
    other.check()
    assert "was broken" in str(caught.value)
    (warning,) = told
    match = re.match(rf"{NAME} can be published to from (.+ UTC) on, in (\d+) seconds. The lease was not ", warning)
    assert match is not None, warning
    assert LIFETIME <= int(match[2]) + 60 <= LIFETIME + CLOCK_MARGIN + 60
    for command in (["transaction"], ["ingest", "-d", "other"]):
        outcome = other.server(*command)
        assert outcome.code
        assert f"Until {match[1]}, storage may carry out what was being deleted" in outcome.stderr
    assert "can be published to from" in other.server("abort", "-f").succeeded().stderr
    other.expire_lease(CLOCK_MARGIN + 1)
    other.ingest(mirror(first))
    other.check()
    assert below(published(other).tree, b"sw") == on_disk(first)


def test_a_collection_hears_that_its_lease_was_broken(
    s3: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on until its last renewal ends."""
    monkeypatch.setattr("cvmfs_publisher.operations.sweeper._BATCH", 1)
    monkeypatch.setattr("cvmfs_publisher.operations.transaction._RENEW_EVERY", 0.05)
    collectable(s3)
    s3.ingest(mirror(make(tmp_path / "many", **{f"f{number}": f"content {number}" for number in range(400)})))
    for number in range(2):
        s3.ingest(mirror(make(tmp_path / f"next{number}", other=f"{number}")))
    other = s3.another("other")
    environment = FaultyEnvironment(s3, [Fault(operations=("delete_many",), delay=0.1, times=10_000)])
    told: list[str] = []

    def tell(name: str) -> None:
        told.append(name)
        if len(told) == 20:
            abort(other.environment, NAME, force=True)

    with pytest.raises(LeaseHeld, match="was broken"):
        collect(environment, NAME, GcOptions(revisions=0), tell=tell)
    deleted = [key for operation, key in environment.faulty.operations if operation == "delete_many"]
    assert 0 < len(deleted) < 300


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


def test_a_request_on_its_way_when_the_lease_ends(s3: ReleaseManager, s3_bucket: S3Config) -> None:
    """It was signed and sent in time. The store gets it when it is too late, and refuses it."""
    with s3.store() as store, Proxy(s3_bucket) as proxy:
        store.put("data/aa/x", b"precious")
        prefix = s3.settings["CVMFS_STRATUM0"].rpartition("/")[2]
        config = dataclasses.replace(s3_bucket, host="127.0.0.1", port=proxy.port, prefix=prefix)

        def hold_up(request: Request) -> Fate:
            if "X-Amz-Signature" in request.target:
                time.sleep(4)
            return PASS

        proxy.rule = hold_up
        with S3Store(config) as slow:
            slow.exists("data/aa/x")
            permit = Permit(LEASE_KEY, Version(""), slow.now() + 2)
            with pytest.raises(PreconditionFailed, match="has expired"):
                slow.delete_many(["data/aa/x"], permit)
            assert store.exists("data/aa/x")
            proxy.rule = lambda _: PASS
            with pytest.raises(PreconditionFailed, match="has expired"):
                slow.delete_many(["data/aa/x"], permit)
            assert slow.delete_many(["data/aa/x", "data/aa/y"], dataclasses.replace(permit, expires=slow.now() + 60))
            assert not store.exists("data/aa/x")


@pytest.mark.parametrize("many", [True, False])
def test_an_endpoint_without_deletion_of_many(s3_bucket: S3Config, many: bool) -> None:
    with Proxy(s3_bucket) as proxy:
        proxy.rule = lambda request: (
            Fate(forward=False, answer=answer(501, "NotImplemented")) if request.method == "POST" and not many else PASS
        )
        config = dataclasses.replace(s3_bucket, host="127.0.0.1", port=proxy.port, prefix="many")
        with S3Store(config) as store:
            keys = [f"data/{number:02x}/<&>{number}" for number in range(5)]
            for key in keys:
                store.put(key, b"x")
            permit = Permit(LEASE_KEY, Version(""), store.now() + 60)
            assert store.delete_many(keys[:3], permit)
            assert store.delete_many(keys[3:], permit)
            assert list(store.list("data/")) == []
            methods = [request.method for request in proxy.requests]
            assert methods.count("POST") == (2 if many else 1)
            assert methods.count("DELETE") == (0 if many else 5)


def test_a_deletion_without_an_answer(s3: ReleaseManager, s3_bucket: S3Config, tmp_path: Path) -> None:
    """It may be carried out later, so nobody may publish before it is certain that it will not be."""
    with_garbage(s3, tmp_path)
    with Proxy(s3_bucket) as proxy:
        lost = 0

        def lose_one(request: Request) -> Fate:
            nonlocal lost
            if "X-Amz-Signature" in request.target and not lost:
                lost += 1
                return LOSE
            return PASS

        proxy.rule = lose_one
        other = s3.another("other")
        prefix = s3.settings["CVMFS_STRATUM0"].rpartition("/")[2]
        config = dataclasses.replace(s3_bucket, host="127.0.0.1", port=proxy.port, prefix=prefix)
        other.configure(**s3_settings(config, other.base / "s3.conf"))
        report = gc(other)
    assert lost == 1
    assert "ends by itself within 4 minutes" in report.warnings[0]
    with pytest.raises(LeaseHeld):
        s3.ingest(mirror(tmp_path / "first"))
    s3.expire_lease(CLOCK_MARGIN + 1)
    s3.ingest(mirror(tmp_path / "first"))
    s3.check()


def test_an_unanswered_deletion_whose_permit_ends(manager: ReleaseManager, tmp_path: Path) -> None:
    """The lease is renewed, and everything is deleted; but that one may still be carried out later."""
    with_garbage(manager, tmp_path)
    unanswered = Fault(operations=("delete_many",), error=UnansweredDeletion("The lease has expired"))
    report = collect(FaultyEnvironment(manager, [unanswered]), NAME, GcOptions(revisions=0))
    assert "ends by itself within 4 minutes" in report.warnings[0]
    with pytest.raises(LeaseHeld):
        manager.ingest(mirror(tmp_path / "first"))
    manager.expire_lease(CLOCK_MARGIN + 1)
    manager.check()


# Interruptions


def test_death_at_every_operation(template: Path, tmp_path: Path) -> None:
    manager = from_template(template, tmp_path / "alive")
    with_garbage(manager, tmp_path)
    shutil.copytree(tmp_path / "alive" / "storage", tmp_path / "storage")
    environment = FaultyEnvironment(manager)
    collect(environment, NAME, GcOptions(revisions=0))
    expected = content(manager)
    operations = environment.faulty.operations
    first = operations.index(("put_if_match", MANIFEST_KEY))
    for number in range(first, len(operations)):
        shutil.rmtree(tmp_path / "alive" / "storage")
        shutil.copytree(tmp_path / "storage", tmp_path / "alive" / "storage")
        dies_doing(
            manager, Fault(nth=number + 1, die="before"), lambda mortal: collect(mortal, NAME, GcOptions(revisions=0))
        )
        problems = check(manager.environment, NAME, integrity=True).problems
        assert [text for text in problems if not text.startswith(REFLOG_KEY)] == [], operations[number]
        abort_quietly(manager)
        gc(manager)
        assert content(manager) == expected, operations[number]
        manager.check()


def dies_doing(manager: ReleaseManager, fault: Fault, do: Callable[[FaultyEnvironment], object]) -> None:
    child = _in_child(lambda: do(FaultyEnvironment(manager, [fault])) and None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_CODE


def abort_quietly(manager: ReleaseManager) -> None:
    with contextlib.suppress(NotInTransaction):
        abort(manager.environment, NAME, force=True)
    lease = manager.lease()
    if lease is not None and lease.is_broken:
        manager.expire_lease(CLOCK_MARGIN + 1)
        abort(manager.environment, NAME, force=True)


def test_a_failure_locks_nobody_out(manager: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletions that are under way come to their end, and then the lease is given back."""
    monkeypatch.setattr("cvmfs_publisher.operations.sweeper._BATCH", 1)
    with_garbage(manager, tmp_path)
    under_way, told = threading.Event(), []

    def tell(name: str) -> None:
        told.append(name)
        if len(told) > 1:
            assert under_way.wait(20)
            raise OSError(errno.ENOSPC, "No space left on device")

    def delete() -> None:
        under_way.set()
        time.sleep(0.5)

    environment = MeanwhileEnvironment(manager, "delete data/", delete)
    with pytest.raises(OSError, match="No space left"):
        collect(environment, NAME, GcOptions(revisions=0), tell=tell)
    with manager.store() as store:
        assert not store.exists(f"data/{told[0][:2]}/{told[0][2:]}")
    manager.ingest(mirror(tmp_path / "first"))
    manager.check()


def test_a_second_interruption_does_not_give_the_lease_back(
    manager: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while deletions come to their end, which they may not have done."""

    class Interrupted(ThreadPoolExecutor):
        def shutdown(self, *arguments: bool, **options: bool) -> None:
            super().shutdown(*arguments, **options)
            raise KeyboardInterrupt

    first = with_garbage(manager, tmp_path)
    monkeypatch.setattr("cvmfs_publisher.operations.sweeper.ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        gc(manager)
    with pytest.raises(LeaseHeld):
        manager.ingest(mirror(first))


def test_what_was_being_deleted_cannot_be_tagged(local: ReleaseManager, tmp_path: Path) -> None:
    collectable(local)
    local.ingest(mirror(make(tmp_path / "first", precious="precious" * 1000)))
    condemned = local.manifest().root_hash
    for number in range(2):
        local.ingest(mirror(make(tmp_path / f"next{number}", other=f"{number}")))
    broken = Fault(operations=("delete_many",), error=StorageError("broken"), done=True)
    with pytest.raises(StorageError, match="broken"):
        collect(FaultyEnvironment(local, [broken]), NAME, GcOptions(revisions=0))
    abort_quietly(local)
    local.refuses("tag", "-a", "old", "-h", condemned.hex, says=["was being deleted by a garbage collection"])
    gc(local)
    local.refuses("tag", "-a", "old", "-h", condemned.hex, says=["has no root catalog"])
    local.check()


# What is preserved


def test_revisions_by_their_age(local: ReleaseManager, tmp_path: Path) -> None:
    """Those that are young enough, and, as CernVM-FS does, one more."""
    collectable(local)
    roots = []
    for number in range(6):
        local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
        roots.append(local.manifest().root_hash)
    now = int(time.time())
    with local.store() as store:
        reflog = Reflog.parse(store.get(REFLOG_KEY))
        for age, root in enumerate(reversed(roots)):
            reflog.add(root, now - age * 1000)
        store.put(REFLOG_KEY, reflog.serialise())
    report = collect(local.environment, NAME, GcOptions(newer_than=now - 2500))
    with local.store() as store:
        there = [store.exists(root.key()) for root in roots]
    assert there == [False, False, True, True, True, True]
    assert report.condemned_revisions == 2
    local.check()


def test_old_tag_databases(local: ReleaseManager, tmp_path: Path) -> None:
    """They and the like go with the last revision that may have used them; those in use stay, however old."""
    collectable(local)
    for number in range(3):
        local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
    manifest = local.manifest()
    with local.store() as store:
        reflog = Reflog.parse(store.get(REFLOG_KEY))
        for kind in ReferenceType:
            for name, _ in reflog.references(kind):
                reflog.add(name, 1000 if name != manifest.root_hash else 2000)
        store.put(REFLOG_KEY, reflog.serialise())
    gc(local)
    with local.store() as store:
        kept = {info.key for info in store.list("data/") if info.key[-1] in "HMX"}
        left = Reflog.parse(store.get(REFLOG_KEY))
    used = {manifest.history, manifest.certificate, manifest.meta_info} - {None}
    assert kept == {name.key() for name in used if name is not None}
    assert {name for kind in list(ReferenceType)[1:] for name, _ in left.references(kind)} == used
    local.check()


@pytest.mark.parametrize("tagged", [True, False])
def test_nothing_is_deleted_when_something_preserved_cannot_be_read(
    local: ReleaseManager, tmp_path: Path, tagged: bool
) -> None:
    collectable(local)
    nested = {"nested__.cvmfscatalog": "", "nested__a": "a"}
    local.ingest(mirror(make(tmp_path / "first", **nested)), tag="keep" if tagged else None)
    root = local.manifest().root_hash
    lost = next(key for key in reachable(local, root) if key.endswith("C") and key != root.key())
    for number in range(3 if tagged else 0):
        local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
    with local.store() as store:
        store.delete(lost)
    before = content(local)
    where = "tag keep" if tagged else "newest revision"
    local.refuses(
        "gc", "-r", "0", "-f", says=[lost, f"The catalog of /sw/nested in the {where}", "nothing was deleted"]
    )
    assert content(local) == before


def test_a_lost_reflog_is_rebuilt(local: ReleaseManager, tmp_path: Path) -> None:
    with_garbage(local, tmp_path)
    with local.store() as store:
        store.delete(REFLOG_KEY)
    local.refuses("gc", "-r", "0", "-d", says=["has no reflog", "cvmfs_server check -r"])
    assert gc(local).condemned_revisions == 2
    local.check()


def test_damaged_catalogs_that_nobody_needs(local: ReleaseManager, tmp_path: Path) -> None:
    collectable(local)
    local.ingest(mirror(make(tmp_path / "first", file="of the first")))
    root = local.manifest().root_hash
    for number in range(2):
        local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
    with local.store() as store:
        store.put(root.key(), b"garbage")
    report = gc(local)
    assert "gc --orphans" in report.warnings[0]
    local.check()
    assert gc(local, orphans_before=int(time.time()) + 10).orphans == 1
    local.check()


def test_orphans(manager: ReleaseManager, tmp_path: Path) -> None:
    """What a publish that was killed has uploaded; but nothing that is young, and nothing that is no object."""
    collectable(manager)
    manager.ingest(mirror(make(tmp_path / "first", file="first")))
    gc(manager)
    needed = content(manager)
    orphans = [
        f"data/{number:02x}/{'0' * 38}{suffix}" for number, suffix in enumerate(["", "P", "C", "-shake128", "H"])
    ]
    strange = ["data/00/README", "data/ab/" + "0" * 38 + "-md5000"]
    with manager.store() as store:
        for key in orphans + strange:
            store.put(key, b"orphan")
    assert gc(manager, orphans_before=int(time.time()) - 60).orphans == 0
    found = gc(manager, orphans_before=int(time.time()) + 60, dry_run=True)
    report = gc(manager, orphans_before=int(time.time()) + 60)
    assert report.orphans == report.condemned_objects == found.orphans
    assert report.orphan_bytes >= len(orphans) * len(b"orphan")
    with manager.store() as store:
        assert not any(map(store.exists, orphans))
        assert all(map(store.exists, strange))
    assert content(manager) - set(strange) == needed
    manager.check()


# The command


def test_the_command(local: ReleaseManager, tmp_path: Path) -> None:
    with_garbage(local, tmp_path)
    log, configured = tmp_path / "log", tmp_path / "configured"
    local.configure(CVMFS_GC_DELETION_LOG=str(configured))
    before = content(local)
    assert local.server("gc", "-r", "0", stdin=b"n\n").code == 1
    listed = local.server("gc", "-r", "0", "-d", "-l").succeeded().stdout.splitlines()
    assert content(local) == before
    assert configured.read_text().count("\n") == len(listed) + 2
    assert re.fullmatch(
        r"test.example.org: 3 revisions preserved; 2 revisions and \d+ objects would be deleted\.", listed[-1]
    )
    names = {line.removeprefix("Sweep: ") for line in listed[:-1]}
    report = local.server("gc", "-r", "0", "-f", "--json", "-L", log).succeeded().document
    assert (report["condemned_objects"], report["dry_run"]) == (len(names), False)
    lines = log.read_text().splitlines()
    assert lines[0].startswith("# Garbage Collection started at ")
    assert lines[-2].startswith("# Garbage Collection finished at ")
    assert set(lines[1:-2]) == names
    assert local.server("gc", "-a", "-f").succeeded().stdout.startswith("test.example.org: 3 revisions preserved")
    with local.store() as store:
        assert abs((last_time(store, "last_gc") or 0) - time.time()) < 60


def test_a_full_disk_of_the_deletion_log(local: ReleaseManager, tmp_path: Path) -> None:
    with_garbage(local, tmp_path)
    outcome = local.server("gc", "-r", "0", "-f", "-L", "/dev/full").succeeded()
    assert outcome.stderr == "Warning: The deletion log /dev/full is not complete: No space left on device\n"
    assert gc(local).condemned_objects == 0
    local.ingest(mirror(make(tmp_path / "next", file="content")))


def test_refusals(local: ReleaseManager, tmp_path: Path) -> None:
    local.refuses(
        "gc", "-f", says=["Garbage collection is not enabled for test.example.org", "CVMFS_GARBAGE_COLLECTION"]
    )
    with_garbage(local, tmp_path)
    local.refuses("gc", "-f", "-L", "/nowhere/log", says=["Cannot write the deletion log /nowhere/log"])
    other = local.another("other")
    other.server("transaction").succeeded()
    local.refuses("gc", "-f", says=["has a transaction open"])
    other.refuses("gc", "-f", says=["has the transaction", "open here"])
    local.server("gc", "-d").succeeded()
    assert other.server("gc", "-f", "-a").code == 1


# After a publish


def test_automatically(local: ReleaseManager, tmp_path: Path) -> None:
    collectable(local)
    local.configure(CVMFS_AUTO_GC="true", CVMFS_AUTO_GC_TIMESPAN="now")
    local.ingest(mirror(make(tmp_path / "first", precious="precious" * 1000)))
    with local.store() as store:
        first = last_time(store, "last_gc")
        assert first is not None
        gone = local.manifest().root_hash.key()
        for number in range(4):
            local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
        assert last_time(store, "last_gc") == first
        assert store.exists(gone)
        time.sleep(1.1)
        local.configure(CVMFS_AUTO_GC_LAPSE="now")
        time.sleep(1.1)
        assert local.ingest(mirror(make(tmp_path / "last", file="last"))).warnings == []
        assert (last_time(store, "last_gc") or 0) > first
        assert not store.exists(gone)
    local.check()
    local.configure(CVMFS_AUTO_GC_TIMESPAN="whenever")
    local.refuses("ingest", "-d", "sw", says=["CVMFS_AUTO_GC_TIMESPAN=whenever is no point in time"])


@pytest.mark.parametrize(
    "error", [StorageError("broken"), OSError(errno.ENOSPC, "full"), sqlite3.OperationalError("full")]
)
def test_a_publish_does_not_fail_for_its_garbage(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    collectable(local)
    local.configure(CVMFS_AUTO_GC="true", CVMFS_AUTO_GC_TIMESPAN="now", CVMFS_AUTO_GC_LAPSE="now")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("cvmfs_publisher.operations.gc._Collection.run", fail)
    (warning,) = local.ingest(mirror(make(tmp_path / "first", file="content"))).warnings
    assert warning.startswith("The automatic garbage collection failed: ")
    assert below(published(local).tree, b"sw").keys() == {b"", b"file"}
