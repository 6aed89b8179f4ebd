# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: one holder at a time, whatever happens to it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from faults import Fault, FaultyStore

from cvmfs_publisher.errors import CorruptObject, EndpointUnreachable, LeaseHeld, NotInTransaction
from cvmfs_publisher.repository import Lease
from cvmfs_publisher.repository.lease import (
    CLOCK_MARGIN,
    LEASE_KEY,
    LIFETIME,
    break_lease,
    new_session,
    peek,
)
from cvmfs_publisher.storage import LocalStore

from .conftest import NAME


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def acquire(
    store: LocalStore | FaultyStore,
    clock: Clock,
    session: str = "mine",
    holder: str = "alice@host",
    base_revision: int = 7,
) -> Lease:
    return Lease.acquire(
        store,
        NAME,
        session=session,
        holder=holder,
        transaction="id-1",
        base_revision=base_revision,
        clock=clock,
    )


def test_one_holder_at_a_time(store: LocalStore, clock: Clock) -> None:
    lease = acquire(store, clock)
    with pytest.raises(LeaseHeld) as caught:
        acquire(store, clock, "other")
    assert str(caught.value) == (
        "test.example.org has a transaction open: alice@host began it at 2023-11-14 22:13:20 UTC, and its lease lasts "
        "until 2023-11-14 22:16:20 UTC unless it is renewed. Wait for its end; if its holder is gone, break it: "
        "cvmfs_server abort -f test.example.org."
    )
    lease.release()
    acquire(store, clock, "other").release()
    info = peek(store)
    assert info is not None
    assert info.is_released


def test_the_secret_is_not_in_the_bucket(store: LocalStore, clock: Clock) -> None:
    session = new_session()
    acquire(store, clock, session)
    data = store.get(LEASE_KEY)
    assert session.encode() not in data
    assert json.loads(data)["holder"] == "alice@host"
    assert len(session) >= 32


def test_a_lease_expires_and_can_be_renewed(store: LocalStore, clock: Clock) -> None:
    lease = acquire(store, clock)
    clock.now += LIFETIME - 1
    lease.renew()
    clock.now += LIFETIME + CLOCK_MARGIN
    with pytest.raises(LeaseHeld):
        acquire(store, clock, "other")
    lease.renew()  # late, but nobody has taken it
    clock.now += LIFETIME + CLOCK_MARGIN + 1
    other = acquire(store, clock, "other", holder="bob@host")
    with pytest.raises(LeaseHeld, match="bob@host"):
        lease.renew()
    lease.release()  # does not take it from bob
    other.renew()
    other.release()
    with pytest.raises(NotInTransaction, match="cvmfs_server transaction"):
        lease.renew()


def test_another_process_goes_on(store: LocalStore, clock: Clock) -> None:
    first = acquire(store, clock, "secret")
    second = Lease.resume(store, NAME, "secret", clock)
    assert second.info == first.info
    clock.now += 10
    second.renew()
    first.renew()
    second.renew()
    with pytest.raises(LeaseHeld):
        Lease.resume(store, NAME, "guessed", clock)
    first.release()
    for session in ("secret", "guessed"):
        with pytest.raises(NotInTransaction):
            Lease.resume(store, NAME, session, clock)
    with pytest.raises(NotInTransaction):
        second.renew()


def test_there_may_never_have_been_a_lease(store: LocalStore, clock: Clock) -> None:
    assert peek(store) is None
    assert break_lease(store) is None
    with pytest.raises(NotInTransaction):
        Lease.resume(store, NAME, "x", clock)


def test_a_lease_can_be_broken(store: LocalStore, clock: Clock) -> None:
    lease = acquire(store, clock)
    broken = break_lease(store, clock)
    assert broken is not None
    assert broken.holder == "alice@host"
    assert break_lease(store, clock) is None
    with pytest.raises(NotInTransaction):
        lease.renew()
    acquire(store, clock, "other")


