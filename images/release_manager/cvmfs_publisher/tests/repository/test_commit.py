# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening, committing, and dying in the middle of it."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, FaultyStore, Operation

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.errors import (
    ConcurrentPublish,
    CorruptObject,
    EndpointUnreachable,
    LeaseHeld,
    NotInTransaction,
    ObjectNotFound,
    RepositoryExists,
    RepositoryNotFound,
    SignatureError,
    UsageError,
    WhitelistExpired,
)
from cvmfs_publisher.repository import Lease, Manifest, Reflog, Repository, Whitelist
from cvmfs_publisher.repository.lease import break_lease
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.reflog import REFLOG_KEY, ReferenceType
from cvmfs_publisher.repository.repository import MASTER_REPLICA_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from cvmfs_publisher.storage import LocalStore

from .conftest import NAME, Keys, Publisher

SWISSKNIFE = shutil.which("cvmfs_swissknife")


def check(publisher: Publisher) -> None:
    """Let CernVM-FS's own check look at all of the repository, if it is installed."""
    if SWISSKNIFE is not None:
        done = subprocess.run(
            [SWISSKNIFE, "check", "-c", "-r", publisher.storage, "-t", publisher.scratch],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def files(publisher: Publisher) -> list[bytes]:
    repository = publisher.open()
    with CatalogTree(repository.store, repository.manifest.root_hash, publisher.scratch) as tree:
        return [path for path, _ in tree.walk()][1:]


def test_a_new_repository(publisher: Publisher) -> None:
    repository = publisher.create()
    assert repository.manifest == publisher.open().manifest
    assert repository.manifest.revision == 1
    assert repository.is_replicable()
    assert (publisher.storage / MASTER_REPLICA_KEY).stat().st_size > 0
    assert b"administrator" in repository.meta_info()
    assert [tag.name for tag in repository.history().tags()] == ["trunk"]
    assert repository.reflog_problem() is None
    assert not repository.repair_reflog()
    check(publisher)


def test_revision_after_revision(publisher: Publisher) -> None:
    publisher.create()
    for text in (b"one", b"two", b"three"):
        assert publisher.publish(text) == ()
        check(publisher)
    repository = publisher.open()
    assert repository.manifest.revision == 4
    assert files(publisher) == [b"one", b"three", b"two"]
    names = {tag.name: tag.revision for tag in repository.history().tags()}
    assert names == {"trunk": 4, "trunk-previous": 3, "tag-one": 2, "tag-two": 3, "tag-three": 4}
    assert repository.history().previous is not None
    reflog = Reflog.parse((publisher.storage / REFLOG_KEY).read_bytes())
    assert len(reflog.references(ReferenceType.CATALOG)) == 4
    assert len(reflog.references(ReferenceType.HISTORY)) == 4
    assert len(reflog.references(ReferenceType.CERTIFICATE)) == 1


def test_an_existing_repository_is_not_touched(publisher: Publisher, other_keys: Keys) -> None:
    publisher.create()
    before = {path: path.read_bytes() for path in publisher.storage.glob(".cvmfs*") if "lease" not in path.name}
    for keys in (publisher.keys, other_keys):
        with pytest.raises(RepositoryExists, match="already"):
            publisher.create(keys=keys)
    assert before == {path: path.read_bytes() for path in before}


def test_two_that_are_made_at_once(publisher: Publisher, other_keys: Keys) -> None:
    outcomes: list[object] = []

    def create(keys: Keys) -> None:
        try:
            outcomes.append(publisher.create(keys=keys))
        except (RepositoryExists, LeaseHeld) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=create, args=(keys,)) for keys in (publisher.keys, other_keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, Repository)]
    keys = publisher.keys if winner.certificate is publisher.keys.repository.certificate else other_keys
    assert Repository.open(NAME, publisher.store(), [keys.master.public_key]).manifest == winner.manifest


# What is not to be trusted


def test_no_repository(publisher: Publisher) -> None:
    with pytest.raises(RepositoryNotFound, match="cvmfs_server mkfs"):
        publisher.open()


