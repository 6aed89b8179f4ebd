# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may publish: leases and sessions, and what happens when they are lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from faults import Fault

from cvmfs_publisher.changes.change_set import Change, ChangeSet, Deletion
from cvmfs_publisher.errors import (
    ConcurrentPublish,
    InTransaction,
    LeaseHeld,
    NotInTransaction,
    PublisherError,
    StorageError,
    UsageError,
)
from cvmfs_publisher.operations import tags, transaction
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.publish import PublishOptions, PublishResult, ingest, publish
from cvmfs_publisher.operations.resign import resign_manifest, resign_whitelist
from cvmfs_publisher.operations.transaction import Session, SessionLease, abort, find_session, open_transaction
from cvmfs_publisher.repository import ServerConfig
from cvmfs_publisher.repository.lease import CLOCK_MARGIN, LEASE_KEY
from cvmfs_publisher.storage import ObjectStore
from cvmfs_publisher.storage.requester import Answer, Requester
from operations.managers import NAME, ReleaseManager, make, mirror
from operations.reading import below, on_disk, published
from operations.stores import FaultyEnvironment, MeanwhileEnvironment

LONG_AGO = CLOCK_MARGIN + 5
NO_TIMES = b"""{"version": 1, "holder": "x", "transaction": "x", "path": "", "base_revision": 1, "session": "x",
    "acquired": "now", "expires": "soon"}"""


def begin(manager: ReleaseManager, path: str = "") -> Session:
    return open_transaction(manager.environment, NAME, path)


def finish(
    manager: ReleaseManager, *changes: Change, environment: Environment | None = None, **options: str
) -> PublishResult:
    return publish(environment or manager.environment, NAME, ChangeSet(changes), PublishOptions(**options))  # type: ignore[arg-type]


def session_of(manager: ReleaseManager) -> Session | None:
    return find_session(manager.environment, manager.environment.settings(NAME))


