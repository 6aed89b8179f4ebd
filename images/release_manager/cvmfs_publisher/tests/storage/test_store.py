# SPDX-License-Identifier: GPL-3.0-or-later
"""What all stores have in common, on a directory and on a real S3 service."""

from __future__ import annotations

import threading

import pytest

from cvmfs_publisher.errors import ObjectNotFound, PreconditionFailed
from cvmfs_publisher.storage import ObjectStore, Version, preflight

CONTENT = [b"", b"x", b"hello\r\n\r\n", bytes(range(256)) * 5000]


@pytest.mark.parametrize("data", CONTENT, ids=len)
@pytest.mark.parametrize("key", [".cvmfspublished", "data/ab/cdef01C", "info/v1/meta.json", "with space/ü+%&=?"])
def test_reads_what_was_written(store: ObjectStore, key: str, data: bytes) -> None:
    version = store.put(key, memoryview(data))
    assert store.get(key) == data
    assert store.get_versioned(key) == (data, version)
    assert store.exists(key)
    assert store.size(key) == len(data)


def test_replaces(store: ObjectStore) -> None:
    old = store.put(".cvmfspublished", b"old")
    new = store.put(".cvmfspublished", bytearray(b"new"))
    assert old != new
    assert store.get(".cvmfspublished") == b"new"


def test_says_what_is_missing(store: ObjectStore) -> None:
    assert not store.exists("data/00/nothing")
    assert store.size("data/00/nothing") is None
    with pytest.raises(ObjectNotFound, match="nothing"):
        store.get("data/00/nothing")
    with pytest.raises(ObjectNotFound, match="nothing"):
        store.get_versioned("data/00/nothing")


def test_deletes_what_may_be_missing(store: ObjectStore) -> None:
    store.put("data/00/a", b"a")
    store.delete("data/00/a")
    store.delete("data/00/a")
    store.delete("data/99/never")
    assert not store.exists("data/00/a")


def test_creates_only_what_is_absent(store: ObjectStore) -> None:
    version = store.put_if_absent("lease", b"mine")
    with pytest.raises(PreconditionFailed, match="lease"):
        store.put_if_absent("lease", b"yours")
    assert store.get_versioned("lease") == (b"mine", version)
    store.delete("lease")
    store.put_if_absent("lease", b"yours")


def test_replaces_only_the_version_it_knows(store: ObjectStore) -> None:
    first = store.put("manifest", b"1")
    second = store.put_if_match("manifest", b"2", first)
    with pytest.raises(PreconditionFailed, match="manifest"):
        store.put_if_match("manifest", b"3", first)
    assert store.get_versioned("manifest") == (b"2", second)


def test_replaces_no_missing_object(store: ObjectStore) -> None:
    version = store.put("manifest", b"1")
    store.delete("manifest")
    with pytest.raises(PreconditionFailed):
        store.put_if_match("manifest", b"2", version)
    with pytest.raises(PreconditionFailed):
        store.put_if_match("never", b"2", Version("0" * 32))
    assert not store.exists("manifest")


@pytest.mark.usefixtures("no_thread_leaks")
def test_orders_concurrent_writers(store: ObjectStore) -> None:
    """Of writers who start from the same version, exactly one wins each round."""
    version = store.put("manifest", b"start")
    for turn in range(5):
        outcomes: list[Version | None] = []
        barrier = threading.Barrier(8)

        def write(number: int, turn: int = turn, seen: Version = version) -> None:
            barrier.wait()  # noqa: B023
            try:
                outcomes.append(store.put_if_match("manifest", f"{turn} {number}".encode(), seen))  # noqa: B023
            except PreconditionFailed:
                outcomes.append(None)  # noqa: B023

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [outcome for outcome in outcomes if outcome is not None]
        assert len(outcomes) == 8
        assert len(winners) == 1
        version = winners[0]
        assert store.get_versioned("manifest")[1] == version


def test_lists(store: ObjectStore) -> None:
    keys = {"data/00/a", "data/00/bC", "data/01/c", ".cvmfspublished", ".cvmfswhitelist", "info/v1/meta.json"}
    for key in keys:
        store.put(key, key.encode())
    assert {item.key for item in store.list("")} == keys
    assert {item.key for item in store.list("data/00/")} == {"data/00/a", "data/00/bC"}
    assert {item.key for item in store.list(".cvmfsw")} == {".cvmfswhitelist"}
    assert not list(store.list("nothing/"))
    item = next(iter(store.list("data/00/b")))
    assert item.size == len("data/00/bC")
    assert item.last_modified.tzinfo is not None


def test_lists_more_than_one_page(store_s3: ObjectStore) -> None:
    def write(start: int) -> None:
        for number in range(start, 1100, 4):
            store_s3.put(f"data/{number % 256:02x}/{number}", b"")

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.key for item in store_s3.list("data/")}) == 1100


def test_leaves_nothing_of_a_preflight(store: ObjectStore) -> None:
    report = preflight(store)
    assert report.store == store.describe()
    assert not list(store.list(""))