def test_foreign_keys(publisher: Publisher, other_keys: Keys) -> None:
    publisher.create()
    with pytest.raises(SignatureError, match="not signed by a trusted master key"):
        Repository.open(NAME, publisher.store(), [other_keys.master.public_key])
    with pytest.raises(SignatureError, match="not other"):
        Repository.open("other.example.org", publisher.store(), [publisher.keys.master.public_key])
    repository = publisher.open()
    manifest = publisher.prepare(repository, b"x")
    with pytest.raises(SignatureError, match="not in the whitelist"):
        repository.commit(manifest, other_keys.repository)
    assert files(publisher) == []


def test_a_certificate_that_the_whitelist_does_not_list(publisher: Publisher, other_keys: Keys) -> None:
    repository = publisher.create()
    whitelist = Whitelist.create(NAME, [other_keys.repository.certificate])
    repository.store.put(WHITELIST_KEY, whitelist.signed(publisher.keys.master))
    with pytest.raises(SignatureError, match="which is not in the whitelist"):
        publisher.open()
    repository.store.delete(WHITELIST_KEY)
    with pytest.raises(SignatureError, match="has no whitelist"):
        publisher.open()


def test_an_expired_whitelist_allows_reading_and_resigning_only(publisher: Publisher) -> None:
    store = publisher.create().store
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    whitelist = Whitelist.create(NAME, [publisher.keys.repository.certificate], now=past)
    store.put(WHITELIST_KEY, whitelist.signed(publisher.keys.master))
    repository = publisher.open()
    manifest = publisher.prepare(repository, b"x")
    with pytest.raises(WhitelistExpired, match="cvmfs_server resign"):
        repository.commit(manifest, publisher.keys.repository)
    # Somebody resigns; the open transaction goes on
    store.put(WHITELIST_KEY, publisher.keys.whitelist())
    assert repository.commit(manifest, publisher.keys.repository) == ()


def test_a_manifest_that_was_tampered_with(publisher: Publisher) -> None:
    publisher.create()
    file = publisher.storage / MANIFEST_KEY
    file.write_bytes(file.read_bytes().replace(b"\nD240\n", b"\nD241\n"))
    with pytest.raises(SignatureError, match="changed after it was signed"):
        publisher.open()
    file.write_bytes(b"")
    with pytest.raises(CorruptObject):
        publisher.open()


def test_a_foreign_tag_database(publisher: Publisher) -> None:
    repository = publisher.create()
    repository.name = "other.example.org"
    with pytest.raises(CorruptObject, match="tag database is that of test"):
        repository.history()


# Concurrency


def test_the_second_of_two_publishers_loses_and_spoils_nothing(publisher: Publisher) -> None:
    publisher.create()
    first, second = publisher.open(), publisher.open()
    mine, theirs = publisher.prepare(first, b"mine"), publisher.prepare(second, b"theirs")
    assert second.commit(theirs, publisher.keys.repository) == ()
    after = {key: (publisher.storage / key).read_bytes() for key in (MANIFEST_KEY, REFLOG_KEY)}
    with pytest.raises(ConcurrentPublish, match="revision 1 was opened"):
        first.commit(mine, publisher.keys.repository)
    assert after == {key: (publisher.storage / key).read_bytes() for key in after}
    assert files(publisher) == [b"theirs"]
    check(publisher)
    publisher.publish(b"mine")
    assert files(publisher) == [b"mine", b"theirs"]
    check(publisher)


def test_a_publisher_that_lost_its_lease_does_not_commit(publisher: Publisher) -> None:
    store = publisher.create().store
    lease = Lease.acquire(store, NAME, session="a", holder="alice", transaction="1", base_revision=1)
    publisher.publish(b"one", lease=lease)
    break_lease(store)
    with pytest.raises(NotInTransaction):
        publisher.publish(b"two", lease=lease)
    Lease.acquire(store, NAME, session="b", holder="bob", transaction="2", base_revision=2)
    with pytest.raises(LeaseHeld, match="bob"):
        publisher.publish(b"two", lease=lease)
    assert files(publisher) == [b"one"]