def test_of_all_who_want_a_lease_one_gets_it(manager: ReleaseManager) -> None:
    managers = [manager, *(manager.another(f"manager-{number}") for number in range(5))]
    for _ in range(3):
        barrier = threading.Barrier(len(managers))
        won: list[ReleaseManager] = []
        lost: list[ReleaseManager] = []

        def race(one: ReleaseManager, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                begin(one)
            except LeaseHeld:
                lost.append(one)  # noqa: B023
            else:
                won.append(one)  # noqa: B023

        threads = [threading.Thread(target=race, args=(one,)) for one in managers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(lost) == len(managers) - 1
        session = session_of(won[0])
        lease = won[0].lease()
        assert session is not None
        assert lease is not None
        assert lease.transaction == session.id
        assert all(session_of(one) is None for one in lost)
        abort(won[0].environment, NAME)


def test_nobody_else_publishes_meanwhile(manager: ReleaseManager, source: Path) -> None:
    other = manager.another("other")
    begin(manager)
    for attempt in (
        lambda: begin(other),
        lambda: other.ingest(mirror(source)),
        lambda: tags.add(other.environment, NAME, "mine"),
        lambda: tags.remove(other.environment, NAME, ["mine"]),
        lambda: resign_manifest(other.environment, NAME),
    ):
        before = other.state()
        with pytest.raises(LeaseHeld, match=r"has a transaction open: .* began it at"):
            attempt()
        assert other.state() == before
    for attempt in (lambda: begin(manager), lambda: tags.add(manager.environment, NAME, "mine")):
        with pytest.raises(InTransaction, match="open here"):
            attempt()
    assert finish(manager, mirror(source)).revision == 2


def test_the_whitelist_can_be_signed_meanwhile(manager: ReleaseManager) -> None:
    begin(manager)
    resign_whitelist(manager.another("other").environment, NAME)
    resign_whitelist(manager.environment, NAME, days=7)
    assert finish(manager, Deletion(b"new_repository")).revision == 2
    assert published(manager).revision == 2


def test_a_lasting_transaction_outlives_its_host(manager: ReleaseManager, source: Path) -> None:
    """Nobody publishes until it is aborted, whoever has opened it, and though nobody renews its lease."""
    other, third = manager.another("other"), manager.another("third")
    begin(other)
    manager.refuses("transaction", "--lasting", says=["has a transaction open"], code=errno.EBUSY)
    other.refuses("transaction", "--lasting", says=["has the transaction"], code=errno.EEXIST)
    abort(other.environment, NAME)
    opened = other.server("transaction", "--lasting", "--json").succeeded().document
    assert session_of(other) is None
    shutil.rmtree(other.base)
    again = third.server("transaction", "--lasting", "--json").succeeded().document
    assert (again["id"], again["opened"]) == (opened["id"], opened["opened"])
    before = manager.state()
    for arguments in (["transaction"], ["ingest", "--directory", str(source), "-b", "sw"], ["gc", "-f"]):
        assert "is not published to any more: " in manager.server(*arguments).stderr
    assert manager.state() == before
    manager.server("resign", "-f").succeeded()  # the whitelist, which Stratum 1 servers go on needing
    third.refuses("abort", "--transaction", opened["id"], says=["has no transaction open here"])
    third.server("abort", "-f").succeeded()
    manager.ingest(mirror(source))


def test_an_expired_lease_goes_to_the_next(manager: ReleaseManager, source: Path) -> None:
    other = manager.another("other")
    begin(manager)
    manager.expire_lease(CLOCK_MARGIN - 30)
    with pytest.raises(LeaseHeld):
        begin(other)
    manager.expire_lease(LONG_AGO)
    begin(other)
    before = manager.state()
    with pytest.raises(LeaseHeld):
        finish(manager, Deletion(b"new_repository"))
    assert manager.state() == before
    assert finish(other, mirror(source)).revision == 2
    with pytest.raises(PublisherError):
        finish(manager, Deletion(b"new_repository"))
    assert published(manager).revision == 2
    abort(manager.environment, NAME)
    assert session_of(manager) is None
    assert finish_anew(manager).revision == 3


def finish_anew(manager: ReleaseManager) -> PublishResult:
    begin(manager)
    return finish(manager, Deletion(b"new_repository"))


def test_an_expired_lease_that_nobody_took_is_still_good(manager: ReleaseManager, source: Path) -> None:
    begin(manager)
    manager.expire_lease(100_000)
    assert finish(manager, mirror(source)).revision == 2


def test_a_broken_lease_stops_its_holder(manager: ReleaseManager, source: Path) -> None:
    session = begin(manager)
    other = manager.another("other")
    with pytest.raises(NotInTransaction):
        abort(other.environment, NAME)
    with pytest.raises(NotInTransaction):
        abort(other.environment, NAME, transaction_id=session.id, force=True)
    abort(other.environment, NAME, force=True)
    before = manager.state()
    with pytest.raises(NotInTransaction, match="its lease has ended"):
        finish(manager, mirror(source))
    assert manager.state() == before
    abort(manager.environment, NAME)
    with pytest.raises(NotInTransaction):
        abort(manager.environment, NAME)
    with pytest.raises(NotInTransaction):
        abort(manager.environment, NAME, force=True)


@pytest.mark.parametrize("key", ["data/", ".cvmfs_publishing_lease", ".cvmfspublished"])
def test_a_lease_that_is_lost_in_the_middle(manager: ReleaseManager, source: Path, key: str) -> None:
    """Whenever it is broken, and whether or not somebody else publishes, nothing is lost or mixed up."""
    other = manager.another("other")
    begin(manager)

    def take_over() -> None:
        abort(other.environment, NAME, force=True)
        other.ingest(Deletion(b"new_repository"))

    environment = MeanwhileEnvironment(manager, key, take_over)
    with pytest.raises((NotInTransaction, LeaseHeld, ConcurrentPublish)) as caught:
        finish(manager, mirror(source), environment=environment)
    assert caught.value.remedy
    found = published(manager)
    assert found.revision == 2
    assert found.tree.keys() == {b""}
    manager.check()
    assert manager.lease().is_released  # type: ignore[union-attr]
    abort(manager.environment, NAME, force=True)
    assert manager.ingest(mirror(source)).revision == 3
    assert below(published(manager).tree, b"sw") == on_disk(source)
    manager.check()


def test_a_publish_after_somebody_elses(manager: ReleaseManager, source: Path) -> None:
    """Who writes past the lease, as CernVM-FS's own tools do, is noticed."""
    begin(manager)
    other = manager.another("other")
    abort(other.environment, NAME, force=True)
    other.ingest(Deletion(b"new_repository"))
    session = session_of(manager)
    assert session is not None
    with manager.store() as store:  # as if the lease had never been broken
        lease = json.loads(store.get(LEASE_KEY))
        digest = hashlib.sha256(session.token.encode()).hexdigest()
        store.put(LEASE_KEY, json.dumps({**lease, "is_released": False, "session": digest}).encode())
    with pytest.raises(ConcurrentPublish, match="is at revision 2; the transaction began with revision 1"):
        finish(manager, mirror(source))
    assert published(manager).revision == 2


def test_another_transaction_is_left_alone(manager: ReleaseManager, source: Path) -> None:
    session = begin(manager)
    before = manager.state()
    for attempt in (
        lambda: finish(manager, mirror(source), transaction_id="somebody-elses"),
        lambda: abort(manager.environment, NAME, transaction_id="somebody-elses"),
        lambda: abort(manager.environment, NAME, transaction_id="somebody-elses", force=True),
    ):
        with pytest.raises(NotInTransaction, match=f"is {session.id}, not somebody-elses"):
            attempt()
        assert manager.state() == before
    assert finish(manager, mirror(source), transaction_id=session.id).revision == 2


def test_a_publish_needs_a_transaction(manager: ReleaseManager, source: Path) -> None:
    before = manager.state()
    with pytest.raises(
        NotInTransaction, match=f"has no transaction open here. Open one: cvmfs_server transaction {NAME}"
    ):
        finish(manager, mirror(source))
    assert manager.state() == before


def test_a_transaction_for_a_part(manager: ReleaseManager, source: Path) -> None:
    manager.ingest(mirror(source, "a/b"))
    begin(manager, "a/b")
    before = manager.state()
    for change in (mirror(source, "a"), mirror(source, ""), mirror(source, "a/bc"), Deletion(b"a"), Deletion(b"c")):
        with pytest.raises(UsageError, match="is outside /a/b"):
            finish(manager, change)
        assert manager.state() == before
    assert finish(manager, mirror(source, "a/b/c"), Deletion(b"a/b/README")).revision == 3


def test_the_lease_is_renewed_during_long_publishes(
    manager: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_RENEW_EVERY", 0.05)
    begin(manager)
    manager.expire_lease(5)
    seen: list[int] = []

    def look() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (seen and seen[-1] > time.time()):
            seen.append(manager.lease().expires)  # type: ignore[union-attr]
            time.sleep(0.02)

    finish(manager, mirror(source), environment=MeanwhileEnvironment(manager, "data/", look))
    assert seen[-1] > time.time()


def test_who_keeps_a_lease_keeps_its_connections(manager: ReleaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renewal is a request; only what went wrong makes it begin anew."""
    session = begin(manager)
    environment = manager.environment
    opened: list[ObjectStore] = []

    def store(settings: ServerConfig) -> ObjectStore:
        opened.append(Environment.store(environment, settings))
        return opened[-1]

    monkeypatch.setattr(environment, "store", store)
    with contextlib.closing(SessionLease(environment, session)) as lease:
        for _ in range(3):
            manager.expire_lease(5)  # somebody else writes it, too, and so it has another version each time
            lease.renew()
            assert manager.lease().expires > time.time()  # type: ignore[union-attr]
        assert len(opened) == 1
        manager.another("other").server("abort", "-f").succeeded()
        for _ in range(2):
            with pytest.raises(NotInTransaction):
                lease.renew()
        assert len(opened) == 2


def test_a_lease_that_cannot_be_given_back_is_a_warning(manager: ReleaseManager, source: Path) -> None:
    """What is published is published."""
    manager.ingest(Deletion(b"new_repository"))
    trouble = StorageError("The storage has a bad day")
    # The lease is written when it is taken, at the beginning, before the commit, and when it is given back
    plan = [Fault(nth=4, operations=("put_if_match",), keys=LEASE_KEY, error=trouble)]
    environment = FaultyEnvironment(manager, plan)
    result = ingest(environment, NAME, ChangeSet((mirror(source),)), PublishOptions())
    assert result.revision == 3
    assert [warning.partition(":")[0] for warning in result.warnings] == [
        "The lease was not given back, and ends by itself within 4 minutes"
    ]
    assert published(manager).revision == 3
    assert session_of(manager) is None
    manager.expire_lease(LONG_AGO)
    manager.ingest(Deletion(b"sw"))


def test_an_abort_takes_no_room(s3: ReleaseManager) -> None:
    s3.server("transaction").succeeded()
    command = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *s3.argv("abort", "-f")]
    done = subprocess.run(command, env=s3.process_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    s3.server("transaction").succeeded()


def test_the_error_that_is_told_is_the_first_one(manager: ReleaseManager, source: Path) -> None:
    manager.ingest(Deletion(b"new_repository"))
    first, second = StorageError("The first error"), StorageError("The second error")
    plan = [
        Fault(operations=("put",), keys="data/*", error=first),
        Fault(nth=3, times=99, operations=("put_if_match",), keys=LEASE_KEY, error=second),
    ]
    with pytest.raises(StorageError, match="The first error"):
        ingest(FaultyEnvironment(manager, plan), NAME, ChangeSet((mirror(source),)), PublishOptions())
    assert session_of(manager) is None
    assert published(manager).revision == 2


def test_the_token_is_secret(manager: ReleaseManager) -> None:
    session = begin(manager)
    assert session.token not in repr(session)
    assert session.token not in json.dumps(session.public())
    with manager.store() as store:
        assert session.token.encode() not in store.get(LEASE_KEY)
    (file,) = manager.spool.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert session.token in file.read_text()


def test_who_was_aborted_leaves_the_next_transaction_alone(manager: ReleaseManager, source: Path) -> None:
    following: list[Session] = []

    def abort_and_begin() -> None:
        abort(manager.environment, NAME)
        following.append(begin(manager))

    environment = MeanwhileEnvironment(manager, "data/", abort_and_begin)
    with pytest.raises(LeaseHeld):
        ingest(environment, NAME, ChangeSet((mirror(source),)), PublishOptions())
    assert session_of(manager) == following[0]
    assert finish(manager, mirror(source), transaction_id=following[0].id).revision == 2


def test_an_ingest_opens_the_storage_once(
    manager: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs a connection, and the trial of how conditions are taken."""
    opened = []
    open_store = Environment.store

    def store(self: Environment, settings: ServerConfig) -> ObjectStore:
        opened.append(settings.repository)
        return open_store(self, settings)

    monkeypatch.setattr(Environment, "store", store)
    ingest(manager.environment, NAME, ChangeSet((mirror(source),)), PublishOptions())
    assert opened == [NAME]


def test_an_ingest_takes_few_requests(s3: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    request = Requester.request

    def note(self: Requester, method: str, target: str, *arguments: Any, **options: Any) -> Answer:
        requests.append(f"{method} {target}")
        return request(self, method, target, *arguments, **options)

    monkeypatch.setattr(Requester, "request", note)
    ingest(s3.environment, NAME, ChangeSet((mirror(make(tmp_path / "one", file="1")),)), PublishOptions())
    assert len(requests) <= 30, requests


def test_a_session_file_that_is_damaged(manager: ReleaseManager) -> None:
    begin(manager)
    (file,) = manager.spool.iterdir()
    says = ["The session file", str(file), "remove that file, then cvmfs_server abort -f"]
    for damaged in ("", "{}", "[]", '{"id": "x"', "\0"):
        file.write_text(damaged)
        for command in ("publish", "transaction"):
            manager.refuses(command, says=says)
    file.unlink()
    manager.server("abort", "-f").succeeded()
    assert finish_anew(manager).revision == 2


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[1]", b"\xff", b'{"version": 99}', NO_TIMES])
def test_a_lease_object_that_is_damaged(manager: ReleaseManager, damaged: bytes) -> None:
    with manager.store() as store:
        store.put(LEASE_KEY, damaged)
    for command in ("transaction", "abort", "ingest"):
        arguments = {"abort": ["-f"], "ingest": ["-d", "x"], "transaction": []}[command]
        outcome = manager.server(command, *arguments)
        assert outcome.code == 1
        assert f"{LEASE_KEY} is no lease" in outcome.stderr
        assert "If nobody is publishing, delete that object" in outcome.stderr
        assert not list(manager.spool.iterdir())


def test_a_lost_lease_calls_the_publish_off(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still to be uploaded would be in vain."""
    monkeypatch.setattr(transaction, "_RENEW_EVERY", 0.05)
    large = make(tmp_path / "large", **{f"f{number}": f"{number}" for number in range(400)})
    other = local.another("other")
    slow = [Fault(operations=("put",), keys="data/*", delay=0.05, times=10_000)]
    environment = MeanwhileEnvironment(
        local, "data/", lambda: abort(other.environment, NAME, force=True), nth=20, plan=slow
    )
    open_transaction(environment, NAME)
    with pytest.raises(NotInTransaction):
        publish(environment, NAME, ChangeSet((mirror(large),)), PublishOptions())
    assert 20 <= len(environment.written) < 400