def test_a_lease_that_is_no_transactions_ends_no_earlier_for_being_broken(store: LocalStore, clock: Clock) -> None:
    """Its holder may be deleting, and what storage has accepted cannot be called back."""
    lease = acquire(store, clock, base_revision=0)
    clock.now += 100
    lease.renew()
    end = clock.now + LIFETIME + CLOCK_MARGIN
    clock.now += 1
    broken = break_lease(store, clock)
    assert broken is not None
    assert (broken.holder, broken.free_from, broken.is_broken) == ("alice@host", end, True)
    assert break_lease(store, clock) == broken
    with pytest.raises(LeaseHeld, match="was broken"):
        lease.renew()
    with pytest.raises(LeaseHeld, match="was broken"):
        Lease.resume(store, NAME, "mine", clock)
    with pytest.raises(LeaseHeld, match="was broken"):
        Lease.resume(store, NAME, "", clock)
    lease.release()
    clock.now = end
    for session in ("mine", "other"):
        with pytest.raises(LeaseHeld, match="Until 2023-11-14 22:19:00 UTC, storage may carry out what was being"):
            acquire(store, clock, session)
    clock.now += 1
    other = acquire(store, clock, "other", base_revision=0)
    with pytest.raises(LeaseHeld, match="has a transaction open"):
        lease.renew()
    clock.now = other.info.free_from + 1
    ended = break_lease(store, clock)
    assert ended is not None
    assert ended.is_released


def test_a_lasting_lease_ends_by_being_broken(store: LocalStore, clock: Clock) -> None:
    moment = clock.now
    Lease.acquire(
        store, NAME, session="x", holder="a", transaction="id-1", base_revision=7, is_lasting=True, clock=clock
    )
    clock.now += 50 * 365 * 86400
    with pytest.raises(LeaseHeld) as caught:
        acquire(store, clock, "other")
    assert str(caught.value) == (
        "test.example.org is not published to any more: a has a lasting transaction open since 2023-11-14 22:13:20 "
        "UTC, as when a repository was moved. Publish where it is now; to go on here, abort it: "
        "cvmfs_server abort -f test.example.org."
    )
    info = peek(store)
    assert info is not None
    assert (info.is_lasting, info.acquired) == (True, moment)
    broken = break_lease(store, clock)
    assert broken is not None
    assert (broken.is_lasting, broken.is_released) == (False, True)
    assert not acquire(store, clock, "other").info.is_lasting


def test_other_versions_read_it(store: LocalStore, clock: Clock) -> None:
    """The first one refuses what has more fields, and knows of no broken leases."""
    lease = acquire(store, clock, base_revision=0)
    break_lease(store, clock)
    document = json.loads(store.get(LEASE_KEY))
    names = "version holder transaction path base_revision acquired expires session is_released"
    assert sorted(document) == sorted(names.split())
    assert (document["version"], document["is_released"], document["expires"]) == (1, False, lease.info.expires)
    store.put(LEASE_KEY, json.dumps({**document, "of_a_later_version": 1}).encode())
    info = peek(store)
    assert info is not None
    assert info.is_broken


def test_one_winner_of_a_race(store: LocalStore, clock: Clock) -> None:
    for _ in range(20):
        won: list[Lease] = []
        lost: list[LeaseHeld] = []
        barrier = threading.Barrier(8)

        def compete(
            number: int, won: list[Lease] = won, lost: list[LeaseHeld] = lost, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            try:
                won.append(acquire(store, clock, f"session {number}"))
            except LeaseHeld as error:
                lost.append(error)

        threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7)
        won[0].release()


def test_a_lost_answer_does_not_lose_the_lease(store: LocalStore, clock: Clock) -> None:
    lost = EndpointUnreachable("the answer was lost")
    faulty = FaultyStore(store, [Fault(operations=("put_if_absent",), error=lost, done=True)])
    with pytest.raises(EndpointUnreachable):
        acquire(faulty, clock)
    assert acquire(faulty, clock).info.holder == "alice@host"


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "holder": "x"}'])
def test_what_is_no_lease_is_named(store: LocalStore, clock: Clock, data: bytes) -> None:
    store.put(LEASE_KEY, data)
    with pytest.raises(CorruptObject, match="is no lease"):
        acquire(store, clock)


def test_a_lease_that_was_given_back_is_not_renewed(store: LocalStore, clock: Clock) -> None:
    """Nor does a thread that knows nothing of it get a permit that lasts."""
    lease = acquire(store, clock)
    lease.release()
    clock.now += 10
    with pytest.raises(NotInTransaction):
        lease.renew()
    assert lease.permit().expires == clock.now - 10