def test_time_does_not_go_backwards(publisher: Publisher) -> None:
    repository = publisher.create()
    before = repository.manifest.timestamp
    repository.commit(publisher.prepare(repository, b"x"), publisher.keys.repository, clock=lambda: 1.0)
    assert publisher.open().manifest.timestamp == before
    with pytest.raises(UsageError, match="older"):
        repository.commit(replace(repository.manifest, revision=1), publisher.keys.repository)


# Dying


def _interrupted(publisher: Publisher, fault: Fault, text: bytes = b"new") -> None:
    """Publish in a process of its own that dies on the way."""
    child = os.fork()
    if child == 0:
        try:
            publisher.publish(text, FaultyStore(publisher.store(), [fault]))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 86)


def _count_writes(publisher: Publisher) -> int:
    counting = FaultyStore(publisher.store())
    publisher.publish(b"old", counting)
    return sum(operation.startswith("put") for operation, _ in counting.operations)


WRITES: tuple[Operation, ...] = ("put", "put_if_absent", "put_if_match")


def test_a_publisher_may_die_at_any_write(publisher: Publisher, tmp_path: Path) -> None:
    publisher.create()
    writes = _count_writes(publisher)
    assert writes >= 5
    snapshot = tmp_path / "snapshot"
    shutil.copytree(publisher.storage, snapshot)
    seen = set()
    for nth in range(1, writes + 1):
        for moment in ("before", "after"):
            shutil.rmtree(publisher.storage)
            shutil.copytree(snapshot, publisher.storage)
            _interrupted(publisher, Fault(nth=nth, operations=WRITES, die=moment))
            repository = publisher.open()
            revision = repository.manifest.revision
            seen.add(revision)
            assert files(publisher) == [b"old"] if revision == 2 else [b"new", b"old"]
            # One moment only is in between, and it can be told and repaired without keys
            between = (nth, moment) in ((writes, "before"), (writes - 1, "after"))
            assert (repository.reflog_problem() is not None) == between
            assert repository.repair_reflog() == between
            assert repository.reflog_problem() is None
            check(publisher)
            assert publisher.publish(b"next") == ()
            check(publisher)
    assert seen == {2, 3}


def test_a_commit_repairs_what_the_one_before_left(publisher: Publisher) -> None:
    publisher.create()
    for text in (b"one", b"two"):
        _interrupted(publisher, Fault(operations=("put_if_match",), keys=REFLOG_KEY, die="before"), text)
    reflog_problem = publisher.open().reflog_problem()
    assert reflog_problem is not None
    assert "lacks" in reflog_problem
    assert publisher.publish(b"next") == ()
    reflog = Reflog.parse((publisher.storage / REFLOG_KEY).read_bytes())
    assert len(reflog.references(ReferenceType.CATALOG)) == publisher.open().manifest.revision
    check(publisher)


def test_mkfs_may_die_at_any_write(publisher: Publisher) -> None:
    counting = FaultyStore(publisher.store())
    publisher.create(counting)
    writes = sum(operation.startswith("put") for operation, _ in counting.operations)
    for nth in range(1, writes + 1):
        shutil.rmtree(publisher.storage)
        child = os.fork()
        if child == 0:
            try:
                publisher.create(FaultyStore(publisher.store(), [Fault(nth=nth, operations=WRITES, die="before")]))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if not (publisher.storage / MANIFEST_KEY).exists():
            publisher.create()  # goes on at once, as it has the same keys
        else:
            publisher.open().repair_reflog()
        publisher.publish(b"first")
        check(publisher)


def test_an_error_in_the_last_write_is_a_warning(publisher: Publisher) -> None:
    publisher.create()
    error = EndpointUnreachable("gone")
    store = FaultyStore(publisher.store(), [Fault(operations=("put_if_match",), keys=REFLOG_KEY, error=error)])
    (warning,) = publisher.publish(b"x", store)
    assert "Revision 2 is published, but the reflog was not written: gone" in warning
    assert files(publisher) == [b"x"]


@pytest.mark.parametrize("key", ["data/*", MANIFEST_KEY])
def test_an_error_before_leaves_the_old_revision(publisher: Publisher, key: str) -> None:
    publisher.create()
    error = EndpointUnreachable("gone")
    store = FaultyStore(publisher.store(), [Fault(operations=WRITES, keys=key, error=error)])
    with pytest.raises(EndpointUnreachable):
        publisher.publish(b"x", store)
    assert files(publisher) == []
    assert publisher.open().reflog_problem() is None


# Reflogs that others have left


def test_a_reflog_that_garbage_collection_has_rewritten(publisher: Publisher) -> None:
    publisher.create()
    publisher.publish(b"one")
    publisher.publish(b"two")
    repository = publisher.open()
    collected = Reflog(NAME)
    collected.add_manifest(repository.manifest)  # all older revisions are gone
    repository.store.put(REFLOG_KEY, collected.serialise())
    assert repository.reflog_problem() is None
    assert "not the one that the manifest names" in (repository.reflog_disagreement() or "")
    assert not repository.repair_reflog()
    publisher.publish(b"three")
    assert publisher.open().reflog_problem() is None
    reflog = Reflog.parse((publisher.storage / REFLOG_KEY).read_bytes())
    assert len(reflog.references(ReferenceType.CATALOG)) == 2, "what was collected does not come back"
    check(publisher)


def test_a_lost_reflog_is_made_anew(publisher: Publisher) -> None:
    publisher.create()
    publisher.publish(b"one")
    publisher.publish(b"two")
    (publisher.storage / REFLOG_KEY).unlink()
    assert "missing" in (publisher.open().reflog_problem() or "")
    publisher.publish(b"three")
    assert publisher.open().reflog_problem() is None
    tagged = {tag.root_hash for tag in publisher.open().history().tags()}
    reflog = Reflog.parse((publisher.storage / REFLOG_KEY).read_bytes())
    assert tagged <= {root for root, _ in reflog.references(ReferenceType.CATALOG)}
    check(publisher)


def test_a_damaged_reflog_is_named(publisher: Publisher) -> None:
    publisher.create()
    (publisher.storage / REFLOG_KEY).write_bytes(b"garbage")
    assert "cannot be read" in (publisher.open().reflog_problem() or "")
    with pytest.raises(CorruptObject, match="check -r"):
        publisher.publish(b"x")
    assert files(publisher) == []


def test_a_repository_without_reflog_stays_without(publisher: Publisher) -> None:
    repository = publisher.create()
    manifest = replace(repository.manifest, reflog_hash=None)
    repository.store.put(MANIFEST_KEY, manifest.signed(publisher.keys.repository))
    repository.store.delete(REFLOG_KEY)
    publisher.publish(b"x")
    assert publisher.open().manifest.reflog_hash is None
    assert publisher.open().reflog_problem() is None
    with pytest.raises(ObjectNotFound):
        repository.store.get(REFLOG_KEY)


def test_copies_for_servers_that_protect_data(publisher: Publisher) -> None:
    repository = publisher.create()
    manifest = replace(publisher.prepare(repository, b"x"), has_alt_catalog_path=True)
    repository.commit(manifest, publisher.keys.repository)
    current = publisher.open().manifest
    for content_hash in (current.root_hash, current.certificate, current.history):
        assert content_hash is not None
        copy = (publisher.storage / f".cvmfsalt-{content_hash}").read_bytes()
        assert ContentHash.of(copy) == content_hash.with_suffix("")
    check(publisher)


def test_the_manifest_is_what_was_committed(publisher: Publisher) -> None:
    repository = publisher.create()
    wanted = publisher.prepare(repository, b"x")
    started = int(time.time())
    repository.commit(wanted, publisher.keys.repository)
    found = Manifest.parse(LocalStore(publisher.storage).get(MANIFEST_KEY))
    assert found == repository.manifest
    assert replace(found, timestamp=0, certificate=None, reflog_hash=None) == replace(
        wanted, timestamp=0, certificate=None, reflog_hash=None
    )
    assert started <= found.timestamp <= time.time()
